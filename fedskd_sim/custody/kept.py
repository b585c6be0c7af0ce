"""What a proof keeps of the records that it has read: of each its line and its digests, in a few
bytes, since a long run has millions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from fedskd_sim.custody.due import Due, Mark
from fedskd_sim.errors import Where
from fedskd_sim.records import Record

_ROW = Struct("<I??16s16s")
"""The line (0: there is no record), whether it has digests to come and to leave with, and these."""
_LINE = Struct("<I")


class KeptRecord(NamedTuple):
    """What is known of a record that stands where it should; '' for a digest that it has not."""

    mark: Mark
    digest_in: str
    digest_out: str
    where: Where


class Kept:
    """The records of one hospital, by the step of its program that has left them."""

    def __init__(self, due: Due, file: Path) -> None:
        """Have a row of zeros for every step; ``file`` is where the records stand."""
        self._due, self._file = due, str(file)
        self._rows = bytearray(_ROW.size * len(due.program))

    def add(self, index: int, record: Record, line: int) -> None:
        """Keep the record of a step; its digests have 32 hexadecimal digits, or none."""
        came, left = record.digest_in, record.digest_out
        both = bytes.fromhex(came), bytes.fromhex(left)
        _ROW.pack_into(self._rows, index * _ROW.size, line, bool(came), bool(left), *both)

    def has(self, index: int) -> bool:
        """Tell whether there is a record of a step."""
        return bool(_LINE.unpack_from(self._rows, index * _ROW.size)[0])

    def get(self, mark: Mark) -> KeptRecord | None:
        """Give a record by its mark; None where there is none."""
        index = self._due.index(mark)
        return self._at(index, mark) if index is not None and self.has(index) else None

    def __iter__(self) -> Iterator[KeptRecord]:
        """Give all records in order."""
        return (self._at(index, mark) for mark, index in self._due.marks() if self.has(index))

    def _at(self, index: int, mark: Mark) -> KeptRecord:
        line, comes, leaves, came, left = _ROW.unpack_from(self._rows, index * _ROW.size)
        digests = came.hex() if comes else "", left.hex() if leaves else ""
        return KeptRecord(mark, *digests, Where(self._file, line))
