"""Live: the newest frame wins. Old frames are dropped at a slow stage, never queued up.

A camera-like source ticks every 10 ms; the analysis takes longer. Results are read while it
runs; what was dropped or too old is counted, not hidden.
"""

import itertools
import time

import pystream


def analyse(frame: int) -> str:
    time.sleep(0.03)  # stands for a model that is slower than the camera
    return f"result of frame {frame}"


def main() -> None:
    camera = itertools.count()
    pipeline = pystream.Pipeline(input_generator=lambda: next(camera))
    pipeline.add(analyse, capacity=1, overflow="drop_oldest", max_age=0.1)
    with pipeline.parallelize(block_output=True, output_timeout=1):
        pipeline.start_loop(period=0.01)
        for _ in range(10):
            print(pipeline.get_results())
        pipeline.stop_loop()
    print(pipeline.statistics())


if __name__ == "__main__":
    main()
