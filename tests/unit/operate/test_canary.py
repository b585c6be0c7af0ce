"""The short run before a long one, and the forecast that is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedskd_sim.cli import main
from fedskd_sim.errors import AcknowledgementTimeout, CanaryFailed, HopTimeout, OutputNotWritable
from fedskd_sim.observe import outcome
from fedskd_sim.operate import canary
from fedskd_sim.operate.canary import Gauge, Measured, Room, changes, find
from fedskd_sim.records.files import read_records, read_timings
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.scenario import FedAvg, load
from fedskd_sim.world.forecast import PLAYED, forecast

PLACEBO = """
name: placebo
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]
algorithm: {name: placebo, rounds: ROUNDS}
timeouts: {hop: 20, acknowledgement: 5}
"""
SKIN = """
name: skin
data: {name: synthetic-skin, samples: 120, image_size: 16, classes: 3}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-residual}]
algorithm: {name: fedskd, rounds: 3, schedule: {visits: 1}}
training: {epochs: 2, warmup_epochs: 1, batch_size: 8}
"""
SECONDS = {"warm_up": 3.0, "visit": 2.0, "homecoming": 1.0, "evaluation": 0.5}


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have memory, whatever else runs on it meanwhile."""
    monkeypatch.setattr(canary, "memory", lambda: (10**10, 9 * 10**9))


def cost(kind: str, host: str, model: str) -> float:  # noqa: ARG001 - hospitals are alike
    return SECONDS.get(kind, 0.0)


@pytest.mark.parametrize("rounds", [1, 3, 2 * PLAYED])
def test_a_forecast_is_what_the_steps_of_the_program_take_in_their_order(
    rounds: int, scenario_file: Callable
) -> None:
    """Two hospitals side by side take a warm-up, a visit and a homecoming in every round, and the
    tests of two models; one after the other they take twice as long, however many rounds there are.
    """
    scenario = load(scenario_file(PLACEBO.replace("ROUNDS", str(rounds)))).scenario
    found = forecast(scenario, cost)
    assert found.error is None
    assert found.seconds == pytest.approx(3 + rounds * 3 + 2 * 0.5)
    assert found.work == pytest.approx(2 * found.seconds)


def test_a_forecast_waits_for_the_slowest_hospital(scenario_file: Callable) -> None:
    """In a ring, what one takes longer all take longer."""
    scenario = load(scenario_file(PLACEBO.replace("ROUNDS", "4"))).scenario
    slow = forecast(
        scenario, lambda kind, host, model: cost(kind, host, model) * (1 + (host == "b"))
    )
    assert slow.seconds > 1.8 * forecast(scenario, cost).seconds


def test_a_forecast_says_who_sets_the_pace(scenario_file: Callable) -> None:
    """Where one model takes twice as long wherever it is, its own steps fill the run and both
    hospitals wait; where one hospital takes twice as long, that one is busy all the time.
    """
    scenario = load(scenario_file(PLACEBO.replace("ROUNDS", "4"))).scenario
    large = forecast(
        scenario, lambda kind, host, model: cost(kind, host, model) * (1 + (model == "b"))
    )
    assert 0.95 < large.pace.chains["b"] <= 1.0
    assert max(large.pace.busy.values()) < 0.95
    assert "pace: set by b's model" in large.pace.words
    slow = forecast(
        scenario, lambda kind, host, model: cost(kind, host, model) * (1 + (host == "b"))
    )
    assert slow.pace.busy["b"] > max(slow.pace.busy["a"], *slow.pace.chains.values())
    assert "pace: set by b, which is busy for " in slow.pace.words
    mutual = scenario.model_copy(update={"algorithm": FedAvg(name="fedavg", rounds=2)})
    assert not forecast(mutual, cost).pace.chains


def test_a_forecast_meets_the_time_outs_of_the_run(scenario_file: Callable) -> None:
    """A hospital whose sessions take longer than ``timeouts.hop`` allows the next one to wait ends
    the run that is played as it would end the real one.
    """
    scenario = load(scenario_file(PLACEBO.replace("ROUNDS", "2"))).scenario
    found = forecast(scenario, lambda kind, host, _: 50.0 * ((kind, host) == ("visit", "b")))
    assert isinstance(found.error, HopTimeout | AcknowledgementTimeout)


def launched(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["launch", *map(str, arguments), "--on", "memory"])


def test_a_canary_takes_every_model_through_every_hospital_with_a_few_batches(
    scenario_file: Callable, tmp_path: Path
) -> None:
    """The short run has real sessions of four batches of each model, all models are tested
    everywhere, and the forecast says time, bytes, disk, memory and the slowest; then it stops. Its
    folder can be verified like any other's.
    """
    done = launched(scenario_file(SKIN), "--canary-only", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    records = read_records(tmp_path / "out")
    trained = {(one.model, one.host, one.steps) for one in records if one.kind == "visit"}
    assert trained == {("a", "b", 4), ("b", "a", 4)}
    assert {(one.model, one.host) for one in records if one.kind == "evaluation"} == {
        (model, host) for model in "ab" for host in "ab"
    }
    for words in ("whole run: about", " sent, ", " on disk (", "memory: ", "slowest: ", ": good"):
        assert words in done.output
    assert "report:" not in done.output
    verified = CliRunner().invoke(main, ["verify", str(tmp_path / "out")])
    assert verified.exit_code == 0, verified.output


def test_sessions_grow_with_the_batches_of_the_whole_run(
    scenario_file: Callable, run: Callable
) -> None:
    """The mini-batches of a session cost as many times those of the short run as it has more of
    them, what a homecoming does besides costs the same, and what is sent is counted for all rounds.
    """
    path = scenario_file(SKIN)
    scenario = load(path).scenario
    short = load(path, changes(scenario))
    folder = run(scenario_file(short.document.text, "short.yaml"))
    counts = json.loads((folder / "samples" / "a.jsonl").read_text())
    samples = sum(counts["used"]["train"].values())
    measured = Measured(scenario, folder, 10.0)
    itself = Measured(scenario, folder, 10.0, short=True)
    for kind, model in (("visit", "b"), ("homecoming", "a")):
        whole, few = (one.cost(canary.last)(kind, "a", model) for one in (measured, itself))
        (timing,) = (
            one
            for one in read_timings(folder)
            if (one.what, one.host, one.model, one.round) == ("session", "a", model, 2)
        )
        assert 0 < timing.training < timing.end - timing.start
        assert whole - few == pytest.approx((2 * samples / (4 * 8) - 1) * timing.training)
    (size,) = {one.bytes for one in read_records(folder) if one.model == "b" and one.bytes}
    assert measured.sent > 3 * 2 * size


@pytest.mark.parametrize(
    ("room", "words"),
    [
        (Room(10**9, 10**7, 10**12), "of memory were left"),
        (Room(10**9, 10**9, 10**3), "are free"),
    ],
)
def test_a_canary_that_is_not_good_says_what_does_not_suffice(
    room: Room, words: str, scenario_file: Callable, run: Callable
) -> None:
    """Too little memory or disk is a problem with a fix and an exit code of its own."""
    path = scenario_file(PLACEBO.replace("ROUNDS", "2"))
    loaded, folder = load(path), run(path)
    gauge = Gauge(lambda: room, folder / "custody")
    found = find(Measured(loaded.scenario, folder, 1.0), loaded.scenario, gauge, at_once=True)
    assert not found.good
    assert [*found.lines()][-1] == "canary: not good"
    assert [line for line in found.lines() if line.startswith("pace: set by ")]
    with pytest.raises(CanaryFailed, match=words) as caught:
        found.check()
    assert caught.value.fix


def test_a_run_goes_on_after_a_good_canary(scenario_file: Callable, tmp_path: Path) -> None:
    """With --canary the run begins after the forecast, and the short run lies in its folder."""
    path = scenario_file(PLACEBO.replace("ROUNDS", "1"))
    done = launched(path, "--canary", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.output.index("canary: good") < done.output.index("verified: whole")
    assert len(read_records(tmp_path / "out")) < len(read_records(tmp_path / "out" / "canary"))


def test_a_disk_that_is_full_hides_nothing_of_a_canary(
    scenario_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code and the words are of what ended the short run, though its end cannot be
    noted.
    """

    def fails(*_: object) -> None:
        raise HopTimeout("a waited in vain")

    def full(*_: object) -> None:
        raise OutputNotWritable("no space left")

    monkeypatch.setattr(MemoryRuntime, "wait", fails)
    monkeypatch.setattr(outcome, "finish", full)
    path = scenario_file(PLACEBO.replace("ROUNDS", "1"))
    done = launched(path, "--canary-only", "--out", tmp_path / "out")
    assert (done.exit_code, "a waited in vain" in done.output) == (HopTimeout.exit_code, True)


def test_a_canary_asks_for_a_runtime_of_this_machine(scenario_file: Callable) -> None:
    """A cluster is refused in words."""
    path = scenario_file(PLACEBO.replace("ROUNDS", "1"))
    done = CliRunner().invoke(main, ["launch", str(path), "--canary", "--on", "kubernetes"])
    assert done.exit_code == 2
    assert "--canary needs --on processes or --on memory" in done.output
