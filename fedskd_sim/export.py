"""The tables of a run as files that other programs read: CSV, or Parquet where pyarrow is
installed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fedskd_sim.errors import LibraryMissing, OutputNotWritable
from fedskd_sim.runs import TABLES, Row, Run


def write(run: Run, form: str, folder: Path) -> dict[Path, int]:
    """Write every table of a run that has rows as ``TABLE.csv`` or ``TABLE.parquet``; files of
    those names are replaced.

    Args:
        run: what to write.
        form: one of `FORMS`.
        folder: where to; it is made if it is not there.

    Returns:
        The files, with the number of their rows.

    Raises:
        RunUnreadable: something of the run folder is damaged.
        LibraryMissing: the form needs a library that is not installed.
        OutputNotWritable: the files cannot be written there.

    """
    tables = {folder / f"{name}.{form}": run.table(name) for name in TABLES}
    written = {file: rows for file, rows in tables.items() if rows}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, rows in written.items():
            FORMS[form](file, rows)
    except OSError as error:
        fix = "give an --out that you may write to"
        raise OutputNotWritable(
            f"{folder} cannot be written: {error.strerror or error}", fix=fix
        ) from error
    return {file: len(rows) for file, rows in written.items()}


def _csv(file: Path, rows: Sequence[Row]) -> None:
    """Write a header and the rows; what is missing is empty, and numbers are written so that
    they can be read back exactly.
    """
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


def _parquet(file: Path, rows: Sequence[Row]) -> None:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise LibraryMissing.of("pyarrow", "export") from error
    parquet.write_table(pa.Table.from_pylist([*rows]), file)


FORMS: Mapping[str, Callable[[Path, Sequence[Row]], None]] = MappingProxyType(
    {"csv": _csv, "parquet": _parquet}
)
