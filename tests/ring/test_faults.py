"""Faults as keys of a scenario: the same schedule in simulated time and in real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from watching import events, left_behind

from fedskd_sim.custody.verify import verify
from fedskd_sim.errors import AcknowledgementTimeout, HopTimeout, HospitalCrashed, OutputNotWritable
from fedskd_sim.learning.weights import poison
from fedskd_sim.member.schedule import FaultSchedule
from fedskd_sim.messages import Buffer
from fedskd_sim.records.files import read_records
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import load

pytestmark = pytest.mark.usefixtures("temporary")
TEXT = """
name: faulty
seed: 3
hospitals: [{{name: a, architecture: buffer}}, {{name: b, architecture: buffer}},
            {{name: c, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 2, session_seconds: 0.1}}
timeouts: {{register: 300, hop: 60, acknowledgement: 60, retry: 1, goodbye: 2, stop: 5}}
faults: [{faults}]
"""
SURVIVED = {
    "kill": "{hospital: b, what: kill, round: 1, hop: 2}",
    "kill after a time": "{hospital: b, what: kill, after: 0.3}",
    "restart": "{hospital: c, what: restart, round: 2, hop: 1, lasts: 1}",
    "stop": "{hospital: a, what: stop, round: 1, hop: 1, lasts: 1}",
    "late": "{hospital: c, what: late, lasts: 1}",
    "slow": "{hospital: b, what: slow, round: 1, factor: 3, lasts: 2}",
    "a drawn kill": "{hospital: a, what: kill}",
    "several": (
        "{hospital: a, what: kill, round: 1, hop: 1}, {hospital: b, what: kill, round: 2, hop: 1}, "
        "{hospital: c, what: stop, round: 2, hop: 2, lasts: 0.5}"
    ),
}


def records(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "records").glob("*"))}


@pytest.mark.parametrize("faults", SURVIVED.values(), ids=SURVIVED.keys())
def test_what_a_hospital_survives_changes_no_record(
    faults: str, scenario_file: Callable, run: Callable
) -> None:
    """Undisturbed, disturbed in simulated time and disturbed as processes have the same records;
    each fault has happened once, and no process is left.
    """
    undisturbed = records(run(scenario_file(TEXT.format(faults=""), "twin.yaml")))
    path = scenario_file(TEXT.format(faults=faults))
    simulated, real = run(path), run(path, "processes")
    assert records(simulated) == undisturbed
    assert records(real) == undisturbed
    wanted = load(path).scenario.faults
    told = [
        sorted(
            (one["hospital"], one["what"], one["lasts"] or 0, one["round"], one["hop"])
            for one in events(folder, name="fault")
        )
        for folder in (simulated, real)
    ]
    for found in told:
        names = sorted((one.hospital, one.what, one.lasts or 0) for one in wanted)
        assert [one[:3] for one in found] == names
        assert {one[3:] for one in found} >= {(one.round, one.hop) for one in wanted if one.hop}
    assert told[0] == told[1] or any(one.after for one in wanted)
    assert left_behind() == []


@pytest.mark.parametrize("runtime", ["memory", "processes"])
@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("what: leave, round: 1, hop: 1", HospitalCrashed),
        ("what: full_disk, round: 1, hop: 1", OutputNotWritable),
        ("what: stop, round: 1, hop: 1", (HopTimeout, AcknowledgementTimeout)),
    ],
)
def test_what_no_hospital_survives_ends_the_run(
    fault: str, kinds: type, runtime: str, scenario_file: Callable, run: Callable
) -> None:
    """Leaving for good, a full disk and standing still for ever end the run with their error."""
    text = TEXT.format(faults=f"{{hospital: b, {fault}}}")
    if "what: stop" in fault:
        text = text.replace(": 60", ": 15")  # the others wait in vain for so long
    with pytest.raises(kinds) as caught:
        run(scenario_file(text), runtime)
    assert caught.value.fix
    assert left_behind() == []


def test_a_run_goes_on_from_a_full_disk(
    inside: Callable, scenario_file: Callable, run: Callable, tmp_path: Path
) -> None:
    """Resumed, it does not meet the fault again, and ends with the undisturbed records."""
    fault = "{hospital: b, what: full_disk, round: 2, hop: 1}"
    out = tmp_path / "out"
    assert inside("launch", scenario_file(TEXT.format(faults=fault)), "--out", out).returncode == 31
    done = inside("resume", out)
    assert done.returncode == 0, done.stderr
    assert records(out) == records(run(scenario_file(TEXT.format(faults=""), "twin.yaml")))


def test_faults_without_a_place_are_drawn_from_seeds(scenario_file: Callable) -> None:
    """The same seed draws the same hop that the hospital hosts, another one another."""

    def drawn(number: int) -> tuple[int | None, int | None]:
        fault = f"{{hospital: a, what: kill, seed: {number}}}"
        scenario = load(scenario_file(TEXT.format(faults=fault))).scenario
        (found,) = FaultSchedule.of(scenario, Topology.of(scenario), "a").left.values()
        return found.round, found.hop

    places = [drawn(number) for number in range(20)]
    assert places == [drawn(number) for number in range(20)]
    assert len(set(places)) > 3
    assert all(round_ in (1, 2) and hop in (1, 2, 3) for round_, hop in places)


def test_poison_makes_weights_wrong_and_leaves_whole_numbers() -> None:
    """Scaled by a factor, or not a number; counts stay counts, and what was given is unharmed."""
    values = np.array([1.0, -2.0], "float32")
    weights = {
        "w": Buffer("float32", (2,), values.tobytes()),
        "n": Buffer("int64", (1,), np.array([7]).tobytes()),
    }
    scaled, lost = poison(weights, 3.0), poison(weights, None)
    assert np.frombuffer(scaled["w"].data, "float32").tolist() == [3.0, -6.0]
    assert np.isnan(np.frombuffer(lost["w"].data, "float32")).all()
    assert scaled["n"] == lost["n"] == weights["n"]
    assert np.frombuffer(weights["w"].data, "float32").tolist() == [1.0, -2.0]


SKIN = """
name: skin
data: {{name: synthetic-skin, samples: 90, image_size: 16, classes: 3}}
hospitals: [{{name: a, architecture: cnn-plain}}, {{name: b, architecture: cnn-plain}}]
algorithm: {{name: circulation, rounds: 1}}
timeouts: {{register: 300, acknowledgement: {patience}, retry: 1}}
faults: [{{hospital: a, what: poison, round: 1{factor}}}]
"""


def skin(factor: str, patience: float = 100) -> str:
    return SKIN.format(factor=factor, patience=patience)


def test_a_poisoned_model_arrives_as_it_was_sent(scenario_file: Callable, run: Callable) -> None:
    """Another factor gives other weights from that departure on, with digests that fit; the same
    factor the same records in simulated time and as processes.
    """
    folders = [
        run(scenario_file(skin(f", factor: {factor}"), f"{factor}.yaml"), runtime)
        for factor, runtime in ((1.0, "memory"), (50.0, "memory"), (50.0, "processes"))
    ]
    healthy, simulated, real = map(records, folders)
    assert simulated == real != healthy
    found = {(one.kind, one.model, one.host): one for one in read_records(folders[1])}
    arrived = {(one.kind, one.model, one.host): one.digest_in for one in read_records(folders[0])}
    assert found["visit", "a", "b"].digest_in != arrived["visit", "a", "b"]
    assert found["visit", "b", "a"].digest_in == arrived["visit", "b", "a"]
    verdicts = [verify(folder) for folder in folders]
    assert not any(one.broken for one in verdicts)
    assert [one.begins - verdicts[0].begins for one in verdicts] == [0, 1, 1]


@pytest.mark.parametrize("place", ["round: 1", "round: 1, hop: 1"])
def test_a_poison_outlives_the_hospital(place: str, scenario_file: Callable, run: Callable) -> None:
    """It dies before the poisoned model has left, or just after; the records are those of a run in
    which it lives.
    """
    text = skin(", factor: 50")
    wanted = records(run(scenario_file(text)))
    dies = f"factor: 50}}, {{hospital: a, what: kill, {place}}}]"
    path = scenario_file(text.replace("factor: 50}]", dies), "deadly.yaml")
    for runtime in ("memory", "processes"):
        folder = run(path, runtime)
        assert records(folder) == wanted
        assert [event["what"] for event in events(folder, "a", "fault")] == ["poison", "kill"]


@pytest.mark.parametrize("runtime", ["memory", "processes"])
def test_a_model_that_is_no_number_is_taken_in_nowhere(
    runtime: str, scenario_file: Callable, run: Callable
) -> None:
    """Its receiver refuses it and says from whom it came, until its sender gives up."""
    with pytest.raises(AcknowledgementTimeout, match="'b' never confirmed"):
        run(path := scenario_file(skin("", 20)), runtime)
    refused = events(path.parent / "run-0", "b", "refused")
    assert {event["sender"] for event in refused} == {"a"}
