"""What a user hands to ``add``: the Stage base class, SKIP and factories."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, ParamSpec, final

from ._errors import PlanError, safe_repr

if TYPE_CHECKING:  # type checkers know it themselves; at runtime nothing needs the defaults
    from enum import Enum

    from typing_extensions import TypeVar

    In = TypeVar("In", contravariant=True, default=Any)
    Out = TypeVar("Out", covariant=True, default=In)
else:
    from typing import TypeVar

    In = TypeVar("In", contravariant=True)
    Out = TypeVar("Out", covariant=True)

P = ParamSpec("P")
Item = TypeVar("Item")
Result = TypeVar("Result")

CallKind = Literal["function", "generator", "coroutine", "async generator"]


class Stage(ABC, Generic[In, Out]):
    """Base class for the pipeline stage.

    Stages that have a cleanup routine should be defined as a subclass of this
    class. A stage is called by one worker at a time. With threads, ``setup``,
    ``__call__`` and ``cleanup`` all run in the thread of that worker; in serial
    mode they run in the thread that uses the pipeline.

    A stage that keeps items between its calls, to give out other ones, defines ``flush()`` as
    well. Every item that such a *batching* stage is called with ends there, counted as
    absorbed; what the call returns (unless ``SKIP``) or yields are new items. ``flush()``
    returns an iterable of what the stage still holds, or yields it. It is called when the
    pipeline is drained or cleaned up, at the end of a stream, and, if the stage has an
    attribute ``max_wait``, when it has taken items in and given nothing out for so many
    seconds (in serial mode not before the next item). Afterwards it starts anew.

    For type checkers ``Stage[In, Out]`` takes ``In``, and a call of it returns ``Out``:
    ``Stage[Frame, float | Skip]`` filters, ``Stage[Frame, Iterator[Region]]`` is a generator,
    ``Stage[str, Awaitable[bytes]]`` a coroutine. ``Stage[T]`` is ``Stage[T, T]``, and ``Stage``
    alone takes and gives anything.

    Attributes:
        name: the stage name, if not defined by the child instance, the name will be
            assigned automatically after the pipeline is constructed. Defaults to ``""``.
    """

    name: str = ""
    _given_name: str = ""  # what a pipeline called it; does not count as its own name

    if not TYPE_CHECKING:  # type checkers know the default of Out, as Python does from 3.13 on

        def __class_getitem__(cls, types: Any) -> Any:
            """``Stage[T]`` is ``Stage[T, T]``."""
            if cls is Stage and not isinstance(types, tuple):
                types = (types, types)
            return super().__class_getitem__(types)

    def setup(self) -> Awaitable[None] | None:
        """Prepare the stage, before its first item. Does nothing unless overridden.

        It may take as long as it needs: starting is not counted against any timeout.
        Like ``cleanup`` it may be a coroutine function, which is then awaited.
        What it raises comes out of the call that started the pipeline, as StageError.
        """

    if TYPE_CHECKING:  # a subclass may call its item what it likes

        @abstractmethod
        def __call__(self, data: In, /) -> Out: ...

    else:

        @abstractmethod
        def __call__(self, data: In) -> Out:
            """Main process of the stage.

            Args:
                data: input data.

            Returns:
                output data, should be in the same type as input data; ``SKIP`` filters the
                item out.
            """

    @abstractmethod
    def cleanup(self) -> Awaitable[None] | None:
        """Cleanup method for the stage.

        Invoked exactly once during pipeline cleanup, after the last call of the stage.
        """


if TYPE_CHECKING:  # for whom only an enumeration's member is known by ``is``

    class Skip(Enum):
        SKIP = "SKIP"

    SKIP: Final = Skip.SKIP
else:

    @final
    class Skip:
        """The type of ``SKIP``, to say that a stage filters: ``-> float | Skip``.

        There is one instance, also after copying and unpickling.
        """

        _only: Skip | None = None

        def __new__(cls) -> Skip:
            if cls._only is None:
                cls._only = super().__new__(cls)
            return cls._only

        def __repr__(self) -> str:
            return "SKIP"

        def __reduce__(self) -> str:
            return "SKIP"

    SKIP: Final = Skip()
"""What a stage returns to filter its item out: the item ends there, counted."""


@final
class StageFactory(Generic[In, Out]):
    """A recipe for a stage, made anew for every worker. Made by :func:`factory`."""

    __slots__ = ("make", "options")

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types: Any) -> Any:
            """``StageFactory[T]`` is ``StageFactory[T, T]``."""
            return super().__class_getitem__(types if isinstance(types, tuple) else (types, types))

    def __init__(self, make: Callable[..., Callable[[In], Out]], options: dict[str, Any]) -> None:
        self.make: Callable[..., Callable[[In], Out]] = make
        self.options: dict[str, Any] = options

    def __call__(self) -> Any:
        """Make one stage. Raises whatever the maker raises."""
        return self.make(**self.options)

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"factory({getattr(self.make, '__qualname__', self.make)}{options})"


def factory(
    make: Callable[P, Callable[[Item], Result]], *positional: P.args, **options: P.kwargs
) -> StageFactory[Item, Result]:
    """A stage that every worker makes for itself by calling ``make(**options)``.

    The way to give each of several workers its own model, connection or cache, and the
    only way to hand a factory function to ``add``.

    Args:
        make: called once per worker, in that worker; returns a callable or a Stage.
        positional: none; it lets type checkers compare the options with what ``make`` takes.
        options: keyword arguments of every call.

    Raises:
        PlanError: ``make`` is not callable, does not take these options, or they are not given
            by keyword.
    """
    if not callable(make):
        raise PlanError(
            f"factory() takes something callable that makes a stage, and then its options by "
            f"keyword, not {safe_repr(make)}"
        )
    if positional:
        raise PlanError(
            f"factory({getattr(make, '__qualname__', safe_repr(make))}) takes the options of the "
            f"stage by keyword, not {safe_repr(positional[0])} by its place"
        )
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        name = getattr(make, "__qualname__", repr(make))
        raise PlanError(
            f"factory({name}): {error}; give the options that its signature asks for: "
            f"{name}{_signature(make)}"
        ) from None
    except ValueError:  # built-ins without a signature: their first call will tell
        pass
    return StageFactory(make, dict(options))


def _signature(make: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(make))
    except (TypeError, ValueError):
        return "(...)"


def call_kind(target: Any) -> CallKind:
    """How calls of ``target`` behave, from its definition and never from a result.

    Looks through partials, methods, ``__wrapped__`` and ``__call__``; for a class and a
    factory of a class, at the ``__call__`` of its instances.
    """
    if isinstance(target, StageFactory):
        return call_kind(target.make.__call__) if isinstance(target.make, type) else "function"
    for _ in range(16):
        if isinstance(target, (functools.partial, functools.partialmethod)):
            target = target.func
        elif inspect.ismethod(target):
            target = target.__func__
        else:
            break
    if not inspect.isroutine(target) and not isinstance(target, type):
        called = getattr(type(target), "__call__", None)  # noqa: B004  (its definition)
        if inspect.isfunction(called):
            target = called
    target = _unwrapped(target)
    if inspect.isasyncgenfunction(target):
        return "async generator"
    if inspect.iscoroutinefunction(target):
        return "coroutine"
    if inspect.isgeneratorfunction(target):
        return "generator"
    return "function"


def _unwrapped(target: Any) -> Any:
    """Follow ``__wrapped__`` while the wrapper is an ordinary function.

    A wrapper that is itself a generator or coroutine function tells the kind. One that
    wraps a generator function and returns what it returned behaves as the wrapped one.
    """
    for _ in range(16):
        if inspect.isgeneratorfunction(target) or inspect.iscoroutinefunction(target):
            return target
        inner = getattr(target, "__wrapped__", None)
        if inner is None or isinstance(target, type):
            return target
        target = inner
    return target
