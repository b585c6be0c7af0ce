"""A table, CSV or Parquet (extra ``export``), with a row for each sample; its sites act as
hospitals.

Expected: one file with the columns that the scenario declares as ``numbers`` or ``categories``, a
column of labels and, where they are there, of sites, patients and folds. Folds are 0 to 4, and no
patient is in two of them; without the column five folds are drawn, evenly over sites and labels.
CSV is separated by commas or, where the header has one, by tabs.

A number becomes (number - usual value) / spread, both as declared, so that it is the same at every
hospital. A category becomes as many numbers as it has words, one of which is 1. A cell that is
``empty`` is missing. Any other that is no number, or not among the declared words, is an error that
names file, row, column and value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Preview
from fedskd_sim.datasets import csvfile
from fedskd_sim.datasets.csvfile import CsvRow
from fedskd_sim.datasets.refusals import corrupt
from fedskd_sim.errors import FedskdError, InvalidValue, extras_named

PARQUET = (".parquet", ".pq")
EMPTY = ("", "NA")


class DeclaredColumns(NamedTuple):
    """The columns that are learned from: numbers with a usual value and a spread, categories with
    their words; and what a missing cell holds.
    """

    numbers: Mapping[str, Sequence[float]]
    categories: Mapping[str, Sequence[str]]
    empty: Sequence[str] = EMPTY

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, numbers first."""
        return (*self.numbers, *self.categories)

    @property
    def of_numbers(self) -> list[str]:
        """The column of each number of a sample."""
        words = [name for name, known in self.categories.items() for _ in known]
        return [*self.numbers, *words]

    def preview(self, rows: NDArray[np.integer[Any]]) -> Preview:
        """Return what is known of samples before they are read."""
        del rows
        return Preview(np.empty((0, len(self.of_numbers)), np.float32))


def read(  # noqa: PLR0913 - each is a key of the scenario
    folder: Path,
    *,
    file: str = "table.csv",
    numbers: Mapping[str, Sequence[float]] | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
    empty: Sequence[str] | None = None,
    label_column: str = "label",
    labels: Mapping[str, Sequence[str]] | None = None,
    site_column: str = "site",
    patient_column: str = "patient",
    fold_column: str = "fold",
) -> Cohort:
    """Read the table; raises DataCorrupt for a cell that is not as declared, InvalidValue for
    columns that are declared twice or not at all.
    """
    path, declared = (
        folder / file,
        DeclaredColumns(numbers or {}, categories or {}, EMPTY if empty is None else empty),
    )
    about = (site_column, patient_column, fold_column)
    _check_declared(declared, (label_column, *about), labels)
    table = rows_of(path, (*declared.names, label_column), about)
    named, classes = labelled(path, table, label_column, labels)

    def column(name: str) -> list[str] | None:
        return _whole(path, table, name) if name in table[0] else None

    return Cohort(
        values(path, table, declared),
        named,
        classes,
        subjects=column(patient_column),
        sites=column(site_column),
        folds=column(fold_column),
        columns=declared.of_numbers,
        preview=declared.preview,
    )


def rows_of(path: Path, needed: Sequence[str], optional: Sequence[str]) -> list[CsvRow]:
    """Read columns of a CSV or Parquet file, cells as texts; raises DataCorrupt."""
    if path.suffix.lower() not in PARQUET:
        return csvfile.cells(path, needed, optional)
    with extras_named():
        from pyarrow import parquet  # noqa: PLC0415 - tables in CSV do without
    try:
        found = parquet.ParquetFile(path).read()
        lists = {name: found.column(name).to_pylist() for name in dict.fromkeys(found.column_names)}
    except Exception as error:  # a damaged file may raise anything
        raise corrupt(f"{path} cannot be read: {error}", "save it as Parquet again") from error
    places = csvfile.places(path, found.column_names, needed, optional)
    texts = {name: [_text(cell) for cell in lists[name]] for name in places}
    if not found.num_rows:
        raise corrupt(f"{path} has no rows")
    return [dict(zip(texts, cells, strict=True)) for cells in zip(*texts.values(), strict=True)]


def _text(cell: object) -> str:
    """Write a cell of Parquet as CSV would have it."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def values(path: Path, table: Sequence[CsvRow], declared: DeclaredColumns) -> NDArray[np.float32]:
    """Return the declared columns (N, W) of a table, NaN where a cell is missing; raises
    DataCorrupt.
    """
    found = np.full((len(table), len(declared.of_numbers)), np.nan, np.float32)
    place = 0
    for name, (usual, spread) in declared.numbers.items():
        for row, cell in _cells(table, name, declared.empty):
            found[row, place] = (_number(path, row, name, cell) - usual) / spread
        place += 1
    for name, words in declared.categories.items():
        known = {word: number for number, word in enumerate(words)}
        for row, cell in _cells(table, name, declared.empty):
            if cell not in known:
                text = f"{path}: row {row + 1} has {cell!r} in the column {name!r}"
                fix = f"add it to data.categories.{name}, or, if it is missing, to data.empty"
                raise corrupt(f"{text}, not one of {', '.join(words)}", fix)
            found[row, place : place + len(words)] = 0
            found[row, place + known[cell]] = 1
        place += len(words)
    return found


def _cells(table: Sequence[CsvRow], name: str, empty: Sequence[str]) -> Iterable[tuple[int, str]]:
    """Yield the cells of a column that are not missing, each with its row from 0."""
    return ((row, one[name]) for row, one in enumerate(table) if one[name] not in empty)


def _number(path: Path, row: int, name: str, cell: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        text = f"{path}: row {row + 1} has {cell!r} in the column {name!r}, which is no number"
        fix = "write a number, or, if it means that the cell is missing, add it to data.empty"
        raise corrupt(text, fix)
    return found


def labelled(
    path: Path, table: Sequence[CsvRow], column: str, labels: Mapping[str, Sequence[str]] | None
) -> tuple[list[str], list[str] | None]:
    """Return the class of each row, and the classes in order, if they are declared; raises
    DataCorrupt.
    """
    cells = _whole(path, table, column)
    if labels is None:
        return cells, None
    known = {cell: name for name, stand in labels.items() for cell in stand}
    for row, cell in enumerate(cells):
        if cell not in known:
            text = f"{path}: row {row + 1} has {cell!r} in the column {column!r}"
            fix = "add it to a class in data.labels, or take the row out"
            raise corrupt(f"{text}, which stands for none of the classes {', '.join(labels)}", fix)
    return [known[cell] for cell in cells], [*labels]


def _whole(path: Path, table: Sequence[CsvRow], name: str) -> list[str]:
    """Return a column of which no cell may be empty; raises DataCorrupt."""
    for row, one in enumerate(table):
        if not one[name]:
            text = f"{path}: row {row + 1} has nothing in the column {name!r}"
            raise corrupt(text, "write what it is, or take the row out")
    return [one[name] for one in table]


def _check_declared(
    declared: DeclaredColumns, about: Sequence[str], labels: Mapping[str, Sequence[str]] | None
) -> None:
    """Refuse columns that are declared twice, or not at all, and words that stand twice."""
    if not declared.names:
        fix = "declare some, as in numbers: {age: [54, 9]} and categories: {sex: [Male, Female]}"
        text = "no column is declared that could be learned from"
        raise InvalidValue(text, key=("data", "numbers"), fix=fix)
    for name in declared.categories:
        if name in declared.numbers:
            raise _twice(("categories", name), name, "a column of numbers, too")
    for key in ("numbers", "categories"):
        for name in getattr(declared, key):
            if name in about:
                raise _twice((key, name), name, "what says label, site, patient or fold, too")
    for name, words in declared.categories.items():
        _check_once("categories", {name: words})
    _check_once("labels", labels or {})


def _check_once(key: str, named: Mapping[str, Sequence[str]]) -> None:
    """Refuse a word that stands twice."""
    before: dict[str, str] = {}
    for name, words in named.items():
        for word in words:
            if word in before:
                raise _twice((key, name), word, f"named for {before[word]!r} already")
            before[word] = name


def _twice(key: tuple[str, str], name: str, why: str) -> FedskdError:
    fix = "name it once"
    return InvalidValue(f"{name!r} is {why}", key=("data", *key), fix=fix)
