"""The stage ``unbatch``: a list becomes its items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pystream_core import Stage


class Unbatch(Stage[Any]):
    """Give out the elements of each item one by one, each as soon as the item has it.

    The item may be a list, an array (its rows), or anything else to iterate over, also without
    an end. An empty one gives nothing. Text and dicts are refused: there each is more likely to
    be one item than its letters or its keys. What is raised is a failure of this stage, treated
    by its ``on_error``. An item counts as expanded here, each of its elements as spawned.
    """

    def __call__(self, data: Any) -> Iterator[Any]:
        """Yield the elements; blocks as long as the item takes to give them.

        Raises:
            TypeError: the item is text, a dict, or cannot be iterated.
        """
        kind = type(data).__name__
        if isinstance(data, (str, bytes, bytearray, memoryview)):
            raise TypeError(
                f"unbatch: text ({kind}) would fall into single letters or numbers; put it into a "
                f"list when it is one item, or split it in a stage before"
            )
        if isinstance(data, Mapping):
            raise TypeError(
                f"unbatch: of a {kind} only the keys would be left; put it into a list when it is "
                f"one item, or choose .items() or .values() in a stage before"
            )
        try:
            elements = iter(data)
        except TypeError as error:
            raise TypeError(
                f"unbatch: {kind} cannot be iterated ({error}); leave this stage out where items "
                f"are single, or let the stage before give lists"
            ) from error
        yield from elements

    def cleanup(self) -> None:
        """Nothing to let go."""
