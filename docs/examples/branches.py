"""Two branches over a real video: motion on one, brightness on the other, joined in one picture.

resize -> (motion, small -> gray -> brightness) -> curve -> write. As branches.toml does, which
takes `brightness` and `Curve` from here.

python docs/examples/branches.py [INPUT] [OUTPUT]
"""

import sys
from collections import deque
from pathlib import Path

import numpy as np
import pystream

CLIP = Path(__file__).parent / "data" / "big_buck_bunny.mp4"


def brightness(gray: np.ndarray) -> float:
    """How bright a gray frame is, from 0 to 1."""
    return float(gray.mean()) / 255


class Curve(pystream.Stage):
    """Draw the brightness so far below the picture, from the darkest to the brightest.

    It follows both branches, so its input is a tuple with the outputs of the same frame. It
    remembers what it drew: use one worker.
    """

    def __init__(self, height: int = 72) -> None:
        """Lay out the curve.

        Args:
            height: lines of the strip below the picture.
        """
        self._height = height
        self._values: deque[float] = deque(maxlen=500)

    def __call__(self, data: tuple[np.ndarray, float]) -> np.ndarray:
        """The picture with the strip below it, a frame of its own: whatever else follows a
        stage gets the same object, so a frame that was given is never drawn into."""
        picture, value = data
        self._values.append(value)
        width, lowest = picture.shape[1], self._height - 5
        strip = np.full((self._height, width, 3), (22, 26, 34), np.uint8)
        for part in (0.0, 0.25, 0.5, 0.75, 1.0):
            strip[8 + round(part * (lowest - 8))] = (52, 60, 74)
        known = min(width, 4 * len(self._values))  # 4 pixels for each frame
        at = np.arange(len(self._values))[-(known // 4) :] * 4.0
        values = np.array(self._values)[-len(at) :]
        least, most = values.min(), values.max()  # the strip shows the range seen so far
        scaled = (values - least) / max(most - least, 0.01)
        columns = lowest - np.interp(np.arange(known) + at[0], at, scaled) * (lowest - 8)
        slope = np.abs(np.gradient(columns)) if known > 1 else np.zeros(known)
        lines = np.arange(self._height)[:, None]
        strip[:, :known][lines > columns] = (44, 66, 84)
        strip[:, :known][np.abs(lines - columns) <= 1 + slope / 2] = (255, 196, 64)
        return np.concatenate([np.asarray(picture), strip])

    def cleanup(self) -> None:
        self._values.clear()


def main(clip: str = str(CLIP), target: str = "branches.mp4") -> None:
    pipeline = pystream.Pipeline(use_profiler=True)
    pipeline.add(pystream.stage("video.resize", width=640), "resize")
    pipeline.add(pystream.stage("video.motion"), "motion")
    pipeline.add(pystream.stage("video.resize", width=64), "small", after="resize")
    pipeline.add(pystream.stage("video.gray"), "gray")
    pipeline.add(brightness, "brightness")
    pipeline.add(Curve, "curve", after=["motion", "brightness"])
    pipeline.add(pystream.stage("video.write", path=target, rate=25), "write")
    print(pipeline.graph())
    with pipeline.parallelize():
        print(pipeline.run(pystream.source("video.read", path=clip)))
        profile = pipeline.profile()
    print(f"bottleneck {profile.bottleneck}; wrote {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
