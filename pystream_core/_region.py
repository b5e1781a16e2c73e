"""A serial pipeline in one piece, so that a placement can take it elsewhere: several stages, one
crossing."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from ._errors import PlanError, StageError
from ._inside import EndedInside
from ._plan import Description, StageOptions
from ._stage import Stage, StageFactory


class Part(NamedTuple):
    """One ``add`` of the pipeline.

    Attributes:
        stage: what was added; of a pipeline, its parts.
    """

    name: str
    stage: Any
    options: dict[str, Any]


def region(pipeline: Description, label: str, workers: int) -> StageFactory:
    """What makes the pipeline anew where it is placed, for each worker.

    Raises:
        PlanError: it cannot be placed as a whole, with what to do instead.
    """
    if pipeline.mode != "serial":
        raise PlanError(
            f"stage {label!r} is a pipeline that is not serial, so it cannot be placed as a whole: "
            f"call its serialize() first, or give placement to the stages inside it"
        )
    if workers > 1:
        _refuse_objects(pipeline, label, workers)
    return StageFactory(build, {"parts": _parts(pipeline, label)})


def build(parts: tuple[Part, ...], path: tuple[str, ...]) -> Stage[Any]:
    """The stage that runs all of them, one after another; it has this path."""
    return Region(_pipeline_of(parts, path))


class Region(Stage[Any]):
    """Runs one item through the pipeline at each call; what ends there it raises as
    ``EndedInside``, except that ``SKIP`` is ``SKIP``."""

    def __init__(self, stage: Stage[Any]) -> None:
        self._stage = stage

    def setup(self) -> None:
        """Set all of them up."""
        try:
            self._stage.setup()
        except StageError as error:
            raise EndedInside(str(error), path=error.path) from error.__cause__

    def __call__(self, data: Any) -> Any:
        """Call one after another."""
        return self._stage(data)

    def cleanup(self) -> None:
        """Clean all of them up."""
        self._stage.cleanup()


def _pipeline_of(parts: tuple[Part, ...], path: tuple[str, ...] = ()) -> Stage[Any]:
    from ._pipeline import Pipeline

    pipeline = Pipeline()
    pipeline._description.stands_for = path
    for name, stage, options in parts:
        inside = type(stage) is tuple
        pipeline.add(_pipeline_of(stage) if inside else stage, name=name, **options)
    return pipeline.serialize().as_stage()


def _refuse_objects(pipeline: Description, label: str, workers: int) -> None:
    for entry in pipeline.entries:
        if entry.child is not None:
            _refuse_objects(entry.child, label, workers)
        elif entry.stage is not None:
            kind = type(entry.stage).__name__
            raise PlanError(
                f"stage {label!r} is a pipeline whose stage {entry.name!r} is one Stage object, "
                f"which workers={workers} would share: add its class, or factory({kind}, ...)"
            )


def _parts(pipeline: Description, label: str) -> tuple[Part, ...]:
    found = []
    for entry in pipeline.entries:
        options = {each.name: getattr(entry.options, each.name) for each in fields(StageOptions)}
        if entry.child is not None:
            found.append(Part(entry.name, _parts(entry.child, label), options))
            continue
        spec = entry.spec
        assert spec is not None  # an entry has one of the two
        if spec.kind == "generator" or spec.batching:
            what = "keeps items" if spec.batching else "is a generator"
            raise PlanError(
                f"stage {label!r} is a pipeline that is to be placed as a whole, but its stage "
                f"{entry.name!r} {what}: there one item has to give one. Give placement to the "
                f"stages inside it that are to be placed"
            )
        if options.pop("placement") is not None:
            raise PlanError(
                f"stage {label!r} is a pipeline that is to be placed as a whole, so its stage "
                f"{entry.name!r} cannot have a placement of its own: leave out one of the two"
            )
        found.append(Part(entry.name, spec.make() if spec.shared else spec.make, options))
    return tuple(found)
