"""Faults that cannot be, in words: where they stand, what is wrong, and what to write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.operate.checks import load_and_check, never_met
from fedskd_sim.results.comparison.planning import methods
from fedskd_sim.scenario import load

TEXT = """name: n
hospitals: [{{name: north, architecture: buffer}}, {{name: south, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 2}}
timeouts: {{register: 20, hop: 10, acknowledgement: 10}}
{more}
faults:
  - {fault}
"""
BAD = {
    "a hospital": ("{hospital: nort, what: kill, round: 1}", "hospital", "did you mean 'north'?"),
    "a round": ("{hospital: north, what: kill, round: 4}", "round", "the evaluation is round 3"),
    "a hop": ("{hospital: north, what: kill, round: 1, hop: 9}", "hop", "no round has a hop 9"),
    "a hop of no round": ("{hospital: north, what: kill, hop: 1}", "hop", "add 'round: ...'"),
    "two times": ("{hospital: north, what: kill, round: 1, after: 2}", "after", "one of the two"),
    "a key of another fault": (
        "{hospital: north, what: kill, round: 1, factor: 2}", "factor", "'kill' has no factor",
    ),
    "a missing key": ("{hospital: north, what: slow, round: 1}", "what", "add 'factor: ...'"),
    "faster than it can": (
        "{hospital: north, what: slow, round: 1, factor: 0.5}", "factor", "say 1 to 10000",
    ),
    "a time without end": (
        "{hospital: north, what: kill, after: 1.0e+300}", "after", "give 1000000000 or less",
    ),
    "late in a round": (
        "{hospital: north, what: late, lasts: 2, round: 1}", "what", "about the beginning",
    ),
    "later than the others wait": (
        "{hospital: north, what: late, lasts: 25}", "lasts", "raise timeouts.register above 25",
    ),
    "a stop longer than patience": (
        "{hospital: north, what: stop, round: 1, lasts: 12}", "lasts", "raise timeouts.acknow",
    ),
    "poison for a placebo": (
        "{hospital: north, what: poison, round: 1}", "what", "models have no weights",
    ),
}  # fmt: skip


def problems(text: str, scenario_file: Callable) -> FedskdError:
    with pytest.raises(FedskdError) as caught:
        load(scenario_file(text))
    assert type(caught.value) is InvalidValue
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(("fault", "key", "words"), BAD.values(), ids=BAD.keys())
def test_a_fault_that_cannot_be_is_refused_in_its_line(
    fault: str, key: str, words: str, scenario_file: Callable
) -> None:
    """Each has its own words and names the key of the fault and the line of the file."""
    error = problems(TEXT.format(fault=fault, more=""), scenario_file)
    assert error.where.line == 7
    assert error.key[:1] + error.key[2:] in (("faults", key), ("faults",))
    assert words in str(error)


def test_somebody_must_go_on(scenario_file: Callable) -> None:
    """A schedule that stops all of them for good is refused."""
    two = "{hospital: north, what: leave, round: 1}\n  - {hospital: south, what: stop, round: 1}"
    error = problems(TEXT.format(fault=two, more=""), scenario_file)
    assert "all hospitals that train are stopped" in str(error)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("custody: {enabled: false}", "without custody ends the run"),
        ("custody: {restarts: 0}", "raise custody.restarts"),
    ],
)
def test_who_dies_must_be_able_to_come_back(more: str, words: str, scenario_file: Callable) -> None:
    """A death that nobody comes back from is called leaving."""
    fault = "{hospital: north, what: kill, round: 1, hop: 1}"
    assert words in str(problems(TEXT.format(fault=fault, more=more), scenario_file))
    assert load(scenario_file(TEXT.format(fault=fault, more=""))).scenario.faults


COMPARED = """name: n
data: {{name: synthetic-skin, samples: 60, image_size: 16, classes: 3}}
hospitals: [{{name: north, architecture: cnn-plain}}, {{name: south, architecture: cnn-plain}}]
algorithm: {{name: fedskd, rounds: 2}}
variants:
  dark: {{faults: [{fault}]}}
"""


def test_a_variant_has_faults_of_its_own(scenario_file: Callable) -> None:
    """A comparison runs a variant with its faults and others with the scenario's, and what is
    wrong with them is said before.
    """
    wrong = COMPARED.format(fault="{hospital: nort, what: kill}")
    assert "did you mean 'north'?" in str(error := problems(wrong, scenario_file))
    assert error.key == ("variants", "dark", "faults", 0, "hospital")
    good = COMPARED.format(fault="{hospital: north, what: stop, round: 1, lasts: 1}")
    dark, same = methods(load(scenario_file(good)).scenario, ["dark", "fedskd"])
    assert [fault.what for fault in dark.scenario.faults] == ["stop"]
    assert same.scenario.faults == ()


LEARNED = """name: n
data: {{name: synthetic-skin, samples: 60, image_size: 16, classes: 3}}
hospitals:
  - {{name: a, architecture: cnn-plain}}
  - {{name: b, architecture: cnn-plain}}
  - {{name: c, architecture: cnn-plain}}
algorithm: {algorithm}
faults:
  - {{hospital: b, {fault}}}
"""
ONE_VISIT = "{name: circulation, rounds: 2, schedule: {visits: 1}}"


@pytest.mark.parametrize(
    ("algorithm", "fault", "key", "words"),
    [
        (ONE_VISIT, "what: kill, round: 1, hop: 3", "hop", "choose one of 1, 2"),
        ("{name: local, rounds: 2}", "what: stall, round: 1, hop: 1", "hop", "leave it out"),
        ("{name: fedavg, rounds: 2}", "what: poison, round: 3, hop: 1", "round", "no model leaves"),
        ("{name: local, rounds: 2}", "what: poison, round: 3, hop: 2", "round", "no model leaves"),
    ],
)
def test_a_fault_at_a_hop_that_never_comes_is_refused(
    algorithm: str, fault: str, key: str, words: str, scenario_file: Callable
) -> None:
    """Its line, the hops that there are, and what to write instead."""
    path = scenario_file(LEARNED.format(algorithm=algorithm, fault=fault))
    with pytest.raises(InvalidValue) as caught:
        load_and_check(path, None)
    assert caught.value.key == ("faults", 0, key)
    assert caught.value.where.line == 9
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("algorithm", "fault"),
    [
        (ONE_VISIT, "what: kill, round: 1, hop: 2"),
        ("{name: local, rounds: 2}", "what: stall, round: 1"),
        ("{name: local, rounds: 2}", "what: poison, round: 1"),
        ("{name: fedavg, rounds: 2}", "what: poison, round: 1, hop: 3"),
        ("{name: circulation, rounds: 2}", "what: full_disk, round: 3, hop: 2"),
    ],
)
def test_a_fault_at_a_hop_that_comes_is_accepted(
    algorithm: str, fault: str, scenario_file: Callable
) -> None:
    """Hops of visits, of sums, of the evaluation, and rounds without hops."""
    scenario = load(scenario_file(LEARNED.format(algorithm=algorithm, fault=fault))).scenario
    assert [*never_met(scenario)] == []


def test_a_comparison_looks_at_the_rounds_that_a_method_gets(scenario_file: Callable) -> None:
    """A fault of a variant behind the method's rounds is refused in its line, one within them is
    accepted.
    """

    def compared(algorithm: str, label: str, round_: int) -> str:
        text = COMPARED.format(fault=f"{{hospital: north, what: kill, round: {round_}}}")
        path = scenario_file(text.replace("fedskd, rounds: 2", algorithm))
        arguments = ["compare", str(path), "--algorithms", f"{label},local", "--seeds", "1"]
        return CliRunner().invoke(main, arguments).stderr

    text = compared("fedskd, preset: traveller-first, rounds: 8", "dark", 12)
    assert "variants.dark.faults.0.round" in text
    assert "dark, in its 8 rounds: 'north' does nothing in round 12" in text
    assert "faults" not in compared("fedskd, preset: traveller-first, rounds: 8", "dark", 8)
