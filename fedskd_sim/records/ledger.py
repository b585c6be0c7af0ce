"""Where a hospital's records, timings and counts are written, line by line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TextIO

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.records import FOLDERS, Record, SampleCounts, Timing, at_once, to_line

RESTORE = "back from a copy; if there is none, launch the scenario again into another folder"


class Ledger:
    """Appends one hospital's records, timings and counts to its run folder; safe to use from two
    threads.
    """

    def __init__(
        self,
        run: Path,
        host: str,
        copy: Callable[[str, str], None] = lambda *_: None,
        *,
        kept: int | None = None,
        flush: Callable[[TextIO], None] = at_once,
    ) -> None:
        """Create the files, which must not exist yet, or go on with them.

        Args:
            run: the run folder.
            host: the hospital.
            copy: gets the folder's name and the line of every entry too.
            kept: how many bytes of the records are to be gone on from; what stands behind them is
                done again. Timings stay, and what was read of the data is counted anew.
            flush: lets readers see what an entry has added to a file, at once or soon.

        Raises:
            RunUnreadable: there are fewer bytes of records than are to be gone on from.

        """
        self._lock, self._copy, self._flush = Lock(), copy, flush
        self._files = {}
        check_length(records_of(run, host), kept or 0)
        for kind, folder in FOLDERS.items():
            (run / folder).mkdir(exist_ok=True)
            file = run / folder / f"{host}.jsonl"
            if kept is not None and file.exists():
                lasts = {Record: kept, SampleCounts: 0, Timing: _whole(file)}
                os.truncate(file, lasts[kind])
            self._files[kind] = file.open("x" if kept is None else "a", encoding="utf-8")
        self._lines = self.records.read_bytes().count(b"\n")

    def add(self, entry: Record | Timing | SampleCounts) -> None:
        """Append an entry and flush it, so that it survives whatever happens next."""
        with self._lock:
            file = self._files[type(entry)]
            if not file.closed:
                line = to_line(entry)
                file.write(line + "\n")
                self._flush(file)
                self._lines += isinstance(entry, Record)
                self._copy(FOLDERS[type(entry)], line)

    @property
    def records(self) -> Path:
        """The file of the records."""
        return Path(self._files[Record].name)

    @property
    def mark(self) -> tuple[int, int]:
        """Count the bytes of the records, and the lines."""
        return self._files[Record].tell(), self._lines

    def close(self) -> None:
        """Close the files; entries that come later are dropped."""
        with self._lock:
            for file in self._files.values():
                file.close()


def records_of(run: Path, host: str) -> Path:
    """Return the file of a hospital's records."""
    return run / FOLDERS[Record] / f"{host}.jsonl"


def check_length(records: Path, kept: int) -> None:
    """Refuse records that are shorter than they were: a file cannot be cut to more than it has."""
    there = records.stat().st_size if records.exists() else 0
    if there < kept:
        text = f"it has {there} bytes, and the hospital's custody goes on behind {kept}"
        raise RunUnreadable(text, fix=f"bring the file {RESTORE}", where=Where(str(records)))


def check_count(records: Path, most: int, or_else: str = "") -> None:
    """Refuse more records than a hospital can have written before anything was in its custody:
    beginning anew would remove them, which ``or_else`` may say how to ask for.
    """
    there = _whole_lines(records)
    if there > most:
        text = f"it has {there} records, and the hospital's custody is gone"
        fix = f"bring custody {RESTORE}{or_else}"
        raise RunUnreadable(text, fix=fix, where=Where(str(records)))


def _whole_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _whole(file: Path) -> int:
    """Count the bytes of a file's whole lines: a death may have torn the last one."""
    return file.read_bytes().rfind(b"\n") + 1
