"""What all errors have in common: the value, its place and the fix."""

from __future__ import annotations

from dataclasses import dataclass

Key = str | int
MOST_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a scenario file: the file and the line, counted from 1."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        """Format as editors understand it: ``file:line``."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


class FedskdError(Exception):
    """Base of all errors; the message names the value, ``fix`` says what to do about it."""

    exit_code = 1

    def __init__(
        self, message: str, *, fix: str = "", key: tuple[Key, ...] = (), where: Where | None = None
    ) -> None:
        """Keep what went wrong, the fix, the scenario key it belongs to and, once known, its place
        in the file.

        ``second_hand``: another hospital's failure is only passed on; ``stop``: the round and hop
        that never came; ``culprit``: the member of the run that failed, where one did; ``told``:
        the controller has heard of it.
        """
        super().__init__(message)
        self.message, self.fix, self.key, self.where = message, fix, key, where
        self.others: tuple[FedskdError, ...] = ()
        self.second_hand = False
        self.stop = (0, 0)
        self.culprit = ""
        self.told = False

    def __str__(self) -> str:
        """Write one line for the problem (place, key, value) and one for the fix; other problems
        follow.
        """
        parts = [str(self.where or ""), ".".join(str(part) for part in self.key), self.message]
        fix = [f"  fix: {self.fix}"] if self.fix else []
        shown = map(str, self.others[: MOST_SHOWN - 1])
        more = (
            [f"... and {len(self.others) + 1 - MOST_SHOWN} more problems"]
            if len(self.others) >= MOST_SHOWN
            else []
        )
        return "\n".join([": ".join(part for part in parts if part), *fix, *shown, *more])
