"""Motion detection on a real video: read, resize, find motion, write. As motion.toml does.

python docs/examples/motion.py [INPUT] [OUTPUT]
"""

import sys
from pathlib import Path

import pystream

CLIP = Path(__file__).parent / "data" / "big_buck_bunny.mp4"


def main(clip: str = str(CLIP), target: str = "motion.mp4") -> None:
    pipeline = pystream.Pipeline(use_profiler=True)
    pipeline.add(pystream.stage("video.resize", width=640), "Resize")
    pipeline.add(pystream.stage("video.motion"), "Motion")
    pipeline.add(pystream.stage("video.write", path=target, rate=25), "Write")
    with pipeline.parallelize():
        busy = sum(
            frame.count > 0 for frame in pipeline.stream(pystream.source("video.read", path=clip))
        )
        print(pipeline.statistics())
        profile = pipeline.profile()
    for name, stage in profile.stages.items():
        print(f"{name}: {stage.service.p50 * 1e3:.1f} ms, {stage.busy:.0%} busy")
    print(f"motion in {busy} frames; bottleneck {profile.bottleneck}; wrote {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
