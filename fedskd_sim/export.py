"""The tables of a run as files that other programs read: CSV; Parquet and TensorBoard's event
files where the library for it is installed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from fedskd_sim.errors import LibraryMissing, OutputNotEmpty, OutputNotWritable
from fedskd_sim.runs import TABLES, Row, Run


def write(run: Run, form: str, folder: Path) -> dict[Path, int]:
    """Write what a run has measured in a form that another program reads.

    Args:
        run: what to write.
        form: one of `FORMS`: every table that has rows as ``TABLE.csv`` or ``TABLE.parquet``, which
            replace files of those names; or ``tensorboard``, a folder of event files for each
            model.
        folder: where to; it is made if it is not there.

    Returns:
        The files or folders, with the number of their rows or values.

    Raises:
        RunUnreadable: something of the run folder is damaged.
        LibraryMissing: the form needs a library that is not installed.
        OutputNotEmpty: there are event files already, to which the same would be added again.
        OutputNotWritable: the files cannot be written there.

    """
    try:
        return FORMS[form](run, folder)
    except OSError as error:
        fix = "give an --out that you may write to"
        raise OutputNotWritable(
            f"{folder} cannot be written: {error.strerror or error}", fix=fix
        ) from error


def _tables(
    form: str, put: Callable[[Path, Sequence[Row]], None], run: Run, folder: Path
) -> dict[Path, int]:
    tables = {folder / f"{name}.{form}": run.table(name) for name in TABLES}
    written = {file: rows for file, rows in tables.items() if rows}
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in written.items():
        put(file, rows)
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


def _tensorboard(run: Run, folder: Path) -> dict[Path, int]:
    """Write the measures of each model as a run of TensorBoard, ``tensorboard/MODEL``.

    A step is a stop of the model, K a round as in the report (0 is the warm-up), so that curves of
    all models lie over each other. What is measured at several hospitals, ``evaluation`` and
    ``ensemble``, has the hospital in its name: as a curve it would say nothing.
    """
    try:
        from tensorboard.summary import Writer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise LibraryMissing.of("tensorboard", "tensorboard") from error
    size, written = len(run.scenario.members), dict[Path, int]()
    for model in run.scenario.members:
        rows = [row for row in run.measures if row["model"] == model and row["value"] is not None]
        if not rows:
            continue
        place = folder / "tensorboard" / model
        if place.is_dir() and any(place.iterdir()):
            fix = "remove it, or give another --out"
            raise OutputNotEmpty(f"{place} has event files already", fix=fix)
        place.mkdir(parents=True, exist_ok=True)
        writer = Writer(str(place))
        for row in rows:
            hospital = f"/{row['host']}" if row["kind"] in ("evaluation", "ensemble") else ""
            stop = int(row["round"] or 0) * size + int(row["hop"] or 0)
            writer.add_scalar(f"{row['kind']}/{row['measure']}{hospital}", row["value"], stop)
        writer.close()
        written[place] = len(rows)
    return written


FORMS: Mapping[str, Callable[[Run, Path], dict[Path, int]]] = MappingProxyType(
    {
        "csv": partial(_tables, "csv", _csv),
        "parquet": partial(_tables, "parquet", _parquet),
        "tensorboard": _tensorboard,
    }
)
