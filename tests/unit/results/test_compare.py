"""Comparisons: equal work, paired seeds, and runs that are carried out once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from fedskd_sim import compare
from fedskd_sim.cli import main
from fedskd_sim.errors import (
    ArchitecturesDiffer,
    CustodyForeign,
    ForkServerDied,
    InvalidValue,
    OutputNotEmpty,
    OutputNotWritable,
    UnknownKey,
)
from fedskd_sim.exits import INTERRUPTED
from fedskd_sim.operate.comparison import CompareRequest, plan
from fedskd_sim.results.comparison.planning import PlannedRun, choices, cut_short, methods, tasks
from fedskd_sim.results.comparison.tables import MethodRow, Score
from fedskd_sim.results.comparison.text import off_budget
from fedskd_sim.results.comparison.work import LOCK, RunResult, Workshop
from fedskd_sim.runtimes.forkserver import UNKNOWN
from fedskd_sim.scenario import BUILT_IN, Scenario, load, offered_names, passes

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "scenarios" / "quickstart.yaml"
SKIN = ROOT / "scenarios" / "fedskin-ham10000.yaml"
TINY = """
name: tiny
data: {name: synthetic-skin, samples: 40, image_size: 16, classes: 3, label_skew: 0}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-depthwise}
algorithm: {name: fedskd, rounds: 1}
training: {warmup_epochs: 1}
variants:
  averaged: {algorithm: {name: fedavg, architecture: cnn-plain}, budget: per_model}
  alone: {algorithm: {name: cyclic}, budget: single}
  broken: {training: {optimiser: {learning_rate: 1.0e+30}, max_rollbacks: 1}}
"""


def scenario() -> Scenario:
    return load(QUICKSTART).scenario


def test_every_built_in_method_gets_the_same_work() -> None:
    """Quickstart's 36 passes per hospital are met by every algorithm to within 5 %, warm-up
    included; by `pooled`, whose every pass is one over the data of all four, as near as whole
    rounds come: 16 and two times 8.
    """
    assert passes(scenario()) == 4 + 2 * 2 * 4 * 2
    rounds = {
        method.label: method.scenario.algorithm.rounds
        for method in methods(scenario(), [*BUILT_IN, *offered_names()])
    }
    assert rounds == {
        "fedskd": 2, "traveller-first": 4, "circulation": 2, "mutual": 2, "cyclic": 4, "local": 16,
        "pooled": 2, "fedavg": 18, "fedprox": 18, "fml": 8, "fedproto": 16,
        "fd": 16, "fedtgp": 16, "fedgh": 16, "d-psgd": 16, "def-kt": 8,
        "dfml": 8, "ditto": 9, "partial": 18, "moon": 18, "scaffold": 18,
    }  # fmt: skip
    for method in methods(scenario(), [*BUILT_IN, *offered_names()]):
        nearest = 32 if method.label == "pooled" else pytest.approx(method.budget, rel=0.05)
        assert method.planned.passes == nearest


def test_a_shorter_pass_is_less_work_and_gets_more_rounds(scenario_file: Callable) -> None:
    """Of 70 and 20 training samples `batches: 1` takes 20 and 20: eleven passes are 440
    sample-gradients, where five whole ones are 450. Of everybody's 90 it takes 20.
    """
    short = "short: {training: {warmup_epochs: 1, batch_size: 20, batches: 1}, algorithm: "
    text = TINY.replace("variants:", f"variants:\n  {short}{{name: local}}}}")
    own, samples = load(scenario_file(text)).scenario, [70, 20]
    assert cut_short(own)
    (method,) = methods(own, ["short"], samples)
    assert (method.budget, method.scenario.algorithm.rounds) == (5, 10)
    assert method.planned.passes == pytest.approx(440 / 90)
    pooled = method.scenario.model_copy(update={"algorithm": BUILT_IN["pooled"]})
    assert passes(pooled, samples) == pytest.approx(3 * 2 * 20 / 90)


def test_samples_are_needed_only_where_passes_are_cut_short(scenario_file: Callable) -> None:
    """`batches` of the scenario or of a variant makes equal work depend on them; without any a
    comparison needs no data before its runs.
    """
    assert not cut_short(load(scenario_file(TINY)).scenario)
    for place in ("\ntraining: {", "broken: {training: {"):
        text = TINY.replace(place, f"{place}batches: 1, ", 1)
        assert cut_short(load(scenario_file(text)).scenario), place


def test_off_is_what_the_records_say() -> None:
    """With 100 training samples and a budget of 36 passes, 3,960 sample-gradients are a tenth too
    many, whatever was planned; where nobody knows the samples, the plan tells.
    """
    own, (method,) = scenario(), methods(scenario(), ["pooled"])
    assert (passes(own), method.planned.passes) == (36, 4 * (4 + 2 * 2))
    assert method.off(3960, [25, 25, 25, 25]) == pytest.approx(0.1)
    assert method.off(3960, []) == pytest.approx(32 / 36 - 1)
    row = MethodRow(method, [Score({}, {}, {"samples": 3960.0}, {}, read=dict.fromkeys(
        method.scenario.members, 25))])  # fmt: skip
    assert row.off == pytest.approx(0.1)
    assert off_budget(row) == "+10%"


def test_a_variant_keeps_what_it_does_not_name_and_may_have_a_share_of_the_budget(
    scenario_file: Callable,
) -> None:
    """Training and prediction of a variant are the scenario's unless it has its own; per_model
    is a Kth of the budget, single K.
    """
    own = load(scenario_file(TINY)).scenario
    assert choices(own)[:4] == ["averaged", "alone", "broken", "fedskd"]
    averaged, alone, broken = methods(own, ["averaged", "alone", "broken"])
    assert (alone.budget, alone.planned.passes) == (passes(own) * 2, passes(own) * 2 - 1)
    assert (averaged.budget, averaged.scenario.training) == (passes(own) / 2, own.training)
    assert (broken.budget, broken.scenario.algorithm) == (passes(own), own.algorithm)
    assert broken.scenario.training != own.training
    assert averaged.scenario.variants == {}


def test_a_name_means_the_scenarios_own_settings_only_where_it_has_that_algorithm() -> None:
    """Beside a traveller-first scenario `fedskd` is the plain preset; the label of the
    scenario's own preset has its settings.
    """
    own = load(ROOT / "scenarios" / "fedasd-abide.yaml").scenario
    plain, ours, other = methods(own, ["fedskd", "traveller-first", "circulation"])
    assert plain.scenario.algorithm.preset == "plain"
    assert ours.scenario.algorithm == own.algorithm
    assert (
        plain.scenario.algorithm.rounds,
        ours.scenario.algorithm.rounds,
        other.scenario.algorithm.rounds,
    ) == (4, 8, 4)


def test_folds_move_on_with_the_seed_for_all_methods_alike() -> None:
    """Run i has the scenario's seed plus i, and test and validation fold i further on, modulo 5."""
    chosen = methods(load(SKIN).scenario, ["fedskd", "local"])
    found = [
        (task.label, task.scenario.seed, task.scenario.hospitals[0].data)
        for task in tasks(chosen, 6)
    ]
    assert [(label, seed) for label, seed, _ in found[:4]] == [
        ("fedskd", 1),
        ("local", 1),
        ("fedskd", 2),
        ("local", 2),
    ]
    folds = [(data.test_fold, data.validation_fold) for label, _, data in found if label == "local"]
    assert folds == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 1)]


def test_the_text_of_a_run_is_a_scenario_file_that_says_the_same(scenario_file: Callable) -> None:
    """What is written for a run is read back as the scenario that was planned."""
    for path in (QUICKSTART, SKIN):
        for task in tasks(methods(load(path).scenario, ["traveller-first", "mutual"]), 2):
            assert load(scenario_file(task.text)).scenario == task.scenario


def check_that_pages_of_runs_are_drawn_when_asked_for(out: Path, cli: Callable) -> None:
    """Runs have text and numbers, to which the page of the comparison leads, and no page."""
    links = re.findall(r'<a href="(runs/[^"]+)">', (out / "compare.html").read_text())
    assert len(links) == 4
    assert all((out / link).is_file() for link in links)
    assert not list(out.glob("runs/*/*/report.html"))
    assert cli("report", out / "runs" / "local" / "seed-1").returncode == 0
    assert (out / "runs" / "local" / "seed-1" / "report.html").is_file()


@pytest.mark.slow
def test_a_comparison_runs_once_and_says_what_failed(
    scenario_file: Callable, cli: Callable, tmp_path: Path
) -> None:
    """Two methods over two seeds give a table, a page and numbers; a second call runs only what
    is missing; failures are told.
    """
    path, out = scenario_file(TINY), tmp_path / "out"
    first = cli("compare", path, "--algorithms", "local,averaged", "--seeds", 2, "--out", out)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count(": done") == 4
    found = json.loads((out / "compare.json").read_text())
    assert (found["control"], found["seeds"]) == ("local", [1, 2])
    assert [len(method["values"]["auc"]["own"]) for method in found["methods"]] == [2, 2]
    assert found["methods"][1]["differences"]["auc"]["mean"]["seeds"] == 2
    assert "Each seed tests on 16 samples. " in first.stdout
    assert "<svg" in (out / "compare.html").read_text()
    assert not list((out / "runs").glob("*/*.yaml"))
    check_that_pages_of_runs_are_drawn_when_asked_for(out, cli)
    check_that_a_library_finds_the_same(path, out, found)
    check_that_other_code_is_told(path, out)
    (out / "runs" / "local" / "seed-2" / "report.json").unlink()
    older = out / "runs" / "averaged" / "seed-1" / "scenario.yaml"
    known = json.loads(older.read_text())
    del known["instruments"]
    older.write_text(json.dumps(known))
    second = cli(
        "compare",
        path,
        "--algorithms",
        "local,averaged,broken",
        "--seeds",
        2,
        "--out",
        out,
    )
    assert second.returncode == 43, second.stderr
    assert (
        second.stdout.count(": kept"),
        second.stdout.count(": done"),
        second.stdout.count(": failed with 43"),
    ) == (3, 1, 2)
    assert "2 of 6 runs failed, the first with:" in second.stderr
    assert "rolled back 1 session" in second.stderr
    assert "nothing to compare" in second.stderr
    other = scenario_file(TINY.replace("samples: 40", "samples: 50"))
    again = CliRunner().invoke(
        main, ["compare", str(other), "--algorithms", "local", "--out", str(out)]
    )
    assert again.exit_code == OutputNotEmpty.exit_code
    assert "is a run of another scenario" in again.stderr


def check_that_a_library_finds_the_same(path: Path, out: Path, values: dict[str, Any]) -> None:
    """A script compares what has finished without running it again, and has differences as rows."""
    seen: list[RunResult] = []
    found = compare(load(path), "local, averaged", seeds=2, out=out, watch=seen.append)
    assert [one.fresh for one in seen] == [False] * 4
    assert (found.values, found.text) == (values, (out / "compare.txt").read_text())
    (row,) = (
        row
        for row in found.differences
        if (row["method"], row["measure"], row["place"]) == ("averaged", "auc", "mean")
    )
    assert row.items() >= values["methods"][1]["differences"]["auc"]["mean"].items()
    with pytest.raises(InvalidValue, match="algorithms names nothing"):
        compare(path, [], seeds=2, out=out)
    with pytest.raises(InvalidValue, match="the control 'fedskd' is not among local"):
        compare(path, ["local"], seeds=2, control="fedskd", out=out)


def check_that_other_code_is_told(path: Path, out: Path) -> None:
    """Finished runs of other code are refused by name, or compared with a word in the table; where
    nothing tells, the table says that.
    """
    note = out / "runs" / "averaged" / "seed-1.code.json"
    true, again = note.read_text(), ["compare", str(path), "--algorithms", "local,averaged"]
    again += ["--seeds", "2", "--out", str(out)]
    note.write_text(json.dumps({"learning code": "another", "architecture old": "x"}))
    refused = CliRunner().invoke(main, again)
    assert refused.exit_code == CustodyForeign.exit_code
    assert "1 of 4 finished runs were computed with other code, the first averaged, seed 1: " in (
        refused.stderr
    )
    assert f"learning code was another and is {json.loads(true)['learning code']}" in refused.stderr
    assert "--anyway" in refused.stderr
    told = CliRunner().invoke(main, [*again, "--anyway"])
    assert told.exit_code == 0, told.stderr
    words = " ".join(told.stdout.split())
    assert "different code are compared. The learning code was another: averaged (seed 1);" in (
        words
    )
    assert "local (seed 1, 2)." in words
    note.unlink()
    told = CliRunner().invoke(main, again)
    assert told.exit_code == 0, told.stderr
    assert (
        "Nothing says with which code averaged (seed 1) were computed."
        in (json.loads((out / "compare.json").read_text())["notes"])
    )
    note.write_text(true)
    told = CliRunner().invoke(main, again)
    assert not any("code" in one for one in json.loads((out / "compare.json").read_text())["notes"])


def test_two_comparisons_do_not_share_a_folder(scenario_file: Callable, tmp_path: Path) -> None:
    """While one is at work in a folder a second one is refused, and afterwards it is not."""
    path, out = scenario_file(TINY), tmp_path / "out"
    planned = list(tasks(methods(load(path).scenario, ["local"]), 2))
    second = ["compare", str(path), "--algorithms", "local", "--seeds", "2", "--out", str(out)]
    with Workshop(out, None, 1).prepare(planned):
        refused = CliRunner().invoke(main, second)
        assert refused.exit_code == OutputNotWritable.exit_code
        assert f"is at work in {out}" in refused.stderr
    with Workshop(out, None, 1).prepare(planned):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "jobs"), [(signal.SIGTERM, 2), (signal.SIGKILL, 1)])
def test_what_a_stopped_comparison_leaves_is_nothing_or_waited_for(
    sign: signal.Signals, jobs: int, scenario_file: Callable, tmp_path: Path
) -> None:
    """Terminated, it stops its runs; killed, it cannot, and its folder stays closed to others
    until they have ended.
    """
    path, out = scenario_file(TINY.replace("rounds: 1", "rounds: 1000")), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "fedskd_sim",
        "compare",
        str(path),
        "--algorithms",
        "local",
        "--seeds",
        "2",
        "--jobs",
        str(jobs),
        "--out",
        str(out),
    ]
    planned = list(tasks(methods(load(path).scenario, ["local"]), 2))
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: list(out.glob("runs/local/*/records/*")))
        process.send_signal(sign)
        told = process.communicate(timeout=900)[1]
    if sign == signal.SIGTERM:
        assert (process.returncode, told) == (
            INTERRUPTED,
            "interrupted: everything has been stopped\n",
        )
        assert not at_work(out)
    else:
        left = at_work(out)
        assert left
        with (
            pytest.raises(OutputNotWritable, match="a run of one"),
            Workshop(out, None, 1).prepare(planned),
        ):
            pass
        for number in left:
            with suppress(ProcessLookupError):  # the first takes the others with it
                os.kill(number, signal.SIGTERM)
    wait_until(lambda: is_free(Workshop(out, None, 1), planned))


class Fated:
    """A command whose fork server dies before it can tell the end; ``begun`` is done for it."""

    process = SimpleNamespace(exitcode=UNKNOWN)
    words = "its words"

    def __init__(self, begun: Callable[[Path], object]) -> None:
        self.begun = begun

    def begin(self, arguments: list[str], *_: object) -> Fated:
        self.begun(Path(arguments[arguments.index("--out") + 1]))
        return self

    def ended(self, _: float) -> bool:
        return True


def run_whole(out: Path) -> None:
    out.mkdir(parents=True)
    (out / "report.json").write_text('{"complete": true}')


def refuse(out: Path) -> None:
    raise EOFError(out)


@pytest.mark.parametrize(
    ("begun", "code", "words"),
    [
        (run_whole, 0, ""),
        (lambda _: None, ForkServerDied.exit_code, "its words\nerror: the process that starts"),
        (refuse, ForkServerDied.exit_code, "seed-1\nerror: the process that starts"),
    ],
    ids=["it is whole", "it is not", "it never began"],
)
def test_a_run_whose_end_nobody_can_tell_is_judged_by_its_folder(
    begun: Callable[[Path], object],
    code: int,
    words: str,
    scenario_file: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fork server may die before a run ends, or begins: whole is whole, anything else has the
    code of that death.
    """
    monkeypatch.setattr("fedskd_sim.results.comparison.work.Command", Fated(begun))
    monkeypatch.setattr("fedskd_sim.results.comparison.work.prepare", lambda *_: None)
    planned = list(tasks(methods(load(scenario_file(TINY)).scenario, ["local"]), 2))[:1]
    shop = Workshop(tmp_path / "out", None, 1)
    (found,) = shop.carry_out(planned, lambda _: None)
    assert (found.code, words in found.words, found.fresh) == (code, True, True)


def is_free(shop: Workshop, planned: list[PlannedRun]) -> bool:
    """Tell whether a comparison can begin."""
    with suppress(OutputNotWritable), shop.prepare(planned):
        return True
    return False


def at_work(out: Path) -> list[int]:
    """List the processes that hold a folder's lock."""
    found, lock = [], str(out / LOCK)
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(one.readlink()) == lock for one in (place / "fd").iterdir()):
                found.append(int(place.name))
    return found


def wait_until(happened: Callable[[], object], seconds: float = 300) -> None:
    """Look again and again until something has happened."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--algorithms", "fedsk"], InvalidValue.exit_code, "did you mean 'fedskd'?"),
        (["--algorithms", "local", "--seeds", 1], InvalidValue.exit_code, "one seed has no spread"),
        (["--algorithms", "local,local"], InvalidValue.exit_code, "'local' is given twice"),
        (
            ["--algorithms", "local", "--control", "mutual"],
            InvalidValue.exit_code,
            "the control 'mutual' is not among local",
        ),
        (
            ["--algorithms", "fedavg"],
            ArchitecturesDiffer.exit_code,
            "hospitals.1.architecture: fedavg: 'b' has cnn-depthwise",
        ),
        (["--algorithms", ","], 2, "--algorithms names nothing"),
        (
            ["--algorithms", "local", "--set", "training.epoch=3"],
            UnknownKey.exit_code,
            "--set training.epoch: training.epoch: unknown key",
        ),
    ],
)
def test_wrong_comparisons_are_refused(
    arguments: list, code: int, words: str, scenario_file: Callable
) -> None:
    """Each mistake has its exit code and words that help; nothing is started."""
    path = scenario_file(TINY)
    done = CliRunner().invoke(
        main, ["compare", str(path), *map(str, arguments), "--out", str(path.parent / "out")]
    )
    assert (done.exit_code, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (path.parent / "out").exists()


def test_a_change_is_one_of_every_method(scenario_file: Callable) -> None:
    """What `--set` changes has the budget that follows from it, and the runs' files hold it; runs
    of the unchanged scenario are not taken for these.
    """
    path, wanted = scenario_file(TINY), CompareRequest(["local", "cyclic"], 2)
    changed = replace(wanted, changes=("training.epochs=3",))
    once, thrice = plan(path, wanted), plan(path, changed)
    assert {method.scenario.training.epochs for method in thrice.methods} == {3}
    assert {method.budget for method in thrice.methods} == {passes(thrice.loaded.scenario)}
    assert passes(thrice.loaded.scenario) > passes(once.loaded.scenario)
    shop = once.workshop(path.parent / "out", anyway=False)
    folder = shop.folder(once.runs[0])
    folder.mkdir(parents=True)
    (folder / "scenario.yaml").write_text(once.runs[0].text, encoding="utf-8")
    with shop.prepare(once.runs):
        pass
    with pytest.raises(OutputNotEmpty, match="is a run of another scenario"):
        shop.prepare(thrice.runs).__enter__()


def test_a_wrong_variant_is_found_when_the_scenario_is_read(scenario_file: Callable) -> None:
    """An unknown key of a variant's algorithm has file and line."""
    path = scenario_file(TINY.replace("name: fedavg,", "name: fedavg, mu: 1,"))
    with pytest.raises(UnknownKey) as caught:
        load(path)
    assert caught.value.where.line == 10
