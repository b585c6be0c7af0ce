"""Scenarios written with earlier words: the error says what each key and value is called now."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedskd_sim.errors import InvalidValue, UnknownKey
from fedskd_sim.scenario import load
from fedskd_sim.scenario.explain import KEYS

SCENARIO = """name: old
data: {name: synthetic-skin}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-plain}]
algorithm: {name: fedskd}
"""
OLD = {
    "council": "prediction: {council: true}",
    "class_offset": "prediction: {class_offset: 0.5}",
    "slow_weight": "prediction: {slow_weight: 0.2}",
    "receipt": "timeouts: {receipt: 5}",
}


def refused(text: str, scenario_file: Callable, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        load(scenario_file(text))
    return str(caught.value)


@pytest.mark.parametrize("key", OLD)
def test_an_old_key_names_the_new_one(key: str, scenario_file: Callable) -> None:
    """A key that has been renamed is unknown, and the fix says its new name."""
    assert f"it is called {KEYS[key]} now" in refused(
        SCENARIO + OLD[key], scenario_file, UnknownKey
    )


@pytest.mark.parametrize(
    ("key", "algorithm"), [("lock", "fedskd, lock: {kl: 1}"), ("lock_kl", "cyclic, lock_kl: 1")]
)
def test_an_old_key_of_an_algorithm_names_the_new_one(
    key: str, algorithm: str, scenario_file: Callable
) -> None:
    """The same holds for the keys of one algorithm."""
    text = SCENARIO.replace("name: fedskd", f"name: {algorithm}")
    assert f"it is called {KEYS[key]} now" in refused(text, scenario_file, UnknownKey)


def test_all_old_keys_are_tried() -> None:
    """No key of the table goes without its test."""
    assert {*OLD, "lock", "lock_kl"} == {*KEYS}


def test_an_old_word_for_the_averaged_weights_names_the_new_one(scenario_file: Callable) -> None:
    """A value that has been renamed cannot be used, and the fix says its new name."""
    found = refused(SCENARIO + "prediction: {model: slow}", scenario_file, InvalidValue)
    assert "it is called averaged now; choose one of reconciled, last, averaged, mix" in found


def test_a_key_that_was_never_called_so_here_is_not_sent_elsewhere(scenario_file: Callable) -> None:
    """An old word at a place where the new one is no key gets the usual advice."""
    assert "is called" not in refused(
        SCENARIO + "training: {council: true}", scenario_file, UnknownKey
    )
