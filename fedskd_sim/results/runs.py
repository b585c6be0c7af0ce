"""A run folder as plain tables: lists of rows, each a mapping from a column's name to a text, a
number, a truth value or None.

None stands for what is missing, as for an AUC where all test samples are of one class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedskd_sim.errors import InvalidValue, LibraryMissing
from fedskd_sim.records import Record, Timing
from fedskd_sim.records.files import (
    no_run,
    read_records,
    read_timings,
    stream_records,
    stream_timings,
)
from fedskd_sim.results.rows import plain
from fedskd_sim.scenario import Scenario, load

if TYPE_CHECKING:
    import pandas as pd

    from fedskd_sim.results.figures import Plots
    from fedskd_sim.results.tables import Summary
    from fedskd_sim.results.timeline import Spans

Cell = str | float | bool | None
Row = Mapping[str, Cell]
TABLES = ("hops", "measures", "matrix", "timings", "predictions")
METRICS = ("accuracy", "balanced_accuracy", "auc")
STOP = ("kind", "round", "hop", "host", "model")


@dataclass(frozen=True)
class Run:
    """A run folder as tables: lists of rows, each a mapping from column to value. A file is read
    when a table of it is first used.

    If the scenario has faults or links, every row has a column ``disturbed``, which names them.

    Raises:
        RunUnreadable: from any table, a damaged file; it names file and line.

    """

    folder: Path
    """The run folder."""
    scenario: Scenario = field(repr=False)
    """The scenario that ran."""

    @cached_property
    def hops(self) -> list[Row]:
        """One row per record: who hosted whose model, when in the program, with which outcome, over
        how many samples.

        Columns: ``scenario``, ``seed``, ``kind``, ``round``, ``hop``, ``host``, ``model``,
        ``architecture``, ``outcome``, ``reason``, ``samples`` (sample-gradients), ``steps``,
        ``bytes``, ``digest_in``, ``digest_out`` and ``without``, the hospitals that were left out
        in this round, with spaces between.
        """
        return [*self._marked(map(_hop, self._records))]

    @cached_property
    def measures(self) -> list[Row]:
        """One row per measure of a record.

        Columns: ``kind``, ``round``, ``hop``, ``host`` and ``model`` of the record, ``measure``,
        ``sum``, ``weight`` and ``value``, which is sum / weight. To average over rows, add sums and
        weights, not values.
        """
        return [*self._marked(row for one in self._records for row in _measures(one))]

    @cached_property
    def matrix(self) -> list[Row]:
        """Every home model on every hospital's test data, in ring order: the K x K matrix of a
        report.

        Columns: ``model``, ``host``, ``own`` (whether they are the same), ``accuracy``,
        ``balanced_accuracy`` and ``auc`` in [0, 1] (None: not defined), and ``samples``, the number
        of test samples.
        """
        records = stream_records(self.folder)  # of which a long run has millions
        found = {(one.model, one.host): one for one in records if one.kind == "evaluation"}
        pairs = [
            (model, host)
            for model in self.scenario.members
            for host in (*self.scenario.members, *self.scenario.held_out)
        ]
        return [*self._marked(_cell(found[pair]) for pair in pairs if pair in found)]

    @cached_property
    def timings(self) -> list[Row]:
        """One row per session, evaluation and transfer.

        Columns: ``what``, ``host``, ``model``, ``round``, ``hop``, ``start`` and ``end`` in UNIX
        seconds by the clock of the host's machine, ``seconds`` between them, ``bytes``, ``to`` and
        ``attempts`` of a transfer, ``peak_bytes`` and ``device_bytes`` of memory, ``training``
        seconds of a session in mini-batches.
        """
        return [*self._marked(map(_timing, read_timings(self.folder)))]

    @cached_property
    def predictions(self) -> list[Row]:
        """One row per test sample and model; none for a run without predictions.

        Columns: ``host``, ``split``, ``model``, ``kind``, ``sample``, ``subject`` (a number, valid
        at that hospital only), ``label``, ``predicted`` and ``probability_CLASS`` for each class.
        Several labels of a sample are joined by `` + ``.
        ``fedskd_sim.results.predictions.read_predictions`` returns the same as arrays.
        """
        from fedskd_sim.results.predictions import read_predictions  # noqa: PLC0415 - needs numpy, which the other tables do not

        found = read_predictions(self.folder).values()
        return [*self._marked(row for here in found for row in _answers(here))]

    def rows(self, name: str) -> Iterable[Row]:
        """Return the rows of a table one by one, without keeping them in memory, for long runs
        with millions of rows. The tables are those of `table`, with the same errors.
        """
        match name:
            case "hops":
                return self._marked(map(_hop, stream_records(self.folder)))
            case "measures":
                records = stream_records(self.folder)
                return self._marked(row for one in records for row in _measures(one))
            case "timings":
                return self._marked(map(_timing, stream_timings(self.folder)))
        return self.table(name)

    def table(self, name: str) -> list[Row]:
        """Return a table by its name.

        Raises:
            InvalidValue: there is no such table.

        """
        if name not in TABLES:
            raise InvalidValue(
                f"there is no table {name!r}", fix=f"choose one of {', '.join(TABLES)}"
            )
        rows: list[Row] = getattr(self, name)
        return rows

    def frame(self, name: str) -> pd.DataFrame:
        """Return a table as a pandas DataFrame.

        Raises:
            InvalidValue: there is no such table.
            LibraryMissing: pandas is not installed.

        """
        rows = self.table(name)
        try:
            import pandas as pd  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise LibraryMissing.of("pandas", "export") from error
        return pd.DataFrame(rows)

    @cached_property
    def plot(self) -> Plots:
        """The figures of the page as matplotlib figures: ``run.plot.accuracy()``, and so on with
        ``matrix``, ``drift``, ``dilution``, ``confusion``, ``roc``, ``calibration``, ``timeline``.
        """
        from fedskd_sim.results.figures import Plots  # noqa: PLC0415 - drawing is slow to import

        return Plots(*self._results)

    def _repr_html_(self) -> str:
        """Show it in a notebook: its table of own and others, matrix and accuracy."""
        from fedskd_sim.results.figures import as_notebook  # noqa: PLC0415 - drawing is slow to import
        from fedskd_sim.results.text import headline  # noqa: PLC0415 - as above

        summary, spans = self._results
        words = self.scenario.disturbed
        told = f"{words[0].upper()}{words[1:]}. " if words else ""
        return as_notebook(summary, spans, told + headline(summary))

    @cached_property
    def _results(self) -> tuple[Summary, Spans]:
        from fedskd_sim.results.report import read_results  # noqa: PLC0415 - needs numpy, which the tables do not

        return read_results(self.folder, self.scenario.members, self.scenario.held_out)

    def _marked(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Say in every row what disturbed the run on purpose; nothing where nothing did."""
        words = self.scenario.disturbed
        return ({**row, "disturbed": words} for row in rows) if words else iter(rows)

    @cached_property
    def _records(self) -> Sequence[Record]:
        return read_records(self.folder)


def read_run(folder: str | Path) -> Run:
    """Open a run folder, also of a run that goes on or has failed.

    Args:
        folder: the run folder, which ``fedskd-sim launch`` names at its end.

    Returns:
        The run, with its tables.

    Raises:
        RunUnreadable: it is no run folder.
        ScenarioError: this version cannot read the scenario in it.

    """
    place = Path(folder).expanduser()
    if not (place / "scenario.yaml").is_file():
        raise no_run(place)
    return Run(place, load(place / "scenario.yaml").scenario)


def _hop(record: Record) -> Row:
    apart = ("measures", "schema", "without", "back", "private")
    shown = {each.name: getattr(record, each.name) for each in fields(record)}
    return {name: value for name, value in shown.items() if name not in apart} | {
        "without": " ".join(record.left_out)
    }


def _measures(record: Record) -> Iterator[Row]:
    for name, (total, weight) in record.measures.items():
        value = plain(total / weight if weight else math.nan)
        yield {
            **_stop(record),
            "measure": name,
            "sum": total,
            "weight": weight,
            "value": value,
        }


def _timing(timing: Timing) -> Row:
    shown: dict[str, Cell] = {each.name: getattr(timing, each.name) for each in fields(timing)}
    return {**shown, "seconds": timing.end - timing.start}


def _stop(record: Record) -> dict[str, Cell]:
    return {name: getattr(record, name) for name in STOP}


def _cell(record: Record) -> Row:
    means = {
        metric: plain(record.measures[metric].mean) if metric in record.measures else None
        for metric in METRICS
    }
    samples = int(record.measures["accuracy"].weight) if "accuracy" in record.measures else 0
    return {
        "model": record.model,
        "host": record.host,
        "own": record.model == record.host,
        **means,
        "samples": samples,
    }


def _named(here: Any, present: Any) -> list[str]:
    """Name the classes of each sample, from which of them it has (N, C); '' for none."""
    return [
        " + ".join(name for name, there in zip(here.classes, row, strict=True) if there)
        for row in present.tolist()
    ]


def _answers(here: Any) -> list[Row]:
    """Return the rows of one hospital's predictions (`fedskd_sim.results.Predictions`)."""
    rows: list[Row] = []
    alone = here.subjects is None  # then every sample is of another one
    subjects = range(len(here.samples)) if alone else here.subjects.tolist()
    samples = [*zip(here.samples, subjects, _named(here, here.present), strict=True)]
    for place, (model, kind, answers) in enumerate(
        zip(here.models, here.kinds, here.probabilities.tolist(), strict=True)
    ):
        decided = _named(here, here.decided(place))
        about = {"host": here.host, "split": here.split, "model": model, "kind": kind}
        for (sample, subject, label), shares, said in zip(samples, answers, decided, strict=True):
            known = plain(shares)
            each = {
                f"probability_{name}": share
                for name, share in zip(here.classes, known, strict=True)
            }
            what = {"sample": sample, "subject": subject, "label": label}
            rows.append({**about, **what, "predicted": None if None in known else said, **each})
    return rows
