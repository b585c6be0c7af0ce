"""Networks that a method cannot take: told before anything starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedskd_sim.errors import ArchitecturesDiffer, FedskdError, InvalidValue
from fedskd_sim.operate.checks import load_and_check

TEXT = """\
name: refused
data: {name: synthetic-skin, samples: 20, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: SECOND}
algorithm: ALGORITHM
"""


def refused(scenario_file: Callable, algorithm: str, second: str = "cnn-plain") -> FedskdError:
    text = TEXT.replace("ALGORITHM", algorithm).replace("SECOND", second)
    with pytest.raises(FedskdError) as found:
        load_and_check(scenario_file(text), None)
    return found.value


@pytest.mark.parametrize("name", ["ditto", "partial", "moon", "scaffold", "d-psgd"])
def test_two_architectures_cannot_be_averaged(name: str, scenario_file: Callable) -> None:
    """The second is named with its key, and what would mend it."""
    error = refused(scenario_file, f"{{name: {name}}}", "cnn-residual")
    assert isinstance(error, ArchitecturesDiffer)
    assert (error.exit_code, error.key) == (23, ("hospitals", 1, "architecture"))
    assert "cnn-residual" in error.message
    assert "set algorithm.architecture" in error.fix


def test_a_network_needs_the_part_that_is_treated_apart(scenario_file: Callable) -> None:
    """Without a normalisation FedBN would be FedAvg without a word."""
    error = refused(scenario_file, "{name: partial, shared: all-but-norm}")
    assert isinstance(error, InvalidValue)
    assert error.key == ("hospitals", 0, "architecture")
    assert "cnn-plain has no normalisation, and algorithm.shared asks for it" in error.message
    named = "{name: partial, shared: all-but-norm, architecture: cnn-plain}"
    assert refused(scenario_file, named).key == ("algorithm", "architecture")
    assert "another algorithm.shared" in error.fix


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("{name: fd, shares: features}", "shares"),
        ("{name: ditto, strength: -1}", "strength"),
        ("{name: partial, shared: neck}", "shared"),
        ("{name: moon, temperature: 0}", "temperature"),
        ("{name: def-kt, wieght: 1}", "wieght"),
        ("{name: fedtgp, margin: -1}", "margin"),
        ("{name: fedgh, server_steps: 0}", "server_steps"),
        ("{name: d-psgd, schedule: {mode: sequential}}", "schedule"),
    ],
)
def test_a_wrong_key_is_named(algorithm: str, key: str, scenario_file: Callable) -> None:
    """Whatever a key may not be is told at its place."""
    assert refused(scenario_file, algorithm).key == ("algorithm", key)
