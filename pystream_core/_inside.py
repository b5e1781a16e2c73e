"""What becomes of items inside a pipeline that is placed in one piece, as it is told outside."""

from __future__ import annotations

from typing import Any, Literal

from ._errors import StageError

Settled = Literal["", "skip", "on_error", "max_age"]


class EndedInside(StageError):
    """What became of an item in a pipeline that is placed in one piece, for the stage that stands
    for it outside and takes it from there. A placement passes it on like any other exception.

    It leaves its item behind when it is pickled: that may be large, or not fit to travel.

    Attributes:
        before, after: the message, on both sides of the item's number, which is another one
            outside; a setup that failed has none.
        settled: what has dealt with it inside, so that nothing outside decides about it: a policy
            that skips, the user's callable, or the item's age. Empty: nothing has.
    """

    def __init__(
        self,
        before: str,
        after: str = "",
        *,
        path: str,
        seq: int | None = None,
        item: Any = None,
        settled: Settled = "",
    ) -> None:
        super().__init__(f"{before}{_shown_number(seq)}{after}", path=path, seq=seq, item=item)
        self.before = before
        self.after = after
        self.settled: Settled = settled

    def outside(self, seq: int | None, item: Any) -> StageError:
        """The failure of the item as it is known outside."""
        number = _shown_number(None if self.seq is None else seq)
        message = f"{self.before}{number}{self.after}"
        failure = StageError(message, path=self.path, seq=seq, item=item)
        failure.__cause__ = self.__cause__
        return failure

    def again(self, introduction: str = "") -> EndedInside:
        """See StageError."""
        fresh = _restore_ended(
            introduction + self.before, self.after, self.path, self.seq, self.settled, self.item
        )
        fresh.__cause__ = self.__cause__
        return fresh

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_ended, (self.before, self.after, self.path, self.seq, self.settled)


def _shown_number(seq: int | None) -> str:
    return "" if seq is None else str(seq)


def _restore_ended(
    before: str, after: str, path: str, seq: int | None, settled: Settled, item: Any = None
) -> EndedInside:
    return EndedInside(before, after, path=path, seq=seq, item=item, settled=settled)
