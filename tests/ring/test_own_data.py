"""Users' own data: the manual's reader as written, in memory and as processes, and all that can be
wrong with one.
"""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedskd_sim import launch
from fedskd_sim.errors import DataMissing, InvalidValue, ReaderFailed, UnknownReader
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.comparable import notes_of
from fedskd_sim.learning.data import facts, load
from fedskd_sim.learning.installed import READERS
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import reading
from fedskd_sim.learning.readers.cohort import SPLITS
from fedskd_sim.learning.sources import sources
from fedskd_sim.messages import Register
from fedskd_sim.operate.checks import load_and_check
from fedskd_sim.protocol.admission import difference
from fedskd_sim.runtimes.deaths import Terminated
from fedskd_sim.runtimes.life import computes
from fedskd_sim.scenario import OwnData, Partition
from fedskd_sim.scenario import load as read_scenario

ROOT = Path(__file__).parent.parent.parent
SCENARIO = """\
name: own-data
data: {{name: own, reader: {reader}}}
hospitals:
  - {{name: a, architecture: {architecture}, data: {{{a}}}}}
  - {{name: b, architecture: {architecture}, data: {{{b}}}}}
algorithm: {{name: fedskd, rounds: 1, similarity: {{batch: 0.1, pixel: 0.1, region: 0.1}}}}
training: {{warmup_epochs: 1, batch_size: 16}}
"""
HEAD = """\
import numpy as np
from fedskd_sim import Cohort

N = 60
images = np.random.default_rng(0).integers(0, 99, (N, 16, 16)).astype(np.uint8)
matrices = np.sin(np.arange(N * 64.0)).reshape(N, 8, 8)
volumes = np.cos(np.arange(N * 3 * 8**3)).reshape(N, 3, 8, 8, 8).astype(np.float32)
labels = ["ill" if row % 3 else "well" for row in range(N)]
sites = ["x" if row < 40 else "y" for row in range(N)]
"""


def example() -> tuple[dict[str, str], str]:
    """Take the package's entry points and its module out of the manual."""
    section = (
        (ROOT / "docs" / "own-code.md")
        .read_text(encoding="utf-8")
        .partition("## Your own data")[2]
        .partition("\n## ")[0]
    )
    toml, module = (
        re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("toml", "python")
    )
    return tomllib.loads(toml)["project"]["entry-points"][READERS], module


def cases(folder: Path) -> None:
    """Write images of two clinics, whose grey tells the class, and their table."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "diagnosis", "patient", "clinic"))
        for row in range(80):
            label = row % 2
            pixels = draw.normal(100 + 60 * label, 30, (20, 20)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{row}.png")
            site = ("Aachen", "Bonn")[row // 2 % 2]
            table.writerow((f"{row}.png", ("naevus", "melanoma")[label], f"P{row // 2}", site))


def test_the_manuals_reader_gives_the_same_in_memory_and_in_processes(
    install: Callable, scenario_file: Callable, inside: Callable, tmp_path: Path
) -> None:
    """Written as the manual writes it, its data are counted, trained on and tested on, by the names
    it gives, and the bytes do not depend on where hospitals run.
    """
    offers, module = example()
    ((reader, value),) = offers.items()
    install(value.partition(":")[0], offers, module, group=READERS)
    cases(tmp_path / "data")
    scenario = SCENARIO.format(
        reader=f"{reader}, options: {{size: 24}}",
        architecture="cnn-plain",
        a="site: Aachen",
        b="site: Bonn",
    )
    path, given = scenario_file(scenario), ("--data", tmp_path / "data")
    launch(path, on="memory", out=tmp_path / "memory", data=tmp_path / "data")
    done = inside("launch", path, "--out", tmp_path / "processes", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read 40 of 80 from my-clinic(size=24): 24 train, 8 validation, 8 " in done.stdout
    found = [
        {
            part.name: part.read_bytes()
            for kind in ("records", "weights")
            for part in (tmp_path / runtime).glob(f"{kind}/*")
        }
        for runtime in ("memory", "processes")
    ]
    assert len(found[0]) >= 4
    assert found[0] == found[1]
    scenario = read_scenario(path).scenario
    assert {"learning code", "reader my-clinic"} == set(sources(scenario))
    data = load(scenario, "b", tmp_path / "data", "cpu")
    assert set(data.test.ids) < {f"{row}.png" for row in range(80) if row // 2 % 2}
    patients = [{int(one[:-4]) // 2 for one in getattr(data, split).ids} for split in SPLITS]
    assert not patients[0] & patients[1] | patients[1] & patients[2] | patients[0] & patients[2]


def facts_of(body: str, install: Callable, folder: Path, **given: object) -> object:
    install("m", {"mine": "m:read"}, HEAD + body, group=READERS)
    return facts(OwnData(name="own", reader="mine", **given), "a", 1, folder)


GOOD = {
    "grey": ("images, labels", ("image", 16, 1, ())),
    "colour": ("np.stack([images] * 3, -1), labels", ("image", 16, 3, ())),
    "connectivity": ("matrices, labels", ("roi", 8, 1, ())),
    "volumes": ("volumes[:, 0, :, :, :6], labels", ("volume", 6, 1, (8, 8, 6))),
    "channels": ("lambda rows: volumes[rows], labels", ("volume", 8, 3, (8, 8, 8))),
}


@pytest.mark.parametrize(("given", "wanted"), GOOD.values(), ids=GOOD.keys())
def test_forms_of_samples(given: str, wanted: tuple, install: Callable, tmp_path: Path) -> None:
    """Images, connectivity and volumes are told apart by axes and dtype."""
    found = facts_of(f"def read(folder): return Cohort({given})", install, tmp_path)
    assert (found.kind, found.size, found.channels, found.grid) == wanted
    assert found.classes == ("ill", "well")
    assert sum(map(len, ([*numbers] for numbers in found.counts.used.values()))) == 6


def test_own_splits_numbers_and_limits(install: Callable, tmp_path: Path) -> None:
    """Splits of the reader's own are kept, classes have the names given, and a limit holds."""
    body = (
        "def read(folder): return Cohort(images, np.arange(N) % 2, classes=['no', 'yes'], "
        "splits=['train'] * 40 + ['validation'] * 10 + ['test'] * 10)"
    )
    found = facts_of(body, install, tmp_path, limit=30)
    assert found.classes == ("no", "yes")
    assert {name: sum(one.values()) for name, one in found.counts.used.items()} == {
        "train": 30,
        "validation": 10,
        "test": 10,
    }


BAD = {
    "raises": ("{}['label']", "failed: KeyError: 'label' (m.py:10, in read)"),
    "ends": ("__import__('sys').exit(3)", "failed: SystemExit: 3 (m.py:10, in read)"),
    "no cohort": ("[images, labels]", "gives list, not a Cohort"),
    "few samples": ("Cohort(images[:50], labels)", "samples of shape (50, 16, 16) and 60 labels"),
    "no square": ("Cohort(images[:, 1:], labels)", "shape (1, 15, 16) of uint8. Images are uint8"),
    "dtype": ("Cohort(images.astype(np.int16), labels)", "of int16. Images are uint8 (n, S, S)"),
    "rows": ("Cohort(lambda rows: images[:5], labels)", "shape (5, 16, 16) for 1 rows"),
    "infinite": (
        "Cohort(matrices + np.nan, labels)",
        "64 values that are not finite",
    ),
    "no labels": ("Cohort(images, None)", "labels of shape (), not one for each sample"),
    "floats": ("Cohort(images, np.ones(N))", "gives 1.0 in row 0 of labels, not a name or"),
    "missing": ("Cohort(images, [*labels[:-1], None])", "gives None in row 59 of labels"),
    "class": ("Cohort(images, labels, classes=['ill', 'dead'])", "label 'well' in row 0"),
    "gap": ("Cohort(images, np.arange(N) % 2 * 2)", "from 0 to 2, none of them 1, and no classes"),
    "order": (
        "Cohort(lambda rows: images[np.sort(rows)], labels)",
        "alone than with others (m.py:10, in <lambda>): give samples in the order of the rows",
    ),
    "chance": (
        "Cohort(lambda rows: images[rows] + np.random.default_rng().random(), labels)",
        "each time it is asked for (m.py:10, in <lambda>): leave chance",
    ),
    "empty label": ("Cohort(images, ['a', np.nan, *labels[2:]])", "gives nan in row 1 of labels"),
    "empty site": ("Cohort(images, labels, sites=[None, *sites[1:]])", "None in row 0 of sites"),
    "empty subject": (
        "Cohort(images, labels, subjects=['p', float('nan')] * 30)",
        "gives nan in row 1 of subjects",
    ),
    "empty text": ("Cohort(images, labels, sites=np.array([*sites[:-1], np.nan]))", "'nan' in row"),
    "sign": (
        "Cohort(images, np.arange(N) % 2, classes=['a', 'b\\0'])",
        "in row 1 of classes, which",
    ),
    "escape": ("Cohort(images, labels, sites=['\\x1b[31m'] * N)", "in row 0 of sites, which has"),
    "line": ("Cohort(images, labels, ids=['a\\nb'] * N)", "signs that cannot be printed"),
    "blank": (
        "Cohort(images, labels, subjects=['p '] * N)",
        "'p ' in row 0 of subjects, which has",
    ),
    "tensors": (
        "Cohort(np.zeros((N, 3, 16, 16), np.float32), labels)",
        "which look like images: give images as uint8 (n, S, S)",
    ),
    "one class": ("Cohort(images, ['ill'] * N)", "the classes ('ill',), not two names"),
    "spelling": (
        "Cohort(images, ['Ill', *labels[1:]])",
        "a label in two ways: 'Ill' in row 0",
    ),
    "sites": ("Cohort(images, labels, sites=sites[1:])", "sites of shape (59,) and 60 labels"),
    "fold": ("Cohort(images, labels, folds=[5] * N)", "'5' in row 0 of folds, not 0, 1, 2, 3, 4"),
    "subject": (
        "Cohort(images, labels, subjects=['P'] * N, folds=np.arange(N) % 5)",
        "subject 'P' in two folds: 0 in row 0, 1 in row 1",
    ),
    "split": ("Cohort(images, labels, splits=['dev'] * N)", "not train, validation, test"),
    "both": ("Cohort(images, labels, folds=[0] * N, splits=['test'] * N)", "both folds and splits"),
}


@pytest.mark.parametrize(("given", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_no_cohort_is_told_with_its_row(
    given: str, words: str, install: Callable, tmp_path: Path
) -> None:
    """The error names the reader, what it gives, and the row or the line of code."""
    with pytest.raises(ReaderFailed) as caught:
        facts_of(f"def read(folder): return {given}", install, tmp_path)
    assert "reader 'mine' " in caught.value.message
    assert words in caught.value.message
    assert caught.value.fix
    assert caught.value.key == ("data", "reader")


def test_an_order_that_only_many_rows_show_is_found_before_training(
    install: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """What a reader gives for all rows of a hospital is compared with what it gives for some."""
    body = (
        "def read(folder):\n"
        "    ask = lambda rows: images[rows if len(rows) < 9 else np.sort(rows)]\n"
        "    return Cohort(ask, labels, sites=sites)"
    )
    install("m", {"mine": "m:read"}, HEAD + body, group=READERS)
    text = SCENARIO.format(reader="mine", architecture="cnn-plain", a="site: x", b="site: y")
    scenario = read_scenario(scenario_file(text)).scenario
    assert not [*find_problems(scenario, tmp_path)]
    with pytest.raises(ReaderFailed, match=r"alone than with others \(m\.py:11, in <lambda>\)"):
        load(scenario, "a", tmp_path, "cpu")


PARTS = "partition: {{parts: 2, part: {}, least: 1, alpha: 100}}"


def test_rows_that_come_in_another_order_are_cut_by_their_ids_and_told(
    install: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """Hospitals share no sample though every call gives another order, and the check says so,
    naming what differs.
    """
    body = (
        "def read(folder):\n"
        "    new = np.random.default_rng().permutation(N)\n"
        "    return Cohort(images[new], np.array(labels)[new], ids=[f'i{one}' for one in new])"
    )
    install("m", {"mine": "m:read"}, HEAD + body, group=READERS)
    text = SCENARIO.format(
        reader="mine", architecture="cnn-plain", a=PARTS.format(0), b=PARTS.format(1)
    )
    scenario = read_scenario(scenario_file(text)).scenario
    parts = [load(scenario, name, tmp_path, "cpu") for name in "ab"]
    first, second = (
        {one for split in SPLITS for one in getattr(part, split).ids} for part in parts
    )
    assert first | second == {f"i{one}" for one in range(60)}
    assert not first & second
    with pytest.raises(ReaderFailed, match=r"mine gives other .*ids.* 'b' than for 'a'") as caught:
        load_and_check(scenario_file(text), tmp_path)
    assert "sort them" in caught.value.fix


def test_hospitals_tell_the_controller_what_their_reader_gave(
    install: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """As they register: parts of the same rows may begin together, of other rows they may not, and
    no id is told.
    """
    body = (
        "def read(folder, *, turn=0):\n"
        "    new = np.roll(np.arange(N), turn * (folder / 'turned').exists())\n"
        "    return Cohort(images[new], np.array(labels)[new], ids=[f'case{i}' for i in new])"
    )
    install("m", {"mine": "m:read"}, HEAD + body, group=READERS)
    text = SCENARIO.format(
        reader="mine, options: {turn: 1}",
        architecture="cnn-plain",
        a=PARTS.format(0),
        b=PARTS.format(1),
    )
    scenario = read_scenario(scenario_file(text)).scenario

    def registered(name: str) -> Register:
        learner = make(LearnerContext(scenario, name, tmp_path))
        told = computes(scenario, name, learner, {"learning code": "1"}, "run")
        assert "case" not in told
        return Register("run", 1, name, "", "", "", told)

    first = registered("a")
    assert not difference(registered("b"), [first])
    (tmp_path / "turned").touch()
    assert "the reader mine(turn=1): " in difference(registered("b"), [first])


SHARED = """
def read(folder, *, clinic="", lazy=False, same=False, blank=False):
    own = np.arange(10, 50) if clinic else np.arange(40)
    ids = [f"{'' if same else clinic}{row}" for row in own]
    given = images[own] * (not blank)
    return Cohort((lambda rows: given[rows]) if lazy else given, np.array(labels)[own], ids=ids)
"""


def test_a_sample_that_two_hospitals_have_is_told(
    install: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """Under one id it is refused, from memory or from a function; under two it is noted with how
    many train here and test there, and what has no contrast is nobody's twice.
    """
    install("m", {"mine": "m:read"}, HEAD + SHARED, group=READERS)
    for given in ("same: true", "same: true, lazy: true", "blank: true, same: true", "same: false"):
        a, b = (f"options: {{{given}{other}}}" for other in ("", ", clinic: z"))
        text = SCENARIO.format(reader="mine", architecture="cnn-plain", a=a, b=b)
        scenario, known = read_scenario(scenario_file(text)).scenario, []
        found = [*find_problems(scenario, tmp_path, known.append)]
        notes = [note for note in notes_of(known) if "a and b" in note]
        if given.startswith("same: true"):
            (error,) = found
            assert isinstance(error, InvalidValue)
            assert re.search(r"'b' has \d+ of the samples of 'a', as '\d+'", error.message)
            assert not notes
        else:
            assert not found
            assert len(notes) == ("blank" not in given)
            assert "blank" in given or " have 30 samples that are the same value " in notes[0]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ("100 * matrices", "values have a spread of 70"),
        ("matrices - matrices.swapaxes(1, 2)", "connectivity is not symmetric"),
        ("matrices + matrices.swapaxes(1, 2)", ""),
        ("0.01 * volumes", "values have a spread of 0.00"),
        ("volumes", ""),
    ],
)
def test_values_that_are_odd_are_noted(
    samples: str, words: str, install: Callable, tmp_path: Path
) -> None:
    """A spread far from 1, and time series in the place of connectivity, are no error: the check
    says so, and so does the run.
    """
    body = f"def read(folder): return Cohort({samples}, labels)"
    found = facts_of(body, install, tmp_path)
    loaded = reading.load(OwnData(name="own", reader="mine"), tmp_path, 1, "a")
    for note in ("; ".join(found.notes), loaded.remark):
        assert words in note
        assert bool(words) == bool(note)


def test_a_signal_is_no_fault_of_a_reader(install: Callable, tmp_path: Path) -> None:
    """The process that is told to stop while a reader reads stops: our own kind of SystemExit is
    passed on.
    """
    body = "def read(folder): raise __import__('fedskd_sim.runtimes.deaths').runtimes.deaths"
    with pytest.raises(Terminated):
        facts_of(f"{body}.Terminated(143)", install, tmp_path)


def test_a_hospital_needs_only_its_own_reader(install: Callable, scenario_file: Callable) -> None:
    """Where every hospital has a reader of its own, its image need not have those of others."""
    install("m", {"mine": "m:read"}, HEAD + "def read(folder): pass", group=READERS)
    theirs = "data: {name: own, reader: theirs}"
    text = SCENARIO.format(reader="mine", architecture="cnn-plain", a="", b="")
    text = text.replace("{name: b, architecture: cnn-plain, data: {}}", "B")
    path = scenario_file(text.replace("B", f"{{name: b, architecture: cnn-plain, {theirs}}}"))
    scenario = read_scenario(path).scenario
    assert "reader mine" in sources(scenario, "a")
    with pytest.raises(UnknownReader):
        sources(scenario, "b")


def test_what_the_scenario_asks_of_a_reader(
    install: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, an option, a site or a reader that is not there is named, each by its own error."""
    monkeypatch.delenv("FEDSKD_DATA", raising=False)
    body = "def read(folder, *, table='a.csv'): {}; return Cohort(images, labels{})"
    opens, plain = body.format("(folder / table).open()", ""), body.format("pass", "")
    with pytest.raises(DataMissing, match=r"does not find .*a\.csv \(m\.py:10, in read\)"):
        facts_of(opens, install, tmp_path)
    with pytest.raises(DataMissing, match="no data folder was given"):
        facts(OwnData(name="own", reader="mine"), "a", 1, None)
    with pytest.raises(InvalidValue, match="has no option 'tabel'") as caught:
        facts(OwnData(name="own", reader="mine", options={"tabel": "b"}), "a", 1, tmp_path)
    assert caught.value.fix == "did you mean 'table'? mine has the options table"
    with pytest.raises(UnknownReader) as caught:
        facts(OwnData(name="own", reader="mime"), "a", 1, tmp_path)
    assert caught.value.fix.startswith("did you mean 'mine'? there are mine")
    install("n", {"second": "n:read"}, HEAD + plain, group=READERS)
    with pytest.raises(InvalidValue, match="there is no site 'z': second names none"):
        facts(OwnData(name="own", reader="second", site="z"), "a", 1, tmp_path)


def test_hospitals_share_no_sample(
    install: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """Two hospitals without a site, or with the same, are an error; two parts or two sites are
    not.
    """
    body = "def read(folder): return Cohort(images, labels, sites=sites)"
    install("m", {"mine": "m:read"}, HEAD + body, group=READERS)
    parts = [f"partition: {{parts: 2, part: {part}, least: 1}}" for part in (0, 1)]
    for a, b, words in (
        ("", "", "it is not said who has which part"),
        ("site: x", "site: x", "site 'x' of mine belongs to 'a' already"),
        ("site: x", "site: y", ""),
        (*parts, ""),
    ):
        text = SCENARIO.format(reader="mine", architecture="cnn-plain", a=a, b=b)
        path = scenario_file(text)
        if words:
            with pytest.raises(InvalidValue, match=words):
                read_scenario(path)
        else:
            assert not [*find_problems(read_scenario(path).scenario, tmp_path)]


@pytest.mark.parametrize(
    ("data", "both"),
    [
        ("{name: nifti}", "site: x"),
        ("{name: abide, by: institution}", "site: NYU"),
        ("{name: ham10000}", "site: rosendahl"),
    ],
)
def test_a_site_belongs_to_one_hospital(data: str, both: str, scenario_file: Callable) -> None:
    """Whatever reads the files, and however their path is written, two hospitals of one site would
    share all samples.
    """
    text = SCENARIO.format(reader="mine", architecture="cnn-plain", a=both, b=both)
    text = text.replace("{name: own, reader: mine}", data)
    with pytest.raises(InvalidValue, match="belongs to 'a' already") as caught:
        read_scenario(scenario_file(text))
    assert caught.value.key == ("hospitals", 1, "data", "site")
    file = caught.value.message.partition(" of ")[2].partition(" belongs")[0]
    other = text.replace(f"{{{both}}}}}\nalg", f"{{{both}, file: x/.././{file}}}}}\nalg")
    assert other != text
    with pytest.raises(InvalidValue, match="belongs to 'a' already"):
        read_scenario(scenario_file(other))


@pytest.mark.parametrize(
    ("data", "a", "b", "key"),
    [
        ("{name: abide, by: institution}", "site: UM", "site: UM_1, by: site", "by"),
        ("{name: abide-rois}", "site: NYU", "site: UM, by: institution", "by"),
        ("{name: ham10000}", "site: rosendahl", "site: vidir_modern, test_fold: 2", "test_fold"),
        ("{name: nifti, validation_fold: 4}", "site: x", "site: y, test_fold: 1", "test_fold"),
    ],
)
def test_hospitals_of_one_file_are_cut_alike(
    data: str, a: str, b: str, key: str, scenario_file: Callable
) -> None:
    """A scanner and its institution share subjects, and a patient with samples at two sites is in
    one fold at both: who tests on other folds would test others' models on people whom they know.
    """
    text = SCENARIO.format(reader="mine", architecture="cnn-plain", a=a, b=b)
    text = text.replace("{name: own, reader: mine}", data)
    with pytest.raises(InvalidValue, match=f"{key} is .* here and .* at 'a'") as caught:
        read_scenario(scenario_file(text))
    assert caught.value.key == ("hospitals", 1, "data", key)
    given = re.search(rf", ({key}: \w+)", text.partition("name: b")[2])[1]
    read_scenario(scenario_file(text.replace(f", {given}", "")))


def test_a_part_that_is_not_named_is_told_once(
    install: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """Nothing is said of the samples of a part of which nobody knows which it is."""
    install(
        "m",
        {"mine": "m:read"},
        HEAD + "def read(folder): return Cohort(images, labels)",
        group=READERS,
    )
    cut = OwnData(name="own", reader="mine", partition=Partition(parts=2))
    with pytest.raises(InvalidValue, match="it does not say which part is this hospital's"):
        facts(cut, "a", 1, tmp_path)
    text = SCENARIO.format(
        reader="mine, partition: {parts: 2}", architecture="cnn-plain", a="", b=""
    )
    with pytest.raises(InvalidValue) as caught:
        load_and_check(scenario_file(text), tmp_path)
    assert not caught.value.others
    text = text.replace("name: own, reader: mine,", "name: mine,")
    with pytest.raises(InvalidValue, match='there is no data "mine"') as caught:
        read_scenario(scenario_file(text))
    assert caught.value.fix.endswith("what a reader of yours reads is {name: own, reader: ...}")


def test_a_sample_that_only_training_sees_is_told_by_its_row(
    install: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """What the check before the run has not looked at is found before anything trains."""
    body = (
        "matrices[[3, 5]] = np.nan\n"
        "def read(folder): return Cohort(lambda rows: matrices[rows], labels, sites=sites)"
    )
    install("m", {"mine": "m:read"}, HEAD + body, group=READERS)
    text = SCENARIO.format(reader="mine", architecture="roi-mlp", a="site: x", b="site: y")
    scenario = read_scenario(scenario_file(text)).scenario
    assert not [*find_problems(scenario, tmp_path)]
    with pytest.raises(ReaderFailed, match=r"gives 128 values .* the first in row [35]"):
        load(scenario, "a", tmp_path, "cpu")
