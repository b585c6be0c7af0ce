"""Everything that is wrong with a scenario, a change of it or a comparison is said in one go,
whatever else is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from ruamel.yaml.scanner import Scanner

from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError, InvalidValue, ScenarioSyntaxError, UnknownArchitecture
from fedskd_sim.scenario import load
from fedskd_sim.scenario.document import MOST_LEVELS, parse

GOOD = """\
name: good
data: {name: synthetic-skin, samples: 50, image_size: 16}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: {name: cnn-residual, options: {width: 8}}}
  - {name: c, architecture: vit-tiny, device: cpu}
algorithm: {name: fedskd, rounds: 2}
training: {epochs: 1}
network: {port: 0}
variants:
  wide: {algorithm: {name: fedavg, architecture: cnn-plain}}
"""
WRONG: dict[str, tuple[str, str, int, str]] = {
    "a value": ("epochs: 1", "epochs: 0", 8, "1 or more"),
    "a value of the algorithm": ("rounds: 2", "rounds: many", 7, "whole number"),
    "a device": ("device: cpu", "device: gpu", 6, "cuda:N"),
    "a device that is not here": (
        "cnn-plain}\n  - {name: b",
        "cnn-plain, device: 'cuda:63'}\n  - {name: b",
        4,
        "is not here",
    ),
    "an architecture": (
        "name: a, architecture: cnn-plain",
        "name: a, architecture: cnn-plane",
        4,
        "did you mean 'cnn-plain'?",
    ),
    "an option": ("width: 8", "widht: 8", 5, "'width'? cnn-residual has the options"),
    "a double name": ("- {name: c", "- {name: a", 6, "'a' is already the name"),
    "an unknown key": ("variants:", "netwrk: {}\nvariants:", 10, "did you mean 'network'?"),
    "a port": ("port: 0", "port: 65534", 9, "past port"),
    "a key that stands twice": (
        "training: {",
        "training: {max_rollbacks: 1, max_rollbacks: 2, ",
        8,
        "stands twice",
    ),
}


def told(text: str, *arguments: str, scenario_file: Callable) -> tuple[int, list[int], str]:
    """Exit code, lines of the problems and everything that a command says of a scenario."""
    path = scenario_file(text)
    done = CliRunner().invoke(main, [arguments[0], str(path), *arguments[1:]])
    return (
        done.exit_code,
        [int(line) for line in re.findall(rf"{re.escape(str(path))}:(\d+)", done.stderr)],
        done.stderr,
    )


def test_all_kinds_of_mistakes_are_said_in_one_go(scenario_file: Callable) -> None:
    """One mistake of every kind: bad YAML first, then all others by line, each with its fix; the
    code is the first one's.
    """
    text = GOOD
    for old, new, *_ in WRONG.values():
        assert old in text
        text = text.replace(old, new, 1)
    code, lines, said = told(text, "validate", scenario_file=scenario_file)
    assert lines == [
        8,
        *sorted(line for name, (*_, line, _) in WRONG.items() if name != "a key that stands twice"),
    ]
    assert [words for *_, words in WRONG.values() if words not in said] == []
    assert code == ScenarioSyntaxError.exit_code, said


@pytest.mark.parametrize("name", WRONG)
def test_each_is_said_beside_a_wrong_value(name: str, scenario_file: Callable) -> None:
    """No kind of mistake hides behind a wrong value of another key, and none brings another one
    about.
    """
    old, new, line, words = WRONG[name]
    text = GOOD.replace("name: good", "name: Not Good").replace(old, new, 1)
    _, lines, said = told(text, "validate", scenario_file=scenario_file)
    assert (sorted(lines), words in said) == ([1, line], True), said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("image_size: 16", "image_size: tiny"),
        ("synthetic-skin", "synthetic-skim"),
        ("samples: 50", "samples: 5"),
        ("cnn-plain}", "7}"),
        ("name: a", "name: A"),
        ("name: a, ", ""),
        ("{name: a, architecture: cnn-plain}", "a"),
        ("{name: fedskd, rounds: 2}", "{name: fedskt}"),
        ("{name: fedskd, rounds: 2}", "{name: fedskd, similarity: {region_grid: x}}"),
        ("name: good", "seed: x\nname: good"),
    ],
)
def test_what_is_left_out_is_blamed_for_nothing(
    old: str, new: str, scenario_file: Callable
) -> None:
    """A wrong value brings no error about that is not there once it is right."""
    _, lines, said = told(GOOD.replace(old, new, 1), "validate", scenario_file=scenario_file)
    assert (len(lines), said.count("fix:")) == (1, 1), said


def test_missing_files_and_parts_are_found_beside_wrong_values(
    scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there and a part that two hospitals have are told although another
    value is wrong.
    """
    monkeypatch.delenv("FEDSKD_DATA", raising=False)
    text = GOOD.replace(
        "synthetic-skin, samples: 50, image_size: 16", "ham10000, partition: {parts: 3}"
    ).replace("epochs: 1", "epochs: 0")
    text = text.replace("cnn-plain}", "cnn-plain, data: {partition: {part: 1}}}", 1).replace(
        "8}}}", "8}}, data: {partition: {part: 1}}}"
    )
    text = text.replace("device: cpu", "data: {partition: {part: 5}}")
    _, lines, said = told(text, "validate", scenario_file=scenario_file)
    assert [
        words
        for words in ("part 1 belongs to 'a'", "no part 5 of 3", "1 or more", "no data folder")
        if words not in said
    ] == []
    assert {2, 5, 6, 8} == {*lines}


def test_forty_unknown_architectures_are_counted(scenario_file: Callable) -> None:
    """Of very many mistakes the first are shown and the others counted."""
    hospitals = "".join(f"  - {{name: h{index}, architecture: none}}\n" for index in range(40))
    text = (
        f"name: many\ndata: {{name: synthetic-skin}}\nhospitals:\n{hospitals}algorithm: {{name: "
        f"local}}\n"
    )
    code, lines, said = told(text, "validate", scenario_file=scenario_file)
    assert (code, len(lines), said.splitlines()[-1]) == (
        UnknownArchitecture.exit_code,
        30,
        "... and 10 more problems",
    )


def test_all_wrong_changes_are_said_in_one_go(scenario_file: Callable) -> None:
    """Every --set that is wrong is told beside what is wrong in the file, and the run does not
    start.
    """
    changes = (
        "--set",
        "rounds",
        "--set",
        "hospitals.z.device=cpu",
        "--set",
        "training.epochs=0",
        "--on",
        "memory",
    )
    _, lines, said = told(
        GOOD.replace("cnn-plain}", "cnn-plane}", 1), "launch", *changes, scenario_file=scenario_file
    )
    assert lines == [4]
    assert [
        words
        for words in (
            "names no key",
            "there is no 'z' in this list",
            "--set training.epochs",
            "1 or more",
        )
        if words not in said
    ] == []


def test_a_runtime_that_does_not_fit_is_said_beside_the_rest(scenario_file: Callable) -> None:
    """Pooled data in processes is refused together with a wrong value."""
    text = GOOD.replace("name: fedskd", "name: pooled").replace("epochs: 1", "epochs: 0")
    _, lines, said = told(text, "launch", scenario_file=scenario_file)
    assert (lines, "keeps them apart" in said) == ([7, 8], True)


def test_everything_wrong_with_a_comparison_is_said_in_one_go(scenario_file: Callable) -> None:
    """Labels, control, seeds, methods that do not fit and the file's own mistakes are one list."""
    text = GOOD.replace("epochs: 1", "epochs: 0").replace(
        "architecture: cnn-plain}}", "architecture: cnn-plane}}"
    )
    given = ("--algorithms", "fedsk,local,local,wide,fedavg", "--seeds", "1", "--control", "lokal")
    _, lines, said = told(text, "compare", *given, scenario_file=scenario_file)
    expected = (
        "did you mean 'fedskd'?",
        "given twice",
        "one seed has no spread",
        "the control 'lokal'",
        "did you mean 'local'?",
    )
    assert [
        words
        for words in (*expected, "wide: there is no architecture", "fedavg: 'b' has", "1 or more")
        if words not in said
    ] == []
    assert {8, 11} <= {*lines}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: " + "[" * 3000 + "]" * 3000, 1), ("a: 1\nb: " + "{" * 200_000, 2), ("[" * 3000, 1)],
)
def test_deep_brackets_are_refused_where_they_open(
    text: str, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands of brackets the line is told, and what stands behind the first too deep one
    is never looked at.
    """
    opened: list[str] = []
    usual = Scanner.fetch_flow_collection_start

    def counted(scanner: Scanner, kind: type, bracket: str) -> None:
        opened.append(bracket)
        usual(scanner, kind, bracket)

    monkeypatch.setattr(Scanner, "fetch_flow_collection_start", counted)
    with pytest.raises(ScenarioSyntaxError, match="levels deep") as caught:
        parse("deep", text)
    assert (caught.value.where.line, len(opened)) == (line, MOST_LEVELS + 1)


def test_deep_brackets_of_a_change_are_refused(scenario_file: Callable) -> None:
    """A --set whose value is nested too deeply is named."""
    with pytest.raises(InvalidValue, match="levels deep") as caught:
        load(scenario_file(GOOD), ["data=" + "[" * 3000])
    assert isinstance(caught.value, FedskdError)
    assert str(caught.value.where) == "--set data"
