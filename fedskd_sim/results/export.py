"""The tables of a run or a comparison as other programs read them: CSV; Parquet, TensorBoard's
event files and MLflow's runs where the library for it is installed.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fedskd_sim.errors import (
    InvalidValue,
    LibraryMissing,
    OutputNotEmpty,
    OutputNotWritable,
    Where,
)
from fedskd_sim.results.runs import TABLES, Row, Run
from fedskd_sim.wholefiles import drafted

if TYPE_CHECKING:
    from fedskd_sim.results.comparison.folder import ComparisonFolder

ROW_GROUP = 20_000
"""Rows of a Parquet file that are held in memory."""
SUMS = ("reduce", "gather")
"""Kinds of stops at which a part of a sum arrives, and no model."""
MOST_METRICS = 1000
"""MLflow takes no more at once."""


def write(run: Run, form: str, folder: Path) -> dict[Path, int]:
    """Write what a run has measured in a form that another program reads.

    Args:
        run: what to write.
        form: one of `FORMS`: every table that has rows as ``TABLE.csv`` or ``TABLE.parquet``, which
            replace files of those names; ``tensorboard``, a folder of event files for each model;
            or ``mlflow``, a run for each model, on the server that ``MLFLOW_TRACKING_URI`` names or
            else in ``mlflow.db``.
        folder: where to; it is made if it is not there.

    Returns:
        The files or folders, or MLflow's runs as ``EXPERIMENT/MODEL``, with the number of their
        rows or values.

    Raises:
        RunUnreadable: something of the run folder is damaged.
        LibraryMissing: the form needs a library that is not installed.
        OutputNotEmpty: the same is there already, and would be added again.
        OutputNotWritable: it cannot be written there.

    """
    with _writing(folder):
        return FORMS[form](run, folder)


def write_comparison(found: ComparisonFolder, form: str, folder: Path) -> dict[Path, int]:
    """Write the tables of a comparison, ``methods`` and ``differences``, as `write` does.

    Args:
        found: the comparison.
        form: ``csv`` or ``parquet``.
        folder: where to; it is made if it is not there.

    Raises:
        InvalidValue: the form is only for runs.
        LibraryMissing: the form needs a library that is not installed.
        OutputNotWritable: it cannot be written there.

    """
    if form not in ROWS:
        text, fix = f"{form!r} is for runs, not for a comparison", f"give {' or '.join(ROWS)}"
        raise InvalidValue(text, fix=fix, where=Where("--format"))
    with _writing(folder):
        return _put(form, found.tables(), folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "give an --out that you may write to"
        raise OutputNotWritable(
            f"{folder} cannot be written: {error.strerror or error}", fix=fix
        ) from error


def _tables(form: str, run: Run, folder: Path) -> dict[Path, int]:
    return _put(form, ((name, run.rows(name)) for name in TABLES), folder)


def _put(form: str, tables: Iterable[tuple[str, Iterable[Row]]], folder: Path) -> dict[Path, int]:
    """Write each table that has rows."""
    written = dict[Path, int]()
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables:
        left = iter(rows)
        if (first := next(left, None)) is not None:
            file = folder / f"{name}.{form}"
            written[file] = ROWS[form](file, chain([first], left))
    return written


def _csv(file: Path, rows: Iterable[Row]) -> int:
    """Write a header and the rows, one by one, and count them; what is missing is empty, and
    numbers are written so that they can be read back exactly.
    """
    count = 0
    with drafted(file) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        for count, row in enumerate(rows, 1):
            if count == 1:
                writer = csv.DictWriter(stream, [*row])
                writer.writeheader()
            writer.writerow(row)
    return count


def _parquet(file: Path, rows: Iterable[Row]) -> int:
    """Write the rows, some thousands at a time, and count them."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise LibraryMissing.of("pyarrow", "export") from error
    left = iter(rows)
    first = pa.Table.from_pylist([*islice(left, ROW_GROUP)])
    schema = pa.schema(  # what may be missing are numbers, and the first rows may all miss one
        [each.with_type(pa.float64()) if pa.types.is_null(each.type) else each
         for each in first.schema]
    )  # fmt: skip
    with drafted(file) as draft, parquet.ParquetWriter(draft, schema) as writer:
        writer.write_table(first.cast(schema))
        count = first.num_rows
        while group := [*islice(left, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema))
            count += len(group)
    return int(count)


def _tensorboard(run: Run, folder: Path) -> dict[Path, int]:
    """Write the measures of each model as a run of TensorBoard, ``tensorboard/MODEL``; names and
    steps are those of `_curves`. The name says it where the run was disturbed on purpose.
    """
    try:
        from tensorboard.summary import Writer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise LibraryMissing.of("tensorboard", "tensorboard") from error
    written = dict[Path, int]()
    for model, curves in _curves(run):
        mark = ", disturbed on purpose" if run.scenario.disturbed else ""
        place = folder / "tensorboard" / f"{model}{mark}"
        if place.is_dir() and any(place.iterdir()):
            fix = "remove it, or give another --out"
            raise OutputNotEmpty(f"{place} has event files already", fix=fix)
        place.mkdir(parents=True, exist_ok=True)
        writer = Writer(str(place))
        for point in curves:
            writer.add_scalar(*point)
        writer.close()
        written[place] = len(curves)
    return written


def _mlflow(run: Run, folder: Path) -> dict[Path, int]:
    """Log the measures of each model as a run of MLflow, in an experiment of the scenario's name;
    names and steps are those of `_curves`.
    """
    try:
        from mlflow import MlflowClient, MlflowException  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise LibraryMissing.of("mlflow", "mlflow") from error
    place = os.environ.get("MLFLOW_TRACKING_URI")
    if not place:
        folder.mkdir(parents=True, exist_ok=True)
        place = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    try:
        return _log(run, MlflowClient(place), place)
    except MlflowException as error:
        fix = "see MLFLOW_TRACKING_URI, and that MLflow answers there"
        raise OutputNotWritable(f"{place}: {error}", fix=fix) from error


def _log(run: Run, client: Any, place: str) -> dict[Path, int]:
    from mlflow.entities import Metric  # noqa: PLC0415 - an extra

    name, written = run.scenario.name, dict[Path, int]()
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    of = str(run.folder.resolve())
    if client.search_runs([experiment], f"tags.`fedskd_sim.run` = '{of}'", max_results=1):
        fix = "delete them there, or name another place with MLFLOW_TRACKING_URI"
        raise OutputNotEmpty(f"{place} has the runs of {of} already", fix=fix)
    for model, curves in _curves(run):
        tags = {"fedskd_sim.run": of, "fedskd_sim.model": model}
        if words := run.scenario.disturbed:
            tags["fedskd_sim.disturbed"] = words
        made = client.create_run(experiment, tags=tags, run_name=f"{run.folder.name}/{model}")
        client.log_param(made.info.run_id, "seed", run.scenario.seed)
        client.log_param(made.info.run_id, "algorithm", run.scenario.algorithm.name)
        points = [Metric(key, value, made.info.start_time, step) for key, value, step in curves]
        for first in range(0, len(points), MOST_METRICS):
            client.log_batch(made.info.run_id, points[first : first + MOST_METRICS])
        client.set_terminated(made.info.run_id)
        written[Path(name, model)] = len(curves)
    return written


def _curves(run: Run) -> Iterator[tuple[str, list[tuple[str, float, int]]]]:
    """Yield the measures of each model as name, value and step.

    A step is a stop of the model, K a round as in the report (0 is the warm-up), so that curves of
    all models lie over each other; where sums go round it is a session and 2K - 2 hops a round.
    What is measured at several hospitals, ``evaluation`` and ``ensemble``, has the hospital in its
    name: as a curve it would say nothing. What is measured while a sum goes round is of the host's
    own model, whichever part of the sum arrived.
    """
    size = len(run.scenario.members)
    stops = 2 * size - 1 if run.scenario.algorithm.pattern == "all_reduce" else size
    curves: dict[Any, list[tuple[str, float, int]]] = {name: [] for name in run.scenario.members}
    for row in run.rows("measures"):
        if row["value"] is None:
            continue
        hospital = f"/{row['host']}" if row["kind"] in ("evaluation", "ensemble") else ""
        step = int(row["round"] or 0) * stops + int(row["hop"] or 0)
        name = f"{row['kind']}/{row['measure']}{hospital}"
        model = row["host"] if row["kind"] in SUMS else row["model"]
        curves[model].append((name, float(row["value"]), step))
    yield from ((model, points) for model, points in curves.items() if points)


ROWS: Mapping[str, Callable[[Path, Iterable[Row]], int]] = MappingProxyType(
    {"csv": _csv, "parquet": _parquet}
)
FORMS: Mapping[str, Callable[[Run, Path], dict[Path, int]]] = MappingProxyType(
    {
        **{form: partial(_tables, form) for form in ROWS},
        "tensorboard": _tensorboard,
        "mlflow": _mlflow,
    }
)
