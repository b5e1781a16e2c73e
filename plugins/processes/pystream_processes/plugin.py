"""What this distribution offers to PyStream; light, the placement is imported on first use."""

from pystream_core import PlacementSpec, hookimpl


@hookimpl
def pystream_placements() -> list[PlacementSpec]:
    """The placement in worker processes."""
    return [
        PlacementSpec(
            name="process",
            factory="pystream_processes:ProcessPlacement",
            summary="each worker's calls in a process of its own, frames in shared memory",
        )
    ]
