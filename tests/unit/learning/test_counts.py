"""Read N of M: what every reader found, uses and leaves out is counted, shown before a run and
kept with it.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from test_datasets import derm, ham, rois
from test_geometry import AFFINE, GRID, VALUES, image, release
from test_ids import KINDS, scenario
from test_names import PEOPLE, changed

from fedskd_sim.cli import main
from fedskd_sim.errors import RunUnreadable
from fedskd_sim.kubernetes.log_collector import LogCollector
from fedskd_sim.learning.data import facts, load
from fedskd_sim.learning.readers import reading
from fedskd_sim.records import SampleCounts, to_line
from fedskd_sim.records.files import read_counts
from fedskd_sim.results import report as reports
from fedskd_sim.results import samples
from fedskd_sim.scenario import AbideRois, Derm7pt, Ham10000Images, Nifti

HAM = """\
name: small
data: {name: ham10000-images, size: 8}
hospitals:
  - {name: a, architecture: cnn-plain, data: {site: rosendahl, limit: 20}}
  - {name: b, architecture: cnn-plain, data: {site: vidir_modern}}
algorithm: {name: local}
training: {warmup_epochs: 1, epochs: 1}
"""


def counted(dataset: object, folder: Path) -> SampleCounts:
    return reading.facts(dataset, folder, 1, "a").counts


def test_a_batch_larger_than_a_hospital_is_told_and_no_error(scenario_file: Callable) -> None:
    """The check passes and names the hospital that trains with one step an epoch; not one that is
    held out, and none whose samples just fill a batch.
    """
    text = """\
name: few
data: {name: synthetic-skin, samples: 50, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-plain, data: {samples: 60}}
  - {name: c, architecture: cnn-plain, held_out: true}
algorithm: {name: fedskd}
training: {batch_size: 36}
"""
    done = CliRunner().invoke(main, ["validate", str(scenario_file(text))])
    assert done.exit_code == 0
    notes = [line for line in done.output.splitlines() if line.startswith("Note: ")]
    text = "a has 30 training samples and training.batch_size is 36"
    assert notes == [f"Note: {text}: each of its epochs is one gradient step."]


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_is_used_or_left_out_for_a_reason(
    kind: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """For every kind of data and with a limit where there can be one, what is counted in each split
    is what is loaded, and with what is left out it is all that was found.
    """
    KINDS[kind][0](tmp_path)
    read = scenario(scenario_file, kind)
    first, *others = read.hospitals
    limited = hasattr(first.data, "limit")
    if limited:
        data = first.data.model_copy(update={"limit": 9})
        hospitals = (first.model_copy(update={"data": data}), *others)
        read = read.model_copy(update={"hospitals": hospitals})
    counts = facts(read.hospital("a").data, "a", read.seed, tmp_path).counts
    loaded = load(read, "a", tmp_path, "cpu")
    for name in samples.SPLITS:
        labels = getattr(loaded, name).labels.tolist()
        assert Counter(counts.used[name]) == Counter(loaded.classes[label] for label in labels)
    parts = [*counts.used.values(), *counts.left_out.values()]
    assert sum(map(Counter, parts), Counter()) == Counter(counts.found)
    if limited:
        assert samples.total(counts.left_out["more than the limit lets train"]) > 0
    assert counts.host == "a"
    assert counts.source


def test_what_is_left_out_is_counted_by_reason_and_class(tmp_path: Path) -> None:
    """Samples of others, in no split, without a recording or over the limit, and files that no
    table names, have their numbers.
    """
    for make in (ham, derm, rois):
        make(tmp_path)
    (tmp_path / "more").mkdir()
    for name in ("one.jpg", "two.PNG", ".hidden.jpg"):
        shutil.copy(
            tmp_path / "HAM10000_images_part_1" / "ISIC_0000000.jpg", tmp_path / "more" / name
        )
    shutil.copy(
        tmp_path / "rois" / "NYU_0_rois_cc200.1D", tmp_path / "rois" / "NYU_99_rois_cc200.1D"
    )
    found = counted(Ham10000Images(name="ham10000-images", site="rosendahl", limit=20), tmp_path)
    assert found.found == {"bkl": 40, "mel": 40, "nv": 40, "": 62}, (
        "60 images are those of the other data set beside it"
    )
    assert found.left_out["of another site"] == {"bkl": 20, "mel": 20, "nv": 20}
    assert found.left_out["images that the table does not name"] == {"": 62}
    assert samples.total(found.left_out["more than the limit lets train"]) == 16
    found = counted(Derm7pt(name="derm7pt"), tmp_path)
    assert found.left_out == {"in no split": {"basal cell carcinoma": 1, "seborrheic keratosis": 1}}
    found = counted(AbideRois(name="abide-rois", site="NYU"), tmp_path)
    assert found.left_out == {
        "of another site": {"control": 20, "asd": 20},
        "without a recording": {"asd": 1},
        "recordings that the table does not name": {"": 1},
    }
    assert counted(AbideRois(name="abide-rois", by="institution", site="UM"), tmp_path).left_out[
        "of another institution"
    ] == {
        "control": 20,
        "asd": 21,
    }


def test_volumes_beside_the_table_are_counted(tmp_path: Path) -> None:
    """Neither the atlas, nor one half of a pair, nor a listed file in another spelling of its
    path is counted as unnamed.
    """
    release(tmp_path)
    image().to_filename(tmp_path / "extra.nii.gz")
    image(values=np.ones(GRID, np.int16)).to_filename(tmp_path / "atlas.nii")
    changed(tmp_path, PEOPLE, ("v0.nii", "./v0.nii"))
    nib.Nifti1Pair(VALUES, AFFINE).to_filename(tmp_path / "p.img")
    changed(tmp_path, PEOPLE, ("v1.nii", "p.img"))
    found = counted(Nifti(name="nifti", site="north", atlas="atlas.nii"), tmp_path)
    assert found.left_out["volumes that the table does not name"] == {"": 2}, (
        "v1.nii and the extra one"
    )


def test_validate_shows_what_will_be_read(tmp_path: Path, scenario_file: Callable) -> None:
    """Before a run every hospital's line says how many of how many, by class and split, and why
    not the rest.
    """
    ham(tmp_path)
    done = CliRunner().invoke(main, ["validate", str(scenario_file(HAM)), "--data", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (
        "a: read 44 of 120 from HAM10000_metadata.csv: 20 train, 12 validation, 12 test\n"
        in done.stdout
    )
    assert "  left out: 60 of another site (bkl 20, mel 20, nv 20)\n" in done.stdout
    assert "  left out: 16 more than the limit lets train" in done.stdout
    assert "  bkl 12 + 4 + 4 of 40, mel 12 + 4 + 4 of 40, nv 12 + 4 + 4 of 40\n" in done.stdout


def test_validate_shows_the_space_of_volumes(tmp_path: Path, scenario_file: Callable) -> None:
    """What it prints as the space is what the scenario takes."""
    release(tmp_path)
    text = HAM.replace("name: ham10000-images, size: 8", "name: nifti").replace(
        "cnn-plain", "vol-plain"
    )
    text = text.replace("rosendahl, limit: 20", "north").replace("vidir_modern", "south")
    done = CliRunner().invoke(main, ["validate", str(scenario_file(text)), "--data", str(tmp_path)])
    space = done.stdout.splitlines()[-1].removeprefix("Volumes lie in one space: ")
    text = text.replace("name: nifti", f"name: nifti, {space}")
    assert (
        CliRunner()
        .invoke(main, ["validate", str(scenario_file(text)), "--data", str(tmp_path)])
        .exit_code
        == 0
    ), done.output


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["memory", "processes"])
def test_a_run_keeps_and_shows_what_was_read(
    runtime: str, tmp_path: Path, scenario_file: Callable, run: Callable
) -> None:
    """The run folder has the counts of every hospital in a file of its own, and text, page and
    JSON show them.
    """
    ham(tmp_path / "data")
    folder = run(scenario_file(HAM), runtime, tmp_path / "data")
    first, second = read_counts(folder)
    assert (first.host, samples.count_used(first), samples.total(first.found)) == ("a", 44, 120)
    assert (second.host, samples.count_used(second)) == ("b", 60)
    reports.write(folder, ("a", "b"))
    text, page = ((folder / f"report.{kind}").read_text() for kind in ("txt", "html"))
    assert "a: read 44 of 120 from HAM10000_metadata.csv" in text
    assert "left out: 60 of another site (bkl 20, mel 20, nv 20)" in text
    assert "a: read 44 of 120 from HAM10000_metadata.csv; left out: 60 of another site" in page
    assert '<th scope="col">left out: more than the limit lets train</th>' in page
    assert (
        json.loads((folder / "report.json").read_text())["samples"][0]["left_out"][
            "of another site"
        ]["nv"]
        == 20
    )


def test_a_folder_without_counts_is_reported_as_before(
    tmp_path: Path, scenario_file: Callable, run: Callable
) -> None:
    """Runs of an earlier version have none, and their report says nothing of them."""
    ham(tmp_path / "data")
    folder = run(scenario_file(HAM), "memory", tmp_path / "data")
    shutil.rmtree(folder / "samples")
    assert reports.write(folder, ("a", "b")).samples == ()
    assert (
        "Samples read"
        not in (folder / "report.txt").read_text() + (folder / "report.html").read_text()
    )


@pytest.mark.parametrize(
    "field", ['"found":3', '"used":{}', '"left_out":{"x":{"nv":"1"}}', '"left_out":[]']
)
def test_damaged_counts_are_named(field: str, tmp_path: Path) -> None:
    """A line that is no counts is an error with file and line, as for records."""
    (tmp_path / "samples").mkdir()
    good = to_line(SampleCounts("a", "x.csv", {"nv": 1}, {name: {} for name in samples.SPLITS}, {}))
    file = tmp_path / "samples" / "a.jsonl"
    file.write_text(good[:-1] + "," + field + "}\n")
    with pytest.raises(RunUnreadable) as caught:
        read_counts(tmp_path)
    assert (caught.value.where.file, caught.value.where.line) == (str(file), 1)


def test_counts_come_home_from_a_cluster(tmp_path: Path) -> None:
    """A hospital's pod says them in its log, and packs them with its results."""
    (tmp_path / "samples").mkdir()
    line = to_line(SampleCounts("a", "x.csv", {"nv": 1}, {name: {} for name in samples.SPLITS}, {}))
    with closing(LogCollector(SimpleNamespace(), tmp_path)) as collector:
        collector.own("uid", "a")
        entry = {"time": 1.0, "event": "entry", "kind": "samples", "line": line}
        assert collector.sort("uid", "a", json.dumps(entry)) is None
    assert (tmp_path / "samples" / "a.jsonl").read_text() == line + "\n"
    (found,) = read_counts(tmp_path)
    assert found.found == {"nv": 1}
