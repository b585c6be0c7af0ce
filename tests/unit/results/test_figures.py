"""Figures as files for a paper."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from test_patients import CLASSES, run_of
from test_report import folder, story

from fedskd_sim.errors import OutputNotWritable
from fedskd_sim.results import figures
from fedskd_sim.results.report import read_results, write

THREE = ("a", "b", "c")
FIELD = {
    "roc": ("false positive rate", "true positive rate"),
    "calibration": ("confidence", "accuracy"),
    "confusion": ("true class", "predicted class"),
}


def read(file: Path) -> list[dict[str, str]]:
    """Read a table of numbers."""
    with file.open(encoding="utf-8", newline="") as rows:
        return [*csv.DictReader(rows)]


def words(file: Path) -> str:
    """Return all text of a drawing."""
    return " ".join("".join(one.itertext()) for one in ET.parse(file).iter() if one.text)


def test_every_figure_is_drawn_and_its_numbers_are_those_of_the_results(tmp_path: Path) -> None:
    """There are three files of each; a matrix's table has every cell of it."""
    run = folder(tmp_path, story(THREE, rounds=2), THREE)
    summary = write(run, THREE, figures=tmp_path / "out")
    found = {file.stem for file in (tmp_path / "out").iterdir()}
    assert {"matrix", "accuracy", "drift", "timeline"} <= found
    for name in found:
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert "<svg" in (tmp_path / "out" / f"{name}.svg").read_text(encoding="utf-8")
        assert read(tmp_path / "out" / f"{name}.csv")
    values = summary.matrices["balanced_accuracy"].values
    cells = read(tmp_path / "out" / "matrix.csv")
    assert [float(row["balanced_accuracy_percent"]) for row in cells] == pytest.approx(
        [100 * value for row in values for value in row]
    )
    steps = read(tmp_path / "out" / "accuracy.csv")
    assert len(steps) == sum(len(way) for way in summary.ways.values())


def test_figures_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    """No date and no chance is in them."""
    summary, spans = read_results(folder(tmp_path, story(THREE), THREE), THREE)
    for place in ("one", "two"):
        figures.write(tmp_path / place, summary, spans)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_figures_of_patients_have_the_words_of_the_field(tmp_path: Path) -> None:
    """ROC is true positive rate over false positive rate, calibration accuracy over confidence, a
    confusion matrix true class by predicted class; in the drawing and in the table.
    """
    run = run_of(tmp_path, ("north", "east"))
    summary = write(run, ("north", "east"), figures=tmp_path / "out")
    for name, axes in FIELD.items():
        drawn = words(tmp_path / "out" / f"{name}.svg")
        columns = " ".join(read(tmp_path / "out" / f"{name}.csv")[0]).replace("_", " ")
        assert all(axis in drawn and axis in columns for axis in axes), name
    cells = read(tmp_path / "out" / "confusion.csv")
    assert summary.patients
    assert {row["true_class"] for row in cells} == {*CLASSES}
    assert sum(int(row["patients"]) for row in cells) == sum(
        host.patients for host in summary.patients.hosts
    )


def test_a_folder_that_cannot_be_made_is_an_error_of_the_place(tmp_path: Path) -> None:
    """Where a file is in the way, its path is named."""
    summary, spans = read_results(folder(tmp_path, story(THREE), THREE), THREE)
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(OutputNotWritable, match="taken"):
        figures.write(tmp_path / "taken", summary, spans)
