"""What this distribution offers to PyStream; light, the executor is imported on first use."""

from pystream_core import ExecutorSpec, hookimpl


@hookimpl
def pystream_executors() -> list[ExecutorSpec]:
    """The threads executor."""
    return [
        ExecutorSpec(
            name="threads",
            factory="pystream_threads:ThreadsExecutor",
            summary="one thread per worker, bounded channels between stages",
        )
    ]
