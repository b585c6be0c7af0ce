"""Records to tables and pictures."""

from __future__ import annotations

import errno
import json
import math
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fedskd_sim.errors import OutputNotWritable, RunUnreadable
from fedskd_sim.records import Measure, Record, Timing
from fedskd_sim.records.ledger import Ledger
from fedskd_sim.results.notes import rarest_classes
from fedskd_sim.results.report import Account, as_json, as_text, summarise, write
from fedskd_sim.results.text import MOST_ROWS
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import load

THREE = ("north", "east", "south")
RIGHT = {  # model, host: right answers, test samples
    ("north", "north"): (9, 10),
    ("north", "east"): (10, 20),
    ("north", "south"): (3, 5),
    ("east", "north"): (7, 10),
    ("east", "east"): (16, 20),
    ("east", "south"): (2, 5),
    ("south", "north"): (1, 10),
    ("south", "east"): (5, 20),
    ("south", "south"): (5, 5),
}
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Outline(HTMLParser):
    """Checks that tags nest, and keeps tags, ids, attributes and text."""

    def __init__(self, page: str) -> None:
        """Read a page."""
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def evaluation(model: str, host: str, right: tuple[int, int], **measures: Measure) -> Record:
    """Make the record of one evaluation of three hospitals."""
    hop = (THREE.index(host) - THREE.index(model)) % 3
    found = {"accuracy": Measure(*right), **measures}
    return Record(
        "demo",
        7,
        "evaluation",
        2,
        hop,
        host,
        model,
        f"net-{model}",
        "evaluated",
        bytes=100 * hop,
        measures=found,
    )


def evaluations(**measures: Measure) -> list[Record]:
    """Make the full evaluation round of three hospitals."""
    return [evaluation(model, host, right, **measures) for (model, host), right in RIGHT.items()]


def story(hospitals: tuple[str, ...], rounds: int = 1) -> list[Record]:
    """Make all records of a run in which accuracy grows with every stop."""
    ring, size = Topology(hospitals, rounds), len(hospitals)
    stops = [stop for host in hospitals for stop in Program(ring, host).stops()]
    base = Record("demo", 7, "warm_up", 0, 0, "", "", "net", "trained", samples=10, steps=1)

    def measures(stop: int) -> dict[str, Measure]:
        share = (stop + 1) / (size * (rounds + 1) + 1)
        return {
            name: Measure(share, 1) for name in ("accuracy", "balanced_accuracy", "auc", "drift")
        }

    found = [replace(base, host=name, model=name, measures=measures(0)) for name in hospitals]
    for stop in stops:
        place = {
            "kind": stop.kind,
            "round": stop.round,
            "hop": stop.hop,
            "host": stop.host,
            "model": stop.model,
        }
        outcome = "evaluated" if stop.kind == "evaluation" else "trained"
        number = size * (stop.round - 1) + stop.hop
        found.append(replace(base, **place, outcome=outcome, bytes=8, measures=measures(number)))
    last = {
        "kind": "evaluation",
        "round": rounds + 1,
        "outcome": "evaluated",
        "measures": measures(size * rounds),
    }
    return found + [replace(base, **last, samples=0, host=name, model=name) for name in hospitals]


def folder(
    run: Path, records: list[Record], hospitals: tuple[str, ...], scenario: str = "name: demo\n"
) -> Path:
    """Write a run folder with a timing of every kind."""
    for name in hospitals:
        ledger = Ledger(run, name)
        for record in records:
            if record.host == name:
                ledger.add(record)
        for at, what in enumerate(("warm_up", "session", "evaluation", "transfer")):
            ledger.add(Timing(what, name, name, 1, 1, 1e9 + at, 1e9 + at + 0.5))
        ledger.close()
    (run / "scenario.yaml").write_text(scenario, encoding="utf-8")
    (run / "environment.json").write_text(
        json.dumps({"python": "3.11", "cores": "<2>"}), encoding="utf-8"
    )
    return run


def test_the_page_says_who_was_started_again(tmp_path: Path) -> None:
    """Hospitals that went on after a death are named with how often; without any nothing is
    said.
    """
    records = evaluations()
    run = folder(tmp_path, records, THREE)
    write(run, THREE)
    assert "Started again" not in (run / "report.html").read_text(encoding="utf-8")
    for name, times in (("south", 2), ("east", 1)):
        size = (run / "records" / f"{name}.jsonl").stat().st_size
        ledger = Ledger(run, name, kept=size)
        for at in range(times):
            ledger.add(Timing("resumed", name, name, 0, 0, 1e9 + at, 1e9 + at + 0.5))
        ledger.close()
    write(run, THREE)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Started again, and went on where they were: east 1 time, south 2 times." in page


def test_results_are_shown_before_the_page_is_drawn(tmp_path: Path) -> None:
    """Whoever waits for results has them, with their files, before anything is drawn."""
    run, seen = folder(tmp_path, evaluations(), THREE), list[tuple[object, set[str]]]()

    def shown(summary: object) -> None:
        seen.append((summary, {file.name for file in run.glob("report*")}))

    found = write(run, THREE, shown=shown)
    assert seen == [(found, {"report.txt", "report.json"})]
    assert (run / "report.html").is_file()


def test_a_report_says_how_busy_hospitals_were_and_what_set_the_pace(tmp_path: Path) -> None:
    """Shares are of the time from the first start to the last end; a test holds no model up. Only
    the page and the terminal have them, for no other run has the same, and where hospitals take
    turns in one process there is none.
    """
    run = folder(tmp_path, evaluations(), THREE)
    ledger = Ledger(run, "east", kept=(run / "records" / "east.jsonl").stat().st_size)
    ledger.add(Timing("session", "east", "south", 1, 2, 1e9 + 4, 1e9 + 8))
    ledger.close()
    ring = "hospitals: [" + ", ".join(f"{{name: {one}, architecture: buffer}}" for one in THREE)
    text = f"name: three\n{ring}]\nalgorithm: {{name: placebo, rounds: 1}}\n"
    (run / "scenario.yaml").write_text(text, encoding="utf-8")
    account = Account.of(load(run / "scenario.yaml"), None)
    found = write(run, THREE, account=account)
    assert found.pace
    assert found.pace.busy == {"north": 1.5 / 8, "east": 5.5 / 8, "south": 1.5 / 8}
    assert found.pace.chains == {"north": 1 / 8, "east": 1 / 8, "south": 5 / 8}
    told = as_text(found, whole=False)
    assert "busy: east 69%, north 19%, south 19% of the time; the rest they waited." in told
    assert "pace: set by east, which is busy for 69% of the run." in told
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Pace: set by east" in page
    assert ">31.2<" in page
    assert "pace" not in "".join((run / f"report.{form}").read_text() for form in ("txt", "json"))
    (run / "environment.json").write_text('{"runtime": "memory"}', encoding="utf-8")
    assert write(run, THREE, account=account).pace is None


def test_personalization_is_the_mean_over_models_at_home() -> None:
    """P gives every hospital the same weight, whatever the size of its test data."""
    assert summarise(evaluations(), THREE).matrices["accuracy"].personalization == pytest.approx(
        (0.9 + 0.8 + 1.0) / 3
    )


def test_generalization_is_the_mean_over_models_of_the_mean_elsewhere() -> None:
    """G averages first over the other hospitals, then over the models, all with the same weight."""
    matrix = summarise(evaluations(), THREE).matrices["accuracy"]
    assert [matrix.others(model) for model in range(3)] == pytest.approx([0.55, 0.55, 0.175])
    assert matrix.generalization == pytest.approx((0.55 + 0.55 + 0.175) / 3)


def test_a_matrix_row_is_a_model_and_a_column_a_host_in_the_order_given() -> None:
    """The order of hospitals comes from the argument, not from the files."""
    turned = ("south", "north", "east")
    values = summarise(evaluations(), turned).matrices["accuracy"].values
    assert values == ((1.0, 0.1, 0.25), (0.6, 0.9, 0.5), (0.4, 0.7, 0.8))


def test_a_missing_auc_is_left_out_of_the_means_and_noted() -> None:
    """One-class test data has no AUC: its cell is NaN, means leave it out, and a note says so."""
    records = evaluations(auc=Measure(1.5, 2))
    records[1] = evaluation("north", "east", (10, 20), auc=Measure(0, 0))
    summary = summarise(records, THREE)
    assert math.isnan(summary.matrices["auc"].values[0][1])
    assert summary.matrices["auc"].others(0) == 0.75
    assert summary.complete
    assert any("1 of 9" in note and "AUC" in note for note in summary.notes)
    assert as_json(summary)["metrics"]["auc"]["matrix"][0] == [0.75, None, 0.75]


def test_without_balanced_accuracy_the_headline_is_accuracy() -> None:
    """A run that measured accuracy only shows its accuracy matrix."""
    assert summarise(evaluations(), THREE).headline == "accuracy"
    assert (
        summarise(evaluations(balanced_accuracy=Measure(1, 2)), THREE).headline
        == "balanced_accuracy"
    )


def test_counts_add_up() -> None:
    """Hops are arrivals of models; sessions include the warm-up; bytes and samples are sums over
    all records.
    """
    records = story(THREE)
    records[3] = replace(records[3], outcome="rolled_back")
    counts = summarise(records, THREE).counts
    assert (counts.hops, counts.sessions, counts.rolled_back) == (9 + 6, 3 + 9, 1)
    assert (counts.bytes, counts.samples) == (15 * 8, 3 * 10 + 15 * 10)


def test_a_level_that_compared_nothing_is_noted() -> None:
    """A mean distance of exactly 0 says that no item was there to compare."""
    totals = iter((0.0, 0.0, 1.0))
    records = [
        replace(record, measures={**record.measures, "similarity_region": Measure(total, 4.0)})
        if record.kind == "visit" and (total := next(totals, None)) is not None
        else record
        for record in story(THREE)
    ]
    (note,) = [one for one in summarise(records, THREE).notes if "compared" in one]
    assert note.startswith("Nothing was compared at the region level in 2 of 3 sessions: the")


def test_a_way_has_one_step_per_session_in_the_order_of_the_run() -> None:
    """Stops count through the rounds, from the warm-up as 0, and the last of each round is at
    home.
    """
    steps = summarise(story(THREE, rounds=2)[::-1], THREE).ways["east"]
    assert [step.stop for step in steps] == [0, 1, 2, 3, 4, 5, 6]
    assert [step.host for step in steps] == [
        "east",
        "south",
        "north",
        "east",
        "south",
        "north",
        "east",
    ]
    assert [step.home for step in steps] == [True, False, False, True, False, False, True]
    assert steps[3].accuracy == pytest.approx(4 / 10)


@pytest.mark.parametrize("kept", [0, 2, 12, 20])
def test_a_run_that_ended_early_is_reported_as_incomplete(tmp_path: Path, kept: int) -> None:
    """Whatever is missing, all three reports are written and say that the run is incomplete."""
    run = folder(tmp_path, story(THREE)[:kept], THREE)
    summary = write(run, THREE)
    assert not summary.complete
    for name in ("report.txt", "report.json", "report.html"):
        text = (run / name).read_text(encoding="utf-8")
        assert "This run is incomplete" in text
        assert "nan" not in re.sub(r"<[^>]*>", "", text).lower()


def test_a_record_of_an_unknown_hospital_is_refused() -> None:
    """Records and scenario that do not belong together give an error, not a wrong table."""
    with pytest.raises(RunUnreadable, match="'south'"):
        summarise(evaluations(), ("north", "east"))


def test_a_terminal_is_spared_the_matrix_of_many_hospitals() -> None:
    """Its pages of numbers are in report.txt, which a sentence names; that of few is shown."""
    names = tuple(f"h{number}" for number in range(MOST_ROWS + 1))
    for count in (MOST_ROWS, MOST_ROWS + 1):
        summary = summarise([], names[:count])
        brief, whole = as_text(summary, whole=False), as_text(summary)
        assert (brief == whole) == (count == MOST_ROWS)
        assert "column: test data of that number" in whole.replace("\n", " ")
    assert "column: test data" not in brief
    assert f"The matrix of {count} hospitals is in report.txt and the page." in brief
    assert "mean" in brief


def test_the_text_has_percentages_with_one_decimal() -> None:
    """A terminal shows the table of own and others, and the matrix with numbered columns."""
    lines = as_text(summarise(evaluations(), THREE)).splitlines()
    assert next(line for line in lines if line.startswith("mean")).split() == [
        "mean",
        "90.0",
        "42.5",
        "35",
        "35",
    ]
    assert next(line for line in lines if line.startswith(" 2 east")).split() == [
        "2",
        "east",
        "70.0",
        "80.0",
        "40.0",
    ]


def test_long_names_leave_each_other_room() -> None:
    """Where neither fits, a hospital has 22 letters and its architecture the rest; where the
    hospitals are short, architectures have what they leave.
    """
    for names, wide in ((("hospital-" * 4 + "a", "hospital-" * 4 + "b"), 22), (("a", "b"), 8)):
        found = [replace(record, architecture="net-" * 10) for record in story(names)]
        lines = as_text(summarise(found, names)).splitlines()
        row = next(line.split() for line in lines if "…" in line)
        assert len(row[0]) == min(wide, len(names[0]))
        assert len(row[1]) == 36 - wide


@pytest.mark.parametrize("size", [3, 17])
def test_columns_have_the_numbers_of_their_rows(size: int) -> None:
    """Of however many blocks a matrix has: each hospital once, in the rows' order."""
    names = tuple(f"hospital-{number}" for number in range(size))
    lines = as_text(summarise(story(names), names)).splitlines()
    blocks = [line.split() for line in lines if re.fullmatch(r" [ \d]*\d", line)]
    assert [int(number) for block in blocks for number in block] == [*range(1, size + 1)]
    assert len(blocks) == (1 if size == 3 else 2)


@pytest.mark.parametrize("size", [2, 4, 17])
def test_the_text_fits_a_terminal(size: int) -> None:
    """No line is longer than 100 columns, with the longest names, many samples and seventeen
    hospitals too.
    """
    names = tuple(f"{'hospital-' * 4}{number:04}" for number in range(size))
    found = [replace(record, architecture="net-" * 10) for record in story(names)]
    found = [
        replace(record, measures=dict(record.measures) | {"accuracy": Measure(9999, 99999)})
        for record in found
    ]
    text = as_text(summarise(found, names, rarest=dict.fromkeys(names, 9999)))
    assert max(map(len, text.splitlines())) <= 100
    assert all(name[-4:] in text for name in names)


def test_text_follows_the_width_of_a_terminal() -> None:
    """Sentences and the tables of own, others and matrix keep to it from 80 columns on; names
    stay, and architectures go first.
    """
    names = tuple(f"hospital-{number}" for number in range(12))
    summary = summarise(story(names), names)
    for width in (80, 100, 120):
        text = as_text(summary, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert names[-1] in text


def labelled(run: Path, **hosts: list[int]) -> None:
    """Write the labels of some hospitals' test data as predictions hold them."""
    (run / "predictions").mkdir()
    for host, labels in hosts.items():
        numbers = np.array(labels)
        np.savez_compressed(
            run / "predictions" / f"{host}.npz",
            schema=np.array(1),
            scenario=np.array("demo"),
            host=np.array(host),
            split=np.array("test"),
            seed=np.array(7),
            classes=np.array(["a", "b", "c", "d"]),
            samples=np.array([str(number) for number in range(len(labels))]),
            labels=numbers,
            models=np.array([host]),
            kinds=np.array(["evaluation"]),
            probabilities=np.full((1, len(labels), 4), 0.25),
        )


def test_the_rarest_class_is_counted_from_the_labels_of_predictions(tmp_path: Path) -> None:
    """Of the classes that a hospital's test data have, the one with the fewest samples counts."""
    labelled(tmp_path, north=[2] * 4 + [0] * 6, east=[1] * 3 + [0] * 17, south=[3] * 5)
    assert rarest_classes(tmp_path) == {"north": 4, "east": 3, "south": 5}


def test_beside_each_mean_stands_what_it_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, page and JSON show the test samples of own, others and all and, where known, the
    fewest of a class at a hospital.
    """
    monkeypatch.setattr(
        "fedskd_sim.results.report.rarest_classes", lambda _: {"north": 4, "east": 3, "south": 5}
    )
    run = folder(tmp_path, evaluations(), THREE)
    write(run, THREE)
    lines = (run / "report.txt").read_text(encoding="utf-8").splitlines()
    heads = ("north", "east", "south", "mean")
    found = [
        re.split(r"  +", next(line for line in lines if line.startswith(head)))[-2:]
        for head in heads
    ]
    assert found == [
        ["10 (4)", "25 (3)"],
        ["20 (3)", "15 (4)"],
        ["5 (5)", "30 (3)"],
        ["35 (3)", "35 (3)"],
    ]
    assert [line.split() for line in lines[-2:]] == [
        ["samples", "10", "20", "5"],
        ["rarest", "class", "4", "3", "5"],
    ]
    told = json.loads((run / "report.json").read_text(encoding="utf-8"))["tested"]
    assert told == [
        {"samples": 10, "rarest": 4},
        {"samples": 20, "rarest": 3},
        {"samples": 5, "rarest": 5},
    ]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<td class="part">20 (3)</td><td>15 (4)</td>' in page
    assert "<td>10 (4)</td><td>20 (3)</td><td>5 (5)</td>" in page


def test_a_rarest_class_that_is_not_known_everywhere_is_not_told_of_all(tmp_path: Path) -> None:
    """Hospitals without labels show their samples only, as does every mean over one of them; one
    never tested has none.
    """
    records = [record for record in evaluations() if record.host != "south"]
    labelled(tmp_path, north=[2] * 4 + [0] * 6)
    summary = summarise(records, THREE, rarest=rarest_classes(tmp_path))
    assert [str(basis) for basis in summary.bases] == ["10 (4)", "20", "0"]
    assert [tuple(map(str, pair)) for pair in summary.rests] == [
        ("10 (4)", "20"),
        ("20", "10 (4)"),
        ("0", "30"),
    ]


def test_damaged_predictions_are_unreadable(tmp_path: Path) -> None:
    """Predictions that are no archive of arrays, or one without labels, are named by their file."""
    (tmp_path / "predictions").mkdir()
    file = tmp_path / "predictions" / "north.npz"
    file.write_bytes(b"PK no archive")
    with pytest.raises(RunUnreadable) as caught:
        rarest_classes(tmp_path)
    assert caught.value.where.file == str(file)
    np.savez(file, other=np.zeros(3))
    with pytest.raises(RunUnreadable):
        rarest_classes(tmp_path)


def test_the_json_report_depends_on_records_alone(tmp_path: Path) -> None:
    """The JSON and text reports have the same bytes for the same records, and JSON has no NaN."""
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run = folder(tmp_path / name, story(THREE)[:-1], THREE)
        write(run, THREE)
        texts.append(
            [(run / file).read_bytes() for file in ("report.json", "report.txt", "report.html")]
        )
    assert texts[0] == texts[1]
    found = json.loads(texts[0][0], parse_constant=pytest.fail)
    assert found["metrics"]["accuracy"]["own"][2] is None
    assert found["personalization"] == found["metrics"][found["headline"]]["personalization"]
    assert found["hospitals"][0] == {"name": "north", "architecture": "net"}


@pytest.mark.parametrize("size", [2, 4, 17])
def test_the_page_is_one_well_formed_file_that_asks_for_nothing(tmp_path: Path, size: int) -> None:
    """Tags nest, ids are unique, the one script is that of the page's policy, there is no address
    except XML namespaces and pictures within the page, and all pictures have a label, one of them
    with names beside it.
    """
    names = tuple(f"site-{number}" for number in range(size))
    write(folder(tmp_path, story(names), names), names)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.open == []
    assert not {"link", "img", "iframe"} & set(outline.tags)
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert outline.tags.count("script") == 1
    addresses = [value or "" for name, value in outline.attributes if not name.startswith("xmlns")]
    addresses = [value for value in addresses if not value.startswith("data:image/png;base64,")]
    assert not [value for value in addresses if re.search(r"https?:|//", value)]
    assert "@import" not in page
    assert all(found.startswith("url(#") for found in re.findall(r"url\([^)]*", page))
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert outline.attributes.count(("role", "img")) == outline.tags.count("svg") - 1
    assert outline.tags.count("image") == (2 if size > 6 else 0)
    assert outline.attributes.count(("aria-hidden", "true")) == 1
    assert all(name in outline.words for name in names)


@pytest.mark.parametrize("size", [3, 7])
def test_nothing_measured_gives_a_page_without_pictures_of_it(tmp_path: Path, size: int) -> None:
    """A placebo run, and a long one that is drawn in panels, have the pictures for which there
    are values.
    """
    names = tuple(f"site-{number}" for number in range(size))
    records = [
        replace(record, measures={"accuracy": Measure(0, 1)}) for record in story(names, rounds=21)
    ]
    summary = write(folder(tmp_path, records, names), names)
    page = Outline((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert summary.headline == "accuracy"
    assert page.tags.count("svg") == 3 + 1
    assert page.open == []


def test_the_page_shows_scenario_and_environment_as_text(tmp_path: Path) -> None:
    """Markup in a scenario or in the environment is shown, never executed."""
    write(folder(tmp_path, story(THREE), THREE, "name: <script>alert(1)</script>\n"), THREE)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;2&gt;" in page


def test_a_damaged_record_is_named_by_file_and_line(tmp_path: Path) -> None:
    """A truncated line, its newline apart, gives RunUnreadable with its place, and no report is
    written.
    """
    run = folder(tmp_path, story(THREE), THREE)
    file = run / "records" / "east.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines[:2], lines[2][:40], ""]), encoding="utf-8")
    with pytest.raises(RunUnreadable) as caught:
        write(run, THREE)
    assert str(caught.value.where) == f"{file}:3"
    assert not (run / "report.txt").exists()


@pytest.mark.parametrize("name", ["scenario.yaml", "environment.json", "records"])
def test_a_folder_that_is_no_run_is_unreadable(tmp_path: Path, name: str) -> None:
    """Without its scenario, environment or records a folder is not a run folder."""
    run = folder(tmp_path, story(THREE), THREE)
    (run / name).rename(tmp_path / "elsewhere")
    with pytest.raises(RunUnreadable):
        write(run, THREE)


@pytest.mark.parametrize("text", ["[]", "{", "\x80"])
def test_a_damaged_environment_is_unreadable(tmp_path: Path, text: str) -> None:
    """An environment that is no JSON mapping gives RunUnreadable with its file."""
    run = folder(tmp_path, story(THREE), THREE)
    (run / "environment.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunUnreadable, match="environment"):
        write(run, THREE)


def test_a_report_that_cannot_be_written_is_an_error_of_the_place(tmp_path: Path) -> None:
    """A folder in the way of a report gives OutputNotWritable, and no draft stays behind."""
    run = folder(tmp_path, story(THREE), THREE)
    (run / "report.html").mkdir()
    with pytest.raises(OutputNotWritable, match=r"report\.html"):
        write(run, THREE)
    assert not list(run.glob(".*"))


def test_a_report_on_a_disk_that_can_only_be_read_is_an_error_of_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the draft can be neither written nor removed, the first of the two is told."""
    run = folder(tmp_path, story(THREE), THREE)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputNotWritable, match=r"report\.txt cannot be written: read-only"):
        write(run, THREE)


def test_two_reports_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole report is written while another one is between its draft and its end: both
    succeed, and no draft stays behind.
    """
    run, write_text = folder(tmp_path, story(THREE), THREE), Path.write_text
    summaries = []

    def meanwhile(path: Path, *arguments: object, **options: object) -> int:
        written = write_text(path, *arguments, **options)
        monkeypatch.setattr(Path, "write_text", write_text)
        summaries.append(write(run, THREE))
        return written

    monkeypatch.setattr(Path, "write_text", meanwhile)
    summaries.append(write(run, THREE))
    assert summaries[0] == summaries[1]
    assert (run / "report.txt").read_text(encoding="utf-8") == as_text(summaries[0])
    assert not list(run.glob(".*"))
