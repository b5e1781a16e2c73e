# pyright: standard
"""Code that says nothing about types: no checker asks anything of it."""

import pystream

count = 0


def camera():
    global count
    count += 1
    if count > 10:
        raise StopIteration
    return count


def finished():
    raise StopIteration


def double(item):
    return item * 2


class Blur(pystream.Stage):
    def __init__(self, radius=3):
        self.radius = radius

    def __call__(self, data):
        return data + self.radius

    def cleanup(self):
        pass


class Typed(pystream.Stage[int]):
    def __call__(self, data: int) -> int:
        return data

    def cleanup(self) -> None:
        pass


class App:
    def __init__(self):
        self.pipeline = None
        self.latest = None

    def start(self):
        self.pipeline = pystream.Pipeline(camera, use_profiler=True)
        self.pipeline.add(double)
        self.pipeline.add(Blur(), name="blur")
        self.pipeline.add(Typed())
        self.pipeline.parallelize(block_input=False)
        self.pipeline.start_loop(0.1)
        self.latest = self.pipeline.get_results()


def show(pipeline: pystream.Pipeline) -> None:
    print(pipeline.get_results().shape)
    pipeline.forward("anything")


pipeline = pystream.Pipeline()
pipeline.add(lambda number: pystream.SKIP if number % 3 else number)
pipeline.add(pystream.factory(Blur, radius=5))
pipeline.add(pystream.stage("count"))
pipeline.serialize()
pipeline.forward(1)
pipeline.forward(None)
print(pipeline.get_results() + 1)
for item in pipeline.stream(range(3)):
    print(item.shape)
pipeline.run([1, "two"])
print(pipeline.as_stage()(3).shape)
outer = pystream.Pipeline()
outer.add(pipeline.as_stage(), "inner")
latency, throughput = outer.get_profiles()
print(latency["MainPipeline"] + 1)
show(pystream.Pipeline(finished))
pystream.Pipeline(finished).forward(1)
pystream.Pipeline(None, True).forward("one")
