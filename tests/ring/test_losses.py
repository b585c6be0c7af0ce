"""A hospital is lost, and the ring goes on without it: in simulated time and in real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from watching import events, hospitals_of, left_behind, stopped, until

from fedskd_sim import read_run
from fedskd_sim.errors import HospitalLost, ScenarioError
from fedskd_sim.observe.events import Logged, LostEvent
from fedskd_sim.operate.checks import verify_run
from fedskd_sim.records import Record
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import load

pytestmark = pytest.mark.usefixtures("temporary")
TEXT = """
name: lossy
seed: 3
hospitals: [{{name: a, architecture: buffer}}, {{name: b, architecture: buffer}},
            {{name: c, architecture: buffer}}, {{name: d, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 2, session_seconds: 0.1}}
timeouts: {{register: 300, hop: 60, acknowledgement: 60, retry: 1, goodbye: 2, stop: 2}}
on_loss: {policy}
faults: [{{hospital: b, {fault}}}]
"""
SKIP = "{name: skip, after: 15}"


@pytest.mark.parametrize(
    ("fault", "policy"),
    [
        ("what: leave, round: 1, hop: 2", SKIP),
        ("what: stop, round: 2, hop: 1", SKIP),
        ("what: full_disk, round: 1, hop: 1", "{name: skip, after: 15, model: retires}"),
    ],
    ids=["leaves", "stands still", "fails, and its model retires"],
)
def test_the_ring_goes_on(fault: str, policy: str, scenario_file: Callable, run: Callable) -> None:
    """Whoever dies, stands still for ever or fails is left out: the records of the others are whole
    and the same in simulated time and as processes, but for the first that names the lost one, and
    for the round in which its model retires; and no process is left.
    """
    path = scenario_file(TEXT.format(policy=policy, fault=fault))
    scenario, kept = load(path).scenario, list[list[Record]]()
    for runtime in ("memory", "processes"):
        folder: Path = run(path, runtime)
        verdict, _ = verify_run(folder, scenario, None)
        assert verdict.broken is None
        assert (verdict.lost, verdict.records) == (("b",), verdict.expected)
        kept.append([replace(one, without={}) for one in read_records(folder)])
        (lost,) = {tuple(one["hospitals"].items()) for one in events(folder, name="lost")}
        last = [one for one in read_records(folder) if one.round == 3 and one.host != "b"]
        assert {tuple(one.without.items()) for one in last} == {lost}
        tested = {one.model for one in last if one.kind == "evaluation"}
        assert tested == {*"abcd"} - ({"b"} if "retires" in policy else set())
        assert {one["host"] for one in read_run(folder).hops} == {*"abcd"}
    assert kept[0] == kept[1] or "retires" in policy  # in which round depends on time
    assert left_behind() == []


LEARNING = """
name: learning
data: {name: synthetic-skin, samples: 60, image_size: 16, classes: 3}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-depthwise},
            {name: c, architecture: cnn-plain}]
algorithm: {name: cyclic, rounds: 2}
prediction: {model: averaged, ensemble: true}
on_loss: skip
faults: [{hospital: b, what: leave, round: 2}]
"""


def test_a_model_without_a_home_is_tested_as_the_scenario_wants(
    scenario_file: Callable, run: Callable
) -> None:
    """As it travels, for its averaged weights never left its home, and as one of the ensemble."""
    folder = run(scenario_file(LEARNING))
    records = read_records(folder)
    (asked,) = {one.measures["models"].mean for one in records if one.kind == "ensemble"}
    tested = {(one.model, one.host) for one in records if one.kind == "evaluation"}
    assert asked == 3
    assert tested == {(model, host) for model in "abc" for host in "ac"}


@pytest.mark.parametrize("runtime", ["memory", "processes"])
def test_abort_ends_the_run_at_once(runtime: str, scenario_file: Callable, run: Callable) -> None:
    """Who is not heard of ends the run, by name and with a code of its own."""
    text = TEXT.format(policy="{name: abort, after: 15}", fault="what: stop, round: 1, hop: 2")
    with pytest.raises(HospitalLost, match="nothing was heard of 'b' for 15 s"):
        run(scenario_file(text), runtime)
    assert left_behind() == []


RETURNS = """
name: returning
seed: 3
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer},
            {name: c, architecture: buffer}, {name: d, architecture: buffer}]
algorithm: {name: placebo, rounds: 8, session_seconds: 0.5}
timeouts: {register: 300, hop: 60, acknowledgement: 60, retry: 1, goodbye: 2, stop: 2}
on_loss: {name: skip, after: 2}
faults: [{hospital: b, FAULT}]
"""


def lets_go_on(out: Path) -> Callable[[Logged], None]:
    """Let the process of `b` go on when the others have declared it lost."""

    def watch(logged: Logged) -> None:
        if isinstance(logged.what, LostEvent) and (found := hospitals_of(out)):
            until(lambda: stopped(found["b"]))
            os.kill(found["b"], signal.SIGCONT)

    return watch


@pytest.mark.parametrize(
    ("fault", "runtime"),
    [
        ("what: stop, round: 2, hop: 1", "processes"),
        ("what: restart, round: 2, hop: 1, lasts: 7", "memory"),
    ],
    ids=["stood still", "died"],
)
def test_who_comes_back_is_taken_in_again(
    fault: str, runtime: str, scenario_file: Callable, run: Callable
) -> None:
    """From a round on: from there it has a record of every stop, the others name it as back, and
    all tests are there.
    """
    after = "after: 15" if runtime == "processes" else "after: 4"
    text = RETURNS.replace("FAULT", fault).replace("after: 2", after)
    path = scenario_file(text.replace("rounds: 8", "rounds: 14"))
    folder: Path = run(path, runtime, watch=lets_go_on(path.parent / "run-0"))
    verdict, _ = verify_run(folder, load(path).scenario, None)
    assert (verdict.broken, verdict.lost, {*verdict.back}) == (None, (), {"b"})
    (told,) = events(folder, name="back")
    (round_,) = verdict.back.values()
    assert (told["hospital"], told["round"]) == ("b", round_)
    records = read_records(folder)
    for record in records:
        assert record.round < round_ or dict(record.back) == {"b": round_}
        assert record.round < round_ or not record.without
    assert {one.round for one in records if one.host != "b" and one.without}
    tested = {(one.model, one.host) for one in records if one.kind == "evaluation"}
    assert len(tested) == 16
    hosted = [one.model for one in records if one.host == "b" and one.round == round_]
    assert sorted(hosted) == [*"abcd"]
    assert left_behind() == []


@pytest.mark.parametrize(
    ("host", "words", "instead"),
    [
        ("a", "does not name 'b'", lambda line: line.replace(b',"back":{"b":4}', b"")),
        ("b", "missing", lambda _: b""),
    ],
)
def test_a_record_that_passes_a_returner_by_is_found(
    host: str, words: str, instead: Callable[[bytes], bytes], scenario_file: Callable, run: Callable
) -> None:
    """One that does not know of it, in its round or behind, and one that it should have left."""
    path = scenario_file(RETURNS.replace("FAULT", "what: restart, round: 2, hop: 1, lasts: 4"))
    folder: Path = run(path)
    file = folder / "records" / f"{host}.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    number = next(at for at, one in enumerate(lines) if b'"round":5' in one)
    lines[number] = instead(lines[number])
    file.write_bytes(b"".join(lines))
    verdict, _ = verify_run(folder, load(path).scenario, None)
    assert words in str(verdict.broken)


def test_who_comes_back_too_late_is_told_so(scenario_file: Callable, run: Callable) -> None:
    """No round is left in which models train: it ends with its own code, and the run ends well."""
    text = TEXT.format(policy=SKIP, fault="what: stop, round: 2, hop: 1")
    path = scenario_file(text.replace("0.1", "4"))
    folder = run(path, "processes", watch=lets_go_on(path.parent / "run-0"))
    (said,) = events(folder, name="error")
    assert (said["hospital"], said["code"], said["own"]) == ("b", 49, False)
    assert left_behind() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("name: placebo", "name: fedavg"), "sums over all"),
        (("after: 15", "after: 60"), "the others give up"),
        ((", {name: d, architecture: buffer}", ""), "all but one"),
        (("name: skip", "name: skp"), "did you mean 'skip'"),
    ],
)
def test_policies_that_cannot_be_are_refused(
    change: tuple[str, str], words: str, scenario_file: Callable
) -> None:
    """An algorithm that sums, a patience longer than that of the others, and too few left."""
    two = "what: leave, round: 1}, {hospital: c, what: leave, round: 1"
    with pytest.raises(ScenarioError) as caught:
        load(scenario_file(TEXT.format(policy=SKIP, fault=two).replace(*change)))
    assert words in str(caught.value)
