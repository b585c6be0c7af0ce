"""What a run has left is proven whole, and whatever is done to it is named, by file and line."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.custody.expected import ExpectedRecords, ways_left
from fedskd_sim.custody.verify import Verdict, verify
from fedskd_sim.errors import ChainBroken, RunUnreadable
from fedskd_sim.learning.comparable import image_shape
from fedskd_sim.learning.site import specs_of
from fedskd_sim.operate.checks import verify_run
from fedskd_sim.records import Record, to_line
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.scenario import Scenario, load

TEXT = """
name: small
seed: 3
data: {{name: synthetic-skin, samples: 48, image_size: 16, classes: 3}}
hospitals:
  - {{name: a, architecture: {{name: cnn-plain, options: {{width: 4, norm: batch}}}}}}
  - {{name: b, architecture: {{name: cnn-residual, options: {{width: 4}}}}}}
  - {{name: c, architecture: {{name: cnn-plain, options: {{width: 8}}}}}}{more}
algorithm: {algorithm}
training: {{epochs: 1, warmup_epochs: 1, batch_size: 16}}
prediction: {prediction}
"""
HELD_OUT = "\n  - {name: d, held_out: true, architecture: cnn-plain}"
COMMON = "architecture: {name: cnn-plain, options: {width: 4, norm: batch}}"
RUNS = {
    "fedskd": ("{name: fedskd, rounds: 2}", "{}", ""),
    "held out": ("{name: circulation, rounds: 1}", "{ensemble: true}", HELD_OUT),
    "mix": ("{name: fedskd, rounds: 1}", "{model: mix, ensemble: true}", ""),
    "last": ("{name: mutual, rounds: 1}", "{model: last}", ""),
    "two tracks": ("{name: fedskd, rounds: 2, reconcile: two_track}", "{ensemble: true}", ""),
    "two tracks, last": ("{name: fedskd, rounds: 1, reconcile: two_track}", "{model: last}", ""),
    "traveller first": ("{name: fedskd, preset: traveller-first, rounds: 2}", "{}", ""),
    "own": ("{name: fedskd, traveller_start: own, rounds: 2}", "{}", ""),
    "sequential": (
        "{name: circulation, rounds: 2, schedule: {mode: sequential, order: shuffled}}",
        "{}",
        "",
    ),
    "shuffled, partial": (
        "{name: circulation, rounds: 3, schedule: {order: shuffled, visits: 1}}",
        "{}",
        "",
    ),
    "cyclic": ("{name: cyclic, rounds: 1}", "{model: averaged}", ""),
    "fedavg": (f"{{name: fedavg, rounds: 2, {COMMON}}}", "{}", HELD_OUT),
    "fedprox": (f"{{name: fedprox, rounds: 1, mu: 0.1, {COMMON}}}", "{model: averaged}", ""),
    "fml": ("{name: fml, rounds: 2}", "{}", ""),
    "fedproto": ("{name: fedproto, rounds: 2}", "{}", ""),
    "fd": ("{name: fd, rounds: 2}", "{}", ""),
    "fedtgp": ("{name: fedtgp, rounds: 2}", "{}", ""),
    "fedgh": ("{name: fedgh, rounds: 2}", "{}", ""),
    "d-psgd": (f"{{name: d-psgd, rounds: 2, {COMMON}}}", "{}", HELD_OUT),
    "def-kt": ("{name: def-kt, rounds: 2}", "{}", HELD_OUT),
    "dfml": ("{name: dfml, rounds: 3}", "{}", HELD_OUT),
    "dfml, at its second peak": ("{name: dfml, rounds: 4}", "{ensemble: true}", ""),
    "ditto": (f"{{name: ditto, rounds: 2, {COMMON}}}", "{}", ""),
    "partial": (f"{{name: partial, rounds: 2, shared: head, {COMMON}}}", "{}", ""),
    "moon": (f"{{name: moon, rounds: 2, {COMMON}}}", "{}", ""),
    "scaffold": (f"{{name: scaffold, rounds: 2, {COMMON}}}", "{}", ""),
    "local": ("{name: local, rounds: 2}", "{}", ""),
    "pooled": ("{name: pooled, rounds: 1}", "{logit_adjustment: 0.5}", ""),
    "placebo": ("{name: placebo, rounds: 2, session_seconds: 0, buffer_bytes: 9}", "{}", ""),
}
ONE_HEAD = "width: 8", "width: 4"
SILENT = {"fedskd": 0, "sequential": 7, "fedavg": 15, "placebo": 0}
"""Runs in which everything is done to every line, and of how many digests no other record says
anything."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run a scenario once, to its end."""
    place, done = tmp_path_factory.mktemp("runs"), {}

    def go(name: str) -> Path:
        if name not in done:
            algorithm, prediction, more = RUNS[name]
            file = place / f"{name}.yaml"
            text = TEXT.format(algorithm=algorithm, prediction=prediction, more=more)
            if "fedgh" in algorithm:
                text = text.replace(*ONE_HEAD)
            file.write_text(
                text.replace("synthetic-skin, samples: 48, image_size: 16, classes: 3", "none")
                if name == "placebo"
                else text
            )
            loaded = load(file)
            done[name] = folder.make(loaded, place / name, "memory")
            runtime = MemoryRuntime()
            runtime.launch(Order(loaded, "test", done[name], None))
            runtime.wait(lambda _: None)
        return done[name]

    return go


@pytest.fixture
def copied(runs: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Give a run to do something to."""
    return lambda name: Path(shutil.copytree(runs(name), tmp_path / "run", dirs_exist_ok=True))


@cache
def scenario(run: Path) -> Scenario:
    return load(run / "scenario.yaml").scenario


def proven(run: Path) -> Verdict:
    return verify_run(run, scenario(run), None)[0]


def changed(run: Path, change: Callable[[list[str]], list[str]], name: str) -> Verdict:
    """Change the lines of a hospital's records, verify, and put them back."""
    file = run / "records" / f"{name}.jsonl"
    before = file.read_text(encoding="utf-8")
    file.write_text("".join(change(before.splitlines(keepends=True))), encoding="utf-8")
    try:
        return verify(run, scenario(run), ended="abcd")
    finally:
        file.write_text(before, encoding="utf-8")


def place(found: Verdict) -> tuple[str, str, int | None]:
    """Give what was found: the kind of break, the file and the line."""
    assert found.broken
    assert found.broken.where
    return (
        found.broken.message.partition(":")[0],
        Path(found.broken.where.file).stem,
        found.broken.where.line,
    )


def lines(run: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for file in sorted((run / "records").iterdir()):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            yield file.stem, number, json.loads(line)


def edited(number: int, **fields: object) -> Callable[[list[str]], list[str]]:
    def edit(found: list[str]) -> list[str]:
        line = json.dumps({**json.loads(found[number]), **fields}, separators=(",", ":")) + "\n"
        return [*found[:number], line, *found[number + 1 :]]

    return edit


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_every_algorithm_is_whole(runs: Callable, name: str) -> None:
    """Every record is due, every link holds, and every file of weights is compared, but those of
    which no record says anything.
    """
    found = proven(runs(name))
    assert found.broken is None
    assert found.records == found.expected > 0
    kept = len(list((runs(name) / "weights").iterdir()))
    assert (
        (found.weights, found.unchecked) == (kept - 3, 3)
        if name == "two tracks, last"
        else (kept, 0)
    )
    assert found.links + found.begins == sum(
        entry["hop"] > 0 and entry["kind"] != "ensemble" for *_, entry in lines(runs(name))
    )
    assert found.begins == 0 or name not in (
        "fedskd",
        "traveller first",
        "shuffled, partial",
        "local",
        "pooled",
        "placebo",
    )


@pytest.mark.parametrize("name", SILENT)
def test_every_line_that_is_removed_doubled_or_swapped_is_named(
    copied: Callable, name: str
) -> None:
    """Whatever line it is, the first break is there, by name, file and line."""
    run = copied(name)
    for host, number, _ in lines(run):
        total = sum(one == host for one, *_ in lines(run))
        removed = changed(run, lambda found, at=number: found[:at] + found[at + 1 :], host)
        assert place(removed) == ("missing", host, number + 1)
        doubled = changed(run, lambda found, at=number: found[: at + 1] + found[at:], host)
        assert place(doubled) == ("doubled", host, number + 2)
        if number + 1 < total:
            swapped = changed(
                run,
                lambda found, at=number: [*found[:at], found[at + 1], found[at], *found[at + 2 :]],
                host,
            )
            assert place(swapped) == ("swapped", host, number + 1)


@pytest.mark.parametrize("name", SILENT)
def test_every_digest_that_is_altered_is_named(copied: Callable, name: str) -> None:
    """A digest with which something arrived breaks its own line; one with which it left, the line
    of its arrival, which names it.

    Not where no record says with which digest a way begins or, of a home model that others are
    trained beside, how it ended.
    """
    run, silent = copied(name), 0
    for host, number, entry in lines(run):
        for field in ("digest_in", "digest_out"):
            if not entry[field]:
                continue
            found = changed(run, edited(number, **{field: "0" * 32}), host)
            if found.broken is None:
                silent += 1
                continue
            kind, file, line = place(found)
            assert kind == "altered"
            assert (file, line) == (host, number + 1) or (
                field == "digest_out" and f"{host}.jsonl:{number + 1}" in str(found.broken)
            )
    assert silent == SILENT[name]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"model": "z"}, "foreign"),
        ({"host": "b"}, "foreign"),
        ({"hop": 17}, "foreign"),
        ({"round": 17}, "foreign"),
        ({"kind": "gather"}, "foreign"),
        ({"scenario": "other"}, "foreign"),
        ({"seed": 4}, "foreign"),
        ({"architecture": "vit-tiny"}, "foreign"),
        ({"schema": 2}, "altered"),
        ({"measures": {"accuracy": [1]}}, "altered"),
        ({"measures": []}, "altered"),
        ({"round": "1"}, "altered"),
        ({"more": 1}, "altered"),
        ({"outcome": "evaluated"}, "altered"),
        ({"digest_in": "../x"}, "altered"),
        ({"digest_in": ""}, "altered"),
        ({"digest_out": ""}, "altered"),
    ],
)
def test_every_other_field_that_is_altered_is_named(
    copied: Callable, fields: dict[str, object], kind: str
) -> None:
    """What the scenario fixes of a record cannot be changed."""
    assert place(changed(copied("fedskd"), edited(2, **fields), "a")) == (kind, "a", 3)


def test_a_foreign_line_is_named(copied: Callable) -> None:
    """A record that no step of this hospital leaves is foreign wherever it stands, and so is a
    file of no hospital.
    """
    run = copied("fedskd")
    other = (run / "records" / "b.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[1]
    for number in range(11):
        found = changed(run, lambda found, at=number: [*found[:at], other, *found[at:]], "a")
        assert place(found) == ("foreign", "a", number + 1)
    shutil.copy(run / "records" / "a.jsonl", run / "records" / "z.jsonl")
    assert place(verify(run)) == ("foreign", "z", None)


@pytest.mark.parametrize(
    "garbage", ["", "{}", "[]", "null", "[" * 5000, '{"a":', "\udcff", '{"schema": 1}', "1e999"]
)
def test_a_line_that_is_no_record_is_named(copied: Callable, garbage: str) -> None:
    """Whatever stands in its place, the line is altered, and nothing but that is raised."""
    run = copied("placebo")
    file = run / "records" / "a.jsonl"
    found = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(
        b"".join([found[0], garbage.encode(errors="surrogateescape") + b"\n", *found[2:]])
    )
    assert place(verify(run)) == ("altered", "a", 2)


def test_a_torn_last_line_is_named(copied: Callable) -> None:
    """A file cut anywhere within its last line is torn there; one cut at a line's end is missing
    the next, if the run went on.
    """
    run = copied("placebo")
    file = run / "records" / "b.jsonl"
    whole = file.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in (*range(1, last, 29), last - 1):
        file.write_bytes(whole[:-cut])
        assert place(verify(run, ended="abc")) == ("torn", "b", whole.count(b"\n"))


LOSSY = """\
on_loss: {name: skip, after: 5}
faults: [{hospital: b, what: leave, round: 2, hop: 2}]
"""


def test_a_torn_last_line_of_who_died_is_a_death(scenario_file: Callable, run: Callable) -> None:
    """Of a hospital that stays lost it is told and is no break, as where it was never written; but
    it is one where a model has gone on from there, whose record was whole before.
    """
    text = TEXT.format(algorithm="{name: fedskd, rounds: 2}", prediction="{}", more="") + LOSSY
    folder = run(scenario_file(text), "memory")
    file = folder / "records" / "b.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 5  # warm-up, two visits and a homecoming, and the first visit of round 2
    for rest in (b"{", whole[:60], lines[0][:-1]):
        file.write_bytes(whole + rest)
        found = proven(folder)
        assert (found.broken, found.lost, found.torn) == (None, ("b",), ("b",))
        assert found.records == found.expected
        assert str(found).endswith("; the last line of b is torn, as a death leaves it")
    for kept in (1, 2):  # the second visit's model has come home
        file.write_bytes(b"".join(lines[:kept]) + lines[kept][:60])
        assert place(proven(folder)) == ("torn", "b", kept + 1)
    file.write_bytes(lines[0] + lines[1][:60] + b"\n" + b"".join(lines[2:]))
    assert place(proven(folder)) == ("altered", "b", 2)


def test_a_torn_last_line_of_a_run_that_died_is_told(copied: Callable) -> None:
    """Where nobody has finished it is as if it were not there; what others have of it is missed."""
    run = copied("fedskd")
    for there in ("weights", "predictions", "logs"):
        shutil.rmtree(run / there)
    for file in (run / "records").iterdir():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:5]), encoding="utf-8")
    file.write_text("".join(lines[:5]) + lines[5][:60], encoding="utf-8")
    found = proven(run)
    assert (found.broken, found.torn) == (None, (file.stem,))
    file.write_text("".join(lines[:2]) + lines[2][:60], encoding="utf-8")
    assert place(proven(run)) == ("missing", file.stem, 3)


def test_a_torn_last_line_does_not_hide_who_was_lost(tmp_path: Path) -> None:
    """Who was left out stands in every record since: that before half a line knows it."""
    (tmp_path / "records").mkdir()
    told = Record("s", 0, "visit", 2, 1, "a", "c", "buffer", "passed", without={"b": 0})
    for rest in ("", '{"scenario":"s","se'):
        (tmp_path / "records" / "a.jsonl").write_text(f"{to_line(told)}\n{rest}", encoding="utf-8")
        assert ways_left(tmp_path, Topology(("a", "b", "c"), 2)).lost == {"b": 0}
    (tmp_path / "records" / "a.jsonl").write_text("", encoding="utf-8")
    assert not ways_left(tmp_path, Topology(("a", "b", "c"), 2)).lost


def test_the_first_break_is_named(copied: Callable) -> None:
    """Of several breaks that one is named which lies first in the run, in whichever file it
    stands.
    """
    run = copied("fedskd")
    late, early = run / "records" / "a.jsonl", run / "records" / "c.jsonl"
    late.write_text(
        "".join(late.read_text(encoding="utf-8").splitlines(keepends=True)[:-2]), encoding="utf-8"
    )
    early.write_text(
        "".join(
            edited(4, digest_in="1" * 32)(
                early.read_text(encoding="utf-8").splitlines(keepends=True)
            )
        ),
        encoding="utf-8",
    )
    assert place(proven(run)) == ("altered", "c", 5)


def test_a_run_that_ended_early_is_whole_as_far_as_it_got(copied: Callable) -> None:
    """Where the ends of files are missing as a death leaves them, nothing is broken; where what
    came later is there, it is.
    """
    run = copied("fedskd")
    for there in ("weights", "predictions", "logs"):
        shutil.rmtree(run / there)
    for file in (run / "records").iterdir():
        kept = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(kept[:5]), encoding="utf-8")
    found = proven(run)
    assert found.broken is None
    assert (found.records, found.expected) == (15, 30)
    assert str(found).startswith("whole as far as it got: 15 of 30 records")
    (run / "records" / "b.jsonl").write_text("")
    assert place(verify(run)) == ("missing", "b", 1)


def beside(file: Path) -> list[str]:
    """List the files that hold what travelled together with the model in a file: of these the
    first is named.
    """
    whose = file.stem.split(".")[-1] if ".ensemble." in file.name else file.stem.split(".")[0]
    return [str(one) for one in file.parent.glob(f"*.ensemble.{whose}.safetensors")]


@pytest.mark.parametrize("name", ["fedskd", "two tracks", "mix", "fedavg", "local"])
def test_weights_that_are_altered_are_named(copied: Callable, name: str) -> None:
    """One bit of any file, a file in the place of another, one cut or one too many: each is
    named.
    """
    run = copied(name)
    tables = specs_of(scenario(run), image_shape(scenario(run), "a", None))
    for file in sorted((run / "weights").iterdir()):
        whole = file.read_bytes()
        first = file.name == "a.safetensors"
        for bad in (
            whole[:-1] + bytes([whole[-1] ^ 1]),
            *((whole[:-1], b"", whole + b"x") if first else ()),
        ):
            file.write_bytes(bad)
            found = verify(run, scenario(run), tables)
            assert found.broken
            assert found.broken.message.startswith("altered")
            assert str(found.broken.where) in {str(file), *beside(file)}
        file.write_bytes(whole)
    (run / "weights" / "z.safetensors").write_bytes(b"")
    assert place(proven(run))[0] == "foreign"


def test_the_command_says_it_in_a_line_and_by_its_exit_code(
    copied: Callable, tmp_path: Path
) -> None:
    """0 and what was proven; 60 with file, line and what is wrong; 34 where there is no run."""
    run = copied("fedskd")
    done = CliRunner().invoke(main, ["verify", str(run)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[1:] == [
        "not sealed: nothing shows whether measures were changed since"
    ]
    assert "is whole: 30 of 30 records, 24 transfers intact, 3 files of weights" in done.output
    file = run / "records" / "b.jsonl"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"seed":3', '"seed":4', 1), encoding="utf-8"
    )
    done = CliRunner().invoke(main, ["verify", str(run)])
    assert done.exit_code == ChainBroken.exit_code == 60
    assert f"error: {file}:1: foreign" in done.output
    assert CliRunner().invoke(main, ["verify", str(tmp_path)]).exit_code == RunUnreadable.exit_code
    shutil.rmtree(run / "records")
    assert CliRunner().invoke(main, ["verify", str(run)]).exit_code == RunUnreadable.exit_code


@pytest.mark.parametrize("folder", ["records", "logs"])
def test_a_file_that_may_not_be_read_is_no_traceback(
    copied: Callable, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's run is told of as `report` does, by the file."""
    run, opened = copied("placebo"), Path.open

    def refused(file: Path, *arguments: Any, **more: Any) -> Any:
        if file.parent.name == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *arguments, **more)

    monkeypatch.setattr(Path, "open", refused)
    done = CliRunner().invoke(main, ["verify", str(run)])
    assert done.exit_code == RunUnreadable.exit_code, done.output
    assert f"{folder}/" in done.output


@pytest.mark.parametrize("name", RUNS)
def test_a_record_is_found_by_its_mark(scenario_file: Callable, name: str) -> None:
    """Whatever the algorithm, every record that is due leads to the step that leaves it, and to no
    step with another kind, host or place.
    """
    algorithm, prediction, more = RUNS[name]
    text = TEXT.format(algorithm=algorithm, prediction=prediction, more=more)
    given = load(scenario_file(text)).scenario
    ring = Topology.of(given)
    for expected in (ExpectedRecords(given, ring, name) for name in given.names):
        marks = [*expected.positions()]
        assert marks
        assert [expected.index(one) for one, _ in marks] == [index for _, index in marks]
        known = {one for one, _ in marks}
        kinds = {one.kind for one in known} | {"reduce"}
        others = {
            one._replace(**{field: value})
            for one in known
            for field, values in {
                "kind": kinds, "host": "abcde", "model": "abcde", "hop": range(9),
                "round": range(9)
            }.items()
            for value in values
        }  # fmt: skip
        assert not [one for one in others - known if expected.index(one) is not None]


def test_a_poisoner_need_not_pass_on_what_came(scenario_file: Callable) -> None:
    """From its round on a hospital that is to poison may change a sum that it passes on, and no
    other hospital may.
    """
    text = """
name: poisoned
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-plain}]
algorithm: {name: fedavg, rounds: 3}
data: {name: synthetic-skin}
faults: [{hospital: a, what: poison, round: 2, factor: 9}]
"""
    given = load(scenario_file(text)).scenario
    ring = Topology.of(given)
    told = {
        (host, round_, kind): ExpectedRecords(given, ring, host).passes_on(
            Record("s", 1, kind, round_, 2, host, "b", "net", "passed")  # type: ignore[arg-type]
        )
        for host in "ab"
        for round_ in (1, 2, 3)
        for kind in ("gather", "evaluation", "reduce")
    }
    assert {place for place, honest in told.items() if not honest and place[2] != "reduce"} == {
        ("a", 2, "gather"),
        ("a", 3, "gather"),
    }
    assert not any(honest for place, honest in told.items() if place[2] == "reduce")
