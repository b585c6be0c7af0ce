"""The sessions of a model, in the order of its way: a few bytes each, since a long run has
millions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class GatheredStep(NamedTuple):
    """A session of one model, in the order of its way: where it was and what came of it.

    ``stop`` numbers the model's stops through all rounds, K a round, the last of a round at home; 0
    is the warm-up. ``accuracy`` is a share of the host's validation data, ``drift`` the relative
    parameter change of the session; NaN if unknown.
    """

    stop: int
    round: int
    hop: int
    host: str
    home: bool
    rolled_back: bool
    accuracy: float
    drift: float


_ROW = np.dtype(
    [
        ("stop", "i8"), ("round", "i4"), ("hop", "i4"), ("host", "i4"), ("home", "?"),
        ("rolled_back", "?"), ("accuracy", "f8"), ("drift", "f8"),
    ]
)  # fmt: skip
GROWTH = 1024
"""Rows for which room is made at a time, and then half as many again as there are."""


class Way(Sequence[GatheredStep]):
    """A model's sessions as a table with a row for each."""

    def __init__(self, steps: Iterable[GatheredStep] = ()) -> None:
        """Take the steps that there are."""
        self._table, self._count = np.empty(0, _ROW), 0
        self._hosts: dict[str, int] = {}
        self._names: list[str] = []
        for step in steps:
            self.append(step)

    def append(self, step: GatheredStep) -> None:
        """Add a session."""
        if self._count == len(self._table):
            room = np.empty(self._count // 2 + GROWTH, _ROW)
            self._table = np.concatenate([self._table, room])
        if step.host not in self._hosts:
            self._hosts[step.host] = len(self._names)
            self._names.append(step.host)
        self._table[self._count] = tuple(step._replace(host=self._hosts[step.host]))  # type: ignore[arg-type]
        self._count += 1

    def sort(self) -> None:
        """Bring the sessions into the order of their stops, and need no more room than they do."""
        rows = self._table[: self._count]
        self._table = rows[np.argsort(rows["stop"], kind="stable")]

    def column(self, name: str) -> NDArray[Any]:
        """Give one of the fields, but ``host``, of all steps."""
        found: NDArray[Any] = self._table[: self._count][name]
        return found

    def __eq__(self, other: object) -> bool:
        """Tell whether all steps are the same."""
        return isinstance(other, Way) and repr([*self]) == repr([*other])

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """Count the sessions."""
        return self._count

    def __getitem__(self, place: Any) -> Any:
        """Give a session by its place, from 0."""
        if not -self._count <= place < self._count:
            raise IndexError(place)
        stop, round_, hop, host, *rest = self._table[: self._count][place].tolist()
        return GatheredStep(stop, round_, hop, self._names[host], *rest)
