"""From a pipeline file to a pipeline that can run: names are looked up and tried here."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pystream_core import (
    MAIN_PIPELINE_NAME,
    DuplicateStageName,
    InvalidStageName,
    Pipeline,
    Placement,
    PlanError,
    PluginNotFound,
    PyStreamError,
    Stage,
    StageFactory,
    factory,
    near_miss,
    placement,
    registry,
)

from ._file import PipelineFile, PlacementTable, SourceTable, StageTable, read
from ._mistakes import BadFile, Mistakes, key_lines
from ._options import signature


@dataclass(frozen=True, kw_only=True)
class Job:
    """A pipeline that is ready to run.

    Attributes:
        file: what it was built from.
        pipeline: its mode is chosen, nothing has started.
        source: its items.
        executor: name of the executor.
        profiled: whether it has a profiler.
        notes: what the user should know before it runs.
    """

    file: PipelineFile
    pipeline: Pipeline
    source: Iterable[Any]
    executor: str
    profiled: bool
    notes: tuple[str, ...] = ()
    _makers: tuple[tuple[StageTable, Any], ...] = ()

    @property
    def drain_timeout(self) -> float:
        """Seconds that admitted items get to finish."""
        seconds = float(self.file.pipeline.settings.get("drain_timeout", 10.0))
        return min(seconds, threading.TIMEOUT_MAX)

    def refused_by_stages(self) -> BadFile | None:
        """What the makers of the stages refuse, all of them; None if they refuse nothing.

        Stages are made by their workers, so a value that only a constructor can judge comes
        to light at the start, and one at a time. When that has happened this asks them all.
        """
        mistakes = _mistakes_of(self.file.path)
        _try_out(self._makers, mistakes)
        try:
            mistakes.refuse()
        except BadFile as refused:
            return refused
        return None


def load(path: Path, *, executor: str | None = None, profile: bool | None = None) -> Job:
    """Read a file and build what it says.

    Args:
        path: the pipeline file.
        executor: another executor than that of the file.
        profile: whether to profile, whatever the file says.

    Raises:
        BadFile: with everything that is wrong.
    """
    mistakes = _mistakes_of(path)
    file = read(path, mistakes)
    if str(file.folder) not in sys.path:  # where the modules of "module:attr" are looked for
        sys.path.insert(0, str(file.folder))
    wanted = profile if profile is not None else file.pipeline.profile
    pipeline, notes = _empty(file, wanted, mistakes)
    makers, fits = _add_stages(pipeline, file, mistakes)
    source = None if file.source is None else _source(file.source, mistakes)
    name = executor or file.pipeline.executor
    ready = pipeline if fits else Pipeline()  # what is wrong beside the stages is told as well
    _choose_mode(ready, file, name, mistakes, overridden=executor is not None)
    if len(mistakes):
        _try_out(makers, mistakes)
    mistakes.refuse()
    assert source is not None  # or else that was a mistake
    return Job(
        file=file,
        pipeline=pipeline,
        source=source,
        executor=name,
        profiled=wanted is not False and not notes,
        notes=notes,
        _makers=makers,
    )


def describe(path: Path) -> Pipeline:
    """Read a file and build the pipeline that it describes, to be looked at, not to be run.

    Names are looked up as by :func:`load`, and the same is wrong; but the source is not asked
    for items, and no observer is made and no stage.

    Raises:
        BadFile: with everything that is wrong.
    """
    mistakes = _mistakes_of(path)
    file = read(path, mistakes)
    if str(file.folder) not in sys.path:
        sys.path.insert(0, str(file.folder))
    for key, names in (("observers", file.pipeline.observers), ("profiler", _profiler(file))):
        for name in names:
            try:
                registry().observer(name)
            except PyStreamError as error:
                mistakes.add(("pipeline", key), str(error))
    pipeline = Pipeline()
    _, fits = _add_stages(pipeline, file, mistakes)
    if file.source is not None:
        _source_of(file.source, mistakes)
    ready = pipeline if fits else Pipeline()
    _choose_mode(ready, file, file.pipeline.executor, mistakes, overridden=False)
    mistakes.refuse()
    return pipeline


def _profiler(file: PipelineFile) -> tuple[str, ...]:
    """The profiler, if the file asks for it."""
    table = file.pipeline
    asked = table.profile or (table.profile is None and table.profiler != "sqlite")
    return (table.profiler,) if asked else ()


def _mistakes_of(path: Path) -> Mistakes:
    mistakes = Mistakes(str(path))
    with suppress(OSError, UnicodeDecodeError):
        mistakes.lines |= key_lines(path.read_text("utf-8-sig"))
    return mistakes


def _empty(
    file: PipelineFile, wanted: bool | None, mistakes: Mistakes
) -> tuple[Pipeline, tuple[str, ...]]:
    """A pipeline without stages, profiled unless that is not wanted.

    Nobody who did not ask for a profiler is refused because there is none.
    """
    table = file.pipeline
    observers = []
    for name in table.observers:
        try:
            observers.append(registry().observer(name)())
        except PyStreamError as error:
            mistakes.add(("pipeline", "observers"), str(error))
    if wanted is not False:
        try:
            return Pipeline(use_profiler=True, profiler=table.profiler, observers=observers), ()
        except PluginNotFound as error:
            if wanted is None and table.profiler == "sqlite":
                return Pipeline(observers=observers), (f"without profile: {error}",)
            mistakes.add(("pipeline", "profiler"), str(error))
        except PyStreamError as error:
            mistakes.add(("pipeline", "profiler"), str(error))
    return Pipeline(observers=observers), ()


def _add_stages(
    pipeline: Pipeline, file: PipelineFile, mistakes: Mistakes
) -> tuple[tuple[tuple[StageTable, Any], ...], bool]:
    """Add the stages; what was looked up, and whether they fit together."""
    names: dict[str, StageTable] = {}
    taken = {table.name for table in file.stages}
    makers = []
    for table in file.stages:
        before = len(mistakes)
        stage = _stage(table, mistakes)
        options = dict(table.add)
        _resolve(options, table, mistakes)
        sound = len(mistakes) == before
        if stage is not None:
            makers.append((table, stage))
        name = table.name
        if name is None:
            name = _free_name(stage, table.use, taken)
            taken.add(name)
        follows = {"after": options["after"]} if "after" in options else {}
        try:
            # A stage that is wrong keeps its place, so that the names are checked as well.
            pipeline.add(stage if sound else _nothing, name, **(options if sound else follows))
            names[name or _own_name(stage) or f"Stage_{len(names) + 1}"] = table
        except DuplicateStageName:
            message = f"another stage is called {name!r}: give this one a name of its own"
            mistakes.add((*table.place, "name"), message, called=table.called)
        except InvalidStageName as error:
            mistakes.add((*table.place, "name"), str(error), called=table.called)
        except PlanError as error:
            mistakes.add(table.place, str(error), called=table.called)
    return tuple(makers), _fit(pipeline, file, names, mistakes)


def _fit(
    pipeline: Pipeline,
    file: PipelineFile,
    names: Mapping[str, StageTable],
    mistakes: Mistakes,
) -> bool:
    """Note what is wrong with how the stages follow one another; whether anything is."""
    known = {*names, *file.left_out, *(table.name for table in file.stages)}
    fits = True
    for table in file.stages:
        for name in dict.fromkeys(table.add.get("after", ())):
            if name not in known and "" not in file.left_out:
                others = ", ".join(repr(each) for each in names)
                own = name.removeprefix(f"{MAIN_PIPELINE_NAME}__").partition("__")[0]
                message = f"there is no stage {name!r}{near_miss(own, names)}; stages: {others}"
                if name.casefold() == "input":  # as the graph draws it
                    message += ". The first stage takes the input"
            elif table.add["after"].count(name) > 1:
                message = f"names {name!r} twice"
            else:
                continue
            mistakes.add((*table.place, "after"), message, called=table.called)
            fits = False
    if not fits:
        return False
    try:
        pipeline.graph()
    except PlanError as error:
        if file.left_out or len(names) < len(file.stages):
            return False  # because of what is missing, which is told already
        table = _named(str(error), names)
        at = (*table.place, *(("after",) if "after" in table.add else ()))
        mistakes.add(at, str(error), called=table.called)
        return False
    return True


def _named(message: str, names: Mapping[str, StageTable]) -> StageTable:
    """The stage at which a message about a plan belongs: the first one of a path that it
    names, or of a circle one that says where it stands."""
    paths = {f"{MAIN_PIPELINE_NAME}__{name}": table for name, table in names.items()}
    found = [(message.find(repr(path)), table) for path, table in paths.items()]
    if not any(place >= 0 for place, _ in found):
        found = [
            ("after" not in table.add, table)
            for name, table in names.items()
            if repr(name) in message
        ]
    found = [each for each in found if each[0] >= 0] or [(0, one) for one in names.values()]
    return min(found, key=lambda each: each[0])[1]


def _nothing(item: Any) -> Any:
    return item


def _free_name(stage: Any, use: str, taken: set[str | None]) -> str | None:
    """What a stage is called that the file gives no name: as what it uses, numbered if need be.

    None, for the pipeline's own choice, where the stage brings a name or that text is no name.
    """
    base = use.rpartition(":")[2].rpartition("/")[2]
    if not base or _own_name(stage) or "__" in base:
        return None
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def _own_name(stage: Any) -> str:
    """The name that a stage brings along."""
    made = stage.make if isinstance(stage, StageFactory) else stage
    own = getattr(made, "name", "") if isinstance(made, (Stage, type)) else ""
    return own if isinstance(own, str) else ""


def _resolve(options: dict[str, Any], table: StageTable, mistakes: Mistakes) -> None:
    """Look up what the options of ``add`` name."""
    policy = options.get("on_error")
    if isinstance(policy, str) and ":" in policy:
        place = (*table.place, "on_error")
        found = _attribute(policy, place, table.called, mistakes)
        if found is not None and (not callable(found) or isinstance(found, type)):
            mistakes.add(
                place,
                f"{policy} is {_article(found)}, not a function that takes the failure",
                called=table.called,
            )
        options["on_error"] = found
    if "placement" in options:
        place = (*table.place, "placement")
        options["placement"] = _placement(options["placement"], place, table.called, mistakes)


def _placement(
    given: str | PlacementTable, place: tuple[str | int, ...], called: str, mistakes: Mistakes
) -> str | Placement | None:
    """What the core gets; None when something is wrong with it."""
    name, options = (given, {}) if isinstance(given, str) else (given.use, dict(given.options))
    try:
        make = registry().placement(name)
    except PyStreamError as error:
        mistakes.add(place, str(error), called=called)
        return None
    if isinstance(given, str):
        return given
    wrong = signature(make, item=False).wrong(options)
    for option, message in wrong:
        mistakes.add((*place, option), message, called=called)
    if wrong:
        return None
    try:
        return placement(name, **options)
    except PyStreamError as error:
        mistakes.add(place, str(error), called=called)
        return None


def _stage(table: StageTable, mistakes: Mistakes) -> Any:
    """What ``add`` gets; None when something is wrong."""
    place = (*table.place, "use")
    if ":" in table.use:
        target = _attribute(table.use, place, table.called, mistakes)
    else:
        try:
            target = registry().describe("stage", table.use).target
        except PyStreamError as error:
            mistakes.add(place, str(error), called=table.called)
            return None
    if target is None:
        return None
    if isinstance(target, type) and issubclass(target, Stage) and inspect.isabstract(target):
        missing = ", ".join(sorted(target.__abstractmethods__))
        mistakes.add(place, f"{table.use} lacks {missing}", called=table.called)
        return None
    if not callable(target):
        mistakes.add(
            place, f"{table.use} is {_article(target)}, which cannot be called", called=table.called
        )
        return None
    if _is_an_object(target):
        made = f"{table.use} is an object already made: it takes no options"
        wrong = [
            (name, f"{made}{near_miss(name, table.slips.get(name, ()))}") for name in table.own
        ]
    else:
        wrong = signature(target, item=True).wrong(table.own, table.slips)
    for name, message in wrong:
        mistakes.add(table.option(name), message, called=table.called)
    if wrong:
        return None
    if ":" not in table.use:
        return registry().stage(table.use, **table.own)
    if isinstance(target, StageFactory):
        return StageFactory(target.make, {**target.options, **table.own})
    if isinstance(target, type) and issubclass(target, Stage):
        return factory(target, **table.own)
    return functools.partial(target, **table.own) if table.own else target


def _is_an_object(target: Any) -> bool:
    """Whether it is a stage that somebody else has made, rather than something to make one."""
    return isinstance(target, Stage) or not (
        isinstance(target, (type, StageFactory, functools.partial)) or inspect.isroutine(target)
    )


def _source(table: SourceTable, mistakes: Mistakes) -> Iterable[Any] | None:
    """The items; None when something is wrong."""
    make = _source_of(table, mistakes)
    if make is None:
        return None
    if not callable(make):
        items: Iterable[Any] = make
        return items
    return _opened(make, table, mistakes)


def _source_of(table: SourceTable, mistakes: Mistakes) -> Any:
    """What gives the items when it is called with the options, or has them already."""
    place = ("source", "use")
    make: Any
    if ":" in table.use:
        make = _attribute(table.use, place, "", mistakes)
    else:
        try:
            make = registry().describe("source", table.use).target
        except PyStreamError as error:
            mistakes.add(place, str(error))
            return None
    if make is None:
        return None
    if not callable(make):
        if isinstance(make, Iterable) and not table.options:
            return make
        mistakes.add(
            place,
            f"{table.use} is {_article(make)}: a source is called with its options and returns "
            f"something to iterate over",
        )
        return None
    wrong = signature(make, item=False).wrong(table.options)
    for name, message in wrong:
        mistakes.add(("source", name), message)
    return None if wrong else make


def _opened(
    make: Callable[..., Any], table: SourceTable, mistakes: Mistakes
) -> Iterable[Any] | None:
    """What the source returns; whatever it raises is somebody else's, and a mistake here."""
    try:
        items = make(**table.options)
    except PyStreamError as error:
        mistakes.add(("source",), str(error))
        return None
    except (Exception, SystemExit) as error:
        mistakes.add(("source",), f"{table.use} raised {type(error).__name__}: {error}")
        return None
    if not isinstance(items, Iterable):
        mistakes.add(
            ("source", "use"),
            f"{table.use} returned {_article(items)}, which cannot be iterated",
        )
        return None
    return items


def _choose_mode(
    pipeline: Pipeline, file: PipelineFile, name: str, mistakes: Mistakes, *, overridden: bool
) -> None:
    place: tuple[str | int, ...] = ("--executor",) if overridden else ("pipeline", "executor")
    options: Mapping[str, Any] = file.pipeline.options
    if overridden and name != file.pipeline.executor:
        options = {}  # they are those of another executor
    if name == "serial":
        if options:
            mistakes.add(("pipeline", "options"), 'the executor "serial" takes no options')
        pipeline.serialize()
        return
    try:
        target = registry().describe("executor", name).target
    except PyStreamError as error:
        mistakes.add(place, str(error))
        return
    wrong = signature(target, item=False).wrong(options)
    # An executor that takes any options would otherwise be robbed of these in silence.
    ours = inspect.signature(pipeline.parallelize).parameters.keys() - {"options"}
    wrong += [
        (option, "is an option of the pipeline, not of its executor")
        for option in options
        if option in ours and option not in dict(wrong)
    ]
    for option, message in wrong:
        mistakes.add(("pipeline", "options", option), message)
    if wrong:
        return
    settings = dict(file.pipeline.settings)
    if "placement" in settings:
        found = _placement(settings["placement"], ("pipeline", "placement"), "", mistakes)
        if found is None:
            return
        settings["placement"] = found
    try:
        pipeline.parallelize(executor=name, **settings, **options)
    except PyStreamError as error:
        mistakes.add(("pipeline",), str(error))


def _try_out(makers: Iterable[tuple[StageTable, Any]], mistakes: Mistakes) -> None:
    """Make each stage once, only to see what it refuses. Nothing will run after this."""
    for table, stage in makers:
        if not isinstance(stage, StageFactory):
            continue
        try:
            made = stage()
        except PyStreamError as error:
            mistakes.add(table.place, str(error), called=table.called)
        except (Exception, SystemExit) as error:
            mistakes.add(
                table.place,
                f"{table.use} raised {type(error).__name__}: {error}",
                called=table.called,
            )
        else:
            if isinstance(made, Stage):
                with suppress(Exception):
                    made.cleanup()


def _attribute(
    reference: str, place: tuple[str | int, ...], called: str, mistakes: Mistakes
) -> Any:
    """The object that ``"module:attr"`` names; None, and a mistake, when there is none."""
    module, _, attributes = reference.partition(":")
    if not module or not attributes:
        mistakes.add(place, f'must have the form "module:attr", not "{reference}"', called=called)
        return None
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module + ".").startswith(error.name + "."):
            message = (
                f"there is no module {error.name!r}; modules are looked for in the folder of "
                f"the file and among what is installed"
            )
        else:
            message = f"importing {module} raised {type(error).__name__}: {error}"
        mistakes.add(place, message, called=called)
        return None
    except (Exception, SystemExit) as error:  # importing runs foreign code
        mistakes.add(
            place, f"importing {module} raised {type(error).__name__}: {error}", called=called
        )
        return None
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            public = [each for each in dir(found) if not each.startswith("_")]
            mistakes.add(
                place, f"{module} has no {attributes!r}{near_miss(name, public)}", called=called
            )
            return None
    if found is None:
        mistakes.add(place, f"{reference} is None", called=called)
    return found


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
