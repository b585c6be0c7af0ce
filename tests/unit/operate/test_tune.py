"""Settings are compared in real sessions, and a scenario's file is changed where it is worth it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.errors import InvalidValue, OutputNotWritable
from fedskd_sim.found import scenarios
from fedskd_sim.learning.stopwatch import Arithmetic, ComparedArithmetic, compare, guests_of
from fedskd_sim.operate.tune import (
    Tuned,
    TunedHospitals,
    check,
    choose,
    hint,
    now_of,
    settings_of,
    tune,
)
from fedskd_sim.scenario import load

TEXT = """
name: tuned  # a comment that stays
data: {name: synthetic-skin, samples: 40, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: b, architecture: {name: cnn-residual, options: {width: 4}}}  # another
  - {name: c, architecture: {name: cnn-plain, options: {width: 4}}}
algorithm: {name: fedskd, rounds: 1}
training: {batch_size: 8, warmup_epochs: 1}
"""
NOW = Arithmetic("fp32", "contiguous", 1)
LAST, ROUGH = NOW._replace(memory_format="channels_last"), NOW._replace(precision="bf16")


def seen(setting: Arithmetic, ratio: float, high: float = 0.0) -> ComparedArithmetic:
    return ComparedArithmetic(setting, ratio, ratio, ratio, ratio, high or ratio, 5)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([seen(LAST, 0.91)], NOW),
        ([seen(LAST, 0.9)], LAST),
        ([seen(LAST, 0.8, high=1.01)], NOW),
        ([seen(LAST, 0.8), seen(ROUGH, 0.71)], LAST),
        ([seen(LAST, 0.8), seen(ROUGH, 0.7)], ROUGH),
        ([seen(LAST, 0.95), seen(ROUGH, 0.88)], ROUGH),
        ([seen(LAST, 1.4), seen(ROUGH, 1.2)], NOW),
    ],
)
def test_a_setting_is_chosen_for_a_tenth(
    found: list[ComparedArithmetic], chosen: Arithmetic
) -> None:
    """Not for less, nor where a quarter of the repetitions have saved nothing; and another
    precision only for a tenth more than without it.
    """
    assert choose(NOW, found) == chosen


def test_a_file_is_changed_where_it_is_worth_it(scenario_file: Callable[[str], Path]) -> None:
    """One key of ``training`` where all change alike, the hospitals' own elsewhere; comments and
    all else stay, and so does the file's mode. Without a gain nothing is changed.
    """
    file = scenario_file(TEXT)
    file.chmod(0o640)
    loaded = load(file)

    def tuned(chosen: Arithmetic, other: Arithmetic) -> Tuned:
        pair = TunedHospitals(
            ("a", "c"), "cnn-plain", NOW, chosen, (seen(NOW, 1), seen(chosen, 0.8))
        )
        single = TunedHospitals(
            ("b",), "cnn-residual", NOW, other, (seen(NOW, 1), seen(other, 0.5))
        )
        return Tuned(loaded, 8, 5, (pair, single))

    assert tuned(NOW, NOW).changes == []
    assert tuned(LAST, NOW).changes == [f"hospitals.{x}.memory_format=channels_last" for x in "ac"]
    found = tuned(LAST, ROUGH._replace(memory_format="channels_last", threads=2))
    assert found.changes == [
        "hospitals.b.precision=bf16",
        "training.memory_format=channels_last",
        "hospitals.b.resources.cpu=2",
    ]
    said = "\n".join(found.lines())
    assert "chosen: 50% less" in said
    assert "changes what is learned" in said
    file.write_text(f"{TEXT}# written meanwhile\n")
    assert found.write() == file.resolve()
    after, text = load(file).scenario, file.read_text(encoding="utf-8")
    assert now_of(after, "b") == Arithmetic("bf16", "channels_last", 2)
    assert now_of(after, "a") == now_of(after, "c") == LAST
    assert "# a comment that stays" in text
    assert "# another" in text
    assert "# written meanwhile" in text
    assert file.stat().st_mode & 0o777 == 0o640


def test_settings_are_compared_in_sessions_of_the_scenario(
    scenario_file: Callable[[str], Path],
) -> None:
    """Each step is a session's, with one guest of each architecture as often as it comes; every
    setting has its turn, and the process is left as it was.
    """
    loaded = load(scenario_file(TEXT))
    assert guests_of(loaded.scenario, "a") == {"a": 2, "b": 1}
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    settings = settings_of(loaded.scenario, "a", grids=True)
    assert len({*settings}) == 4
    assert settings[0] == NOW
    found = compare(loaded, "a", settings, repetitions=2)
    assert [one.setting for one in found] == settings
    assert (found[0].ratio, found[0].low, found[0].high) == (1, 1, 1)
    assert all(one.cpu > 0 and one.wall > 0 and one.repetitions == 2 for one in found)
    assert all(one.low <= one.ratio <= one.high for one in found)
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (threads, mode)
    said = hint(loaded, "b")
    assert not said or said.startswith("b's steps take about")


def test_the_command_measures_alike_hospitals_once(scenario_file: Callable[[str], Path]) -> None:
    """It prints what it has found as JSON, and the file is then what that says."""
    file = scenario_file(TEXT)
    before = load(file)
    given = ["tune", str(file), "--repetitions", "2", "--json", "--write"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("measuring") == 2
    told = json.loads(done.stdout)
    assert [*told["hospitals"]] == ["a", "c", "b"]
    assert told["hospitals"]["a"] == told["hospitals"]["c"]
    assert load(file).scenario == before.changed(told["changes"]).good().scenario
    for one in told["hospitals"].values():
        ratios = [found["ratio"] for found in one["formats"]]
        assert ratios[0] == 1
        assert one["gain"] == 0 or one["gain"] >= 0.1
        changed = one["now"] != one["chosen"]
        assert changed == (one["gain"] > 0 or len(one["threads"]) > 1)


def test_what_has_nothing_to_measure(scenario_file: Callable[[str], Path]) -> None:
    """A private hospital is told and skipped. Of a method whose models stay, a step of the own
    model is measured. A placebo and a scenario that comes with the program are refused.
    """
    alone = TEXT.replace("algorithm: {name: fedskd, rounds: 1}", "algorithm: {name: local}")
    loaded = load(scenario_file(alone))
    assert guests_of(loaded.scenario, "a") == {"a": 1}
    found = tune(loaded, repetitions=2, keep_precision=True).hospitals[0]
    assert {one.setting.precision for one in found.formats} == {"fp32"}
    private = alone.replace("width: 4}}}\n", "width: 4}}, privacy: {noise: 1}}\n", 1).replace(
        "warmup_epochs: 1", "warmup_epochs: 1, class_weights: none"
    )
    skipped = tune(load(scenario_file(private)), repetitions=2, keep_precision=True).hospitals[0]
    assert skipped.names == ("a",)
    assert "private" in skipped.skipped
    assert skipped.chosen == skipped.now
    placebo = load(scenario_file(alone.replace("name: local", "name: placebo")))
    with pytest.raises(InvalidValue, match="computes nothing"):
        check(placebo, write=False)
    with pytest.raises(OutputNotWritable, match="quickstart comes with") as caught:
        check(load(scenarios()["quickstart"]), write=True)
    assert "fedskd-sim init mine --from quickstart" in caught.value.fix
