"""Scenario files: every bad one has file, line, value, fix and its own exit code; good ones
load.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import fedskd_sim
from fedskd_sim.cli import main
from fedskd_sim.errors import (
    DuplicateHospital,
    FedskdError,
    InvalidValue,
    ScenarioSyntaxError,
    TooFewHospitals,
    UnknownKey,
)
from fedskd_sim.scenario import Ham10000, SyntheticSkin, load

SCENARIOS = sorted((Path(__file__).parents[3] / "scenarios").glob("*.yaml"))
GOOD = """\
name: good
seed: 7
data: {name: synthetic-skin, samples: 50}
hospitals:
  - {name: a, architecture: cnn-plain}
  - name: b
    architecture: {name: cnn-plain, options: {width: 8}}
    data: {samples: 60}
algorithm:
  name: fedskd
  rounds: 3
  similarity: {batch: 0.5}
"""


def broken(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BAD = {
    "unknown key": (broken("seed: 7", "sed: 7"), UnknownKey, 2, "did you mean 'seed'?"),
    "unknown nested key": (
        broken("batch: 0.5", "batsh: 0.5"),
        UnknownKey,
        12,
        "did you mean 'batch'?",
    ),
    "unknown key of a hospital's data": (
        broken("{samples: 60}", "{sampels: 60}"),
        UnknownKey,
        8,
        "did you mean 'samples'?",
    ),
    "unknown key of all data": (
        broken("samples: 50", "sampels: 50"),
        UnknownKey,
        3,
        "did you mean 'samples'?",
    ),
    "wrong type": (broken("rounds: 3", "rounds: three"), InvalidValue, 11, '"three"'),
    "number as text": (broken("rounds: 3", "rounds: '3'"), InvalidValue, 11, '"3"'),
    "truth for a number": (broken("rounds: 3", "rounds: true"), InvalidValue, 11, "true"),
    "nothing for a number": (broken("rounds: 3", "rounds:"), InvalidValue, 11, "null"),
    "rounds 0": (broken("rounds: 3", "rounds: 0"), InvalidValue, 11, "give 1 or more"),
    "negative weight": (broken("batch: 0.5", "batch: -0.5"), InvalidValue, 12, "-0.5"),
    "infinite weight": (broken("batch: 0.5", "batch: .inf"), InvalidValue, 12, "finite"),
    "negative seed": (broken("seed: 7", "seed: -7"), InvalidValue, 2, "-7"),
    "missing key": (broken("name: good\n", ""), InvalidValue, 1, "add 'name: ...'"),
    "missing algorithm name": (broken("  name: fedskd\n", ""), InvalidValue, 9, "add 'name: ...'"),
    "unknown algorithm": (
        broken("name: fedskd", "name: fedskt"),
        InvalidValue,
        10,
        "did you mean 'fedskd'?",
    ),
    "unknown data": (
        broken("synthetic-skin", "synthetic-skim"),
        InvalidValue,
        3,
        "did you mean 'synthetic-skin'?",
    ),
    "architecture as a number": (
        broken("architecture: cnn-plain}", "architecture: 4}"),
        InvalidValue,
        5,
        "4",
    ),
    "hospitals as a mapping": (
        GOOD.split("hospitals:", maxsplit=1)[0] + "hospitals: {a: 1}\nalgorithm: {name: fedskd}\n",
        InvalidValue,
        4,
        "",
    ),
    "a hospital's name that is no host name": (
        broken("name: b\n", "name: B_1\n"),
        InvalidValue,
        6,
        "B_1",
    ),
    "two hospitals of one name": (
        broken("name: b\n", "name: a\n"),
        DuplicateHospital,
        6,
        "in line 5",
    ),
    "reserved name": (broken("name: b\n", "name: controller\n"), InvalidValue, 6, "reserved"),
    "one hospital": (
        GOOD.split("  - name: b", maxsplit=1)[0] + "algorithm: {name: fedskd}\n",
        TooFewHospitals,
        4,
        "at least two",
    ),
    "no hospitals": (
        "name: x\nhospitals: []\nalgorithm: {name: fedskd}\n",
        TooFewHospitals,
        2,
        "no hospitals",
    ),
    "duplicate key": (
        broken("seed: 7", "seed: 7\nseed: 8"),
        ScenarioSyntaxError,
        3,
        "first in line 2",
    ),
    "duplicate nested key": (
        broken("rounds: 3", "rounds: 3\n  rounds: 4"),
        ScenarioSyntaxError,
        12,
        "stands twice",
    ),
    "tab": (broken("  rounds: 3", "\trounds: 3"), ScenarioSyntaxError, 11, "spaces"),
    "anchor that loops": (
        broken("seed: 7", "seed: &s [*s]"),
        ScenarioSyntaxError,
        2,
        "contains itself",
    ),
    "unknown anchor": (broken("seed: 7", "seed: *s"), ScenarioSyntaxError, 2, "undefined alias"),
    "open bracket": (broken("{batch: 0.5}", "{batch: 0.5"), ScenarioSyntaxError, 12, "not closed"),
    "open quote": (broken("seed: 7", "seed: 'x"), ScenarioSyntaxError, 2, "not closed"),
    "no colon": (broken("seed: 7", "seed 7"), ScenarioSyntaxError, 2, "'seed 7' has no ':'"),
    "crooked indentation": (
        broken("  rounds: 3", "   rounds: 3"),
        ScenarioSyntaxError,
        11,
        "indentation",
    ),
    "two documents": (GOOD + "---\nname: other\n", ScenarioSyntaxError, 13, "second document"),
    "a list": ("- name: x\n", ScenarioSyntaxError, 1, "holds a list"),
    "a sentence": ("hello\n", ScenarioSyntaxError, 1, "holds a text"),
    "nothing": ("", ScenarioSyntaxError, 1, "holds nothing"),
    "only a comment": ("# later\n", ScenarioSyntaxError, 1, "holds nothing"),
    "a mapping that contains itself": (
        "name: x\na: &a\n  b: *a\n",
        ScenarioSyntaxError,
        2,
        "contains itself",
    ),
    "a tag that would run code": (
        broken("seed: 7", "seed: !!python/object:os.system x"),
        ScenarioSyntaxError,
        2,
        "!!python",
    ),
    "a tag on a mapping": (
        broken("{batch: 0.5}", "!odd {batch: 0.5}"),
        ScenarioSyntaxError,
        12,
        "!odd",
    ),
    "a tag on everything": ("!odd {name: x}\n", ScenarioSyntaxError, 1, "!odd"),
    "a tag on what it does not fit": (
        broken("seed: 7", "seed: !!bool 7"),
        ScenarioSyntaxError,
        2,
        "cannot be read as bool",
    ),
    "a tag that a key does not fit": (
        broken("seed: 7", "!!int seed: 7"),
        ScenarioSyntaxError,
        2,
        "'seed' cannot be read as int",
    ),
    "an alias before worse": (GOOD + "a: *b\nc: [}\n", ScenarioSyntaxError, 14, "not YAML"),
    "a second document with worse": (
        GOOD + "---\na: [}\n",
        ScenarioSyntaxError,
        14,
        "not YAML",
    ),
    "a list as a key": (GOOD + "? [a, b]\n: 1\n", ScenarioSyntaxError, 13, "where a key should"),
    "a merge key": (
        broken("{name: a,", "{<<: {name: a},"),
        ScenarioSyntaxError,
        5,
        "write the keys out",
    ),
    "a number too long to read": (
        broken("seed: 7", "seed: " + "9" * 5000),
        ScenarioSyntaxError,
        2,
        "999...",
    ),
    "a control character": (broken("name: good", "name: g\0od"), ScenarioSyntaxError, 1, "U+0000"),
    "deep brackets": ("a: " + "[" * 3000 + "]" * 3000, ScenarioSyntaxError, 1, "levels deep"),
    "deep mappings": (
        "".join(" " * level + "a:\n" for level in range(60)),
        ScenarioSyntaxError,
        42,
        "levels deep",
    ),
    "ports past the last": (GOOD + "metrics: {port: 65534}\n", InvalidValue, 13, "past port 65535"),
    "plaintext Unix sockets": (
        GOOD + "network: {plaintext: true}\n",
        InvalidValue,
        13,
        "transport: tcp",
    ),
    "rounds without end": (broken("rounds: 3", f"rounds: {10**24}"), InvalidValue, 11, "or less"),
    "endless samples": (
        broken("samples: 50", f"samples: {10**12}"),
        InvalidValue,
        3,
        "give 10000000 or less",
    ),
    "a deadline in centuries": (
        GOOD + "timeouts: {hop: 1e300}\n",
        InvalidValue,
        13,
        "1000000000 or less",
    ),
    "what a placebo predicts": (
        GOOD[: GOOD.index("algorithm")] + "algorithm: {name: placebo}\nprediction: {model: last}\n",
        InvalidValue,
        10,
        "nothing can be predicted",
    ),
    "deadline 0": (GOOD + "timeouts: {hop: 0}\n", InvalidValue, 13, "more than 0"),
    **{
        f"{name} for {place}": (broken(old, new), InvalidValue, line, words)
        for name, place, old, new, line, words in (
            ("a list", "an architecture", "cnn-plain}", "[cnn-plain]}", 5, "'fedskd-sim models'"),
            ("nothing", "an architecture", "cnn-plain}", "}", 5, "'fedskd-sim models'"),
            ("a list", "options", "{width: 8}", "[width]", 7, "a mapping such as {width: 32}"),
            ("a mapping", "an option", "{width: 8}", "{width: {a: 1}}", 7, "give a number, a word"),
            ("nothing", "an option", "{width: 8}", "{width: }", 7, "or remove the key"),
            (
                "a word",
                "data",
                "{name: synthetic-skin, samples: 50}",
                "synthetic-skin",
                3,
                "'data: {name: synthetic-skin}'",
            ),
            ("nothing", "data", "{name: synthetic-skin, samples: 50}", "", 3, "null"),
            (
                "no name",
                "data",
                "{name: synthetic-skin, samples: 50}",
                "{samples: 50}",
                3,
                "add 'name: ...'",
            ),
            (
                "a number",
                "the name of data",
                "{name: synthetic-skin, samples: 50}",
                "{name: 5}",
                3,
                "choose one of synthetic",
            ),
            ("a wrong value", "inherited data", "samples: 50", "samples: many", 3, '"many"'),
            (
                "a word",
                "a hospital's data",
                "{samples: 60}",
                "ham10000",
                8,
                "'data: {name: ham10000}'",
            ),
            ("nothing", "a hospital's data", "{samples: 60}", "", 8, "null"),
            ("a list", "a hospital's data", "{samples: 60}", "[1]", 8, "a mapping such as"),
            (
                "an unknown name",
                "a hospital's data",
                "{samples: 60}",
                "{name: ham1000}",
                8,
                "'ham10000'",
            ),
            (
                "a number",
                "similarity",
                "{batch: 0.5}",
                "0.5",
                12,
                "some of these keys: distance, batch",
            ),
            ("a list", "similarity", "{batch: 0.5}", "[batch]", 12, "some of these keys"),
            ("a mapping", "a weight", "{batch: 0.5}", "{batch: {x: 1}}", 12, "give a number"),
            (
                "a quoted number",
                "a weight",
                "{batch: 0.5}",
                "{batch: '0.5'}",
                12,
                "remove the quotes",
            ),
            ("not a number", "a weight", "{batch: 0.5}", "{batch: .nan}", 12, ".nan"),
            ("too much", "a share", "{batch: 0.5}", "{ramp: 1.5}", 12, "1 or less"),
            (
                "a word",
                "a distance",
                "{batch: 0.5}",
                "{distance: cor}",
                12,
                "did you mean 'corr'? choose one of corr, mse",
            ),
            ("a word", "a grid", "{batch: 0.5}", "{region_grid: fine}", 12, "whole number"),
            (
                "a word",
                "reconcile",
                "rounds: 3",
                "reconcile: avg",
                11,
                "average, two_track, replace, select",
            ),
            (
                "an old truth",
                "augment",
                "algorithm:",
                "training: {augment: yes}\nalgorithm:",
                9,
                "true or false",
            ),
            ("a fraction", "rounds", "rounds: 3", "rounds: 1e1", 11, "write 10"),
            ("a number", "a name", "name: good", "name: 12", 1, "put it in quotes"),
            ("a power", "a name", "name: good", "name: 1e3", 1, 'quotes, "1e3"'),
            ("zeros", "a name", "name: good", "name: 007", 1, 'quotes, "007"'),
            ("capitals", "a name", "name: good", "name: My Run", 1, "lower-case letters"),
            ("too many letters", "a name", "name: good", "name: " + 41 * "a", 1, "at most 40"),
            (
                "a word",
                "a device",
                "cnn-plain}",
                "cnn-plain, device: gpu}",
                5,
                "cpu, cuda, cuda:N or auto",
            ),
            (
                "a wrong unit",
                "memory",
                "cnn-plain}",
                "cnn-plain, resources: {memory: 2GB}}",
                5,
                "as in 2Gi",
            ),
            (
                "half",
                "a core",
                "cnn-plain}",
                "cnn-plain, resources: {cpu: 0.5}}",
                5,
                "whole number",
            ),
            ("too much", "a seed", "seed: 7", f"seed: {2**53}", 2, "less than 9007199254740992"),
        )
    },
    "a hospital as a word": (
        "name: x\nhospitals: [a, b]\nalgorithm: {name: fedskd}\n",
        InvalidValue,
        2,
        "is a mapping such as",
    ),
    "no hospitals key": (
        "name: x\nalgorithm: {name: fedskd}\n",
        InvalidValue,
        1,
        "add 'hospitals: ...'",
    ),
    "algorithm as a word": (
        GOOD.split("algorithm:", maxsplit=1)[0] + "algorithm: fedskd\n",
        InvalidValue,
        9,
        "'algorithm: {name: fedskd}'",
    ),
    "an option beside the name": (
        broken("{name: cnn-plain, options: {width: 8}}", "{name: cnn-plain, width: 8}"),
        UnknownKey,
        7,
        "options: {width: ...}",
    ),
    "a key of other data": (
        broken("{samples: 60}", "{name: ham10000, samples: 60}"),
        UnknownKey,
        8,
        "known here: name, file",
    ),
    "a key of another algorithm": (
        broken("rounds: 3", "culprit: a"),
        UnknownKey,
        11,
        "known here: name, rounds, loss",
    ),
    "a key of training": (
        broken("rounds: 3", "epochs: 3"),
        UnknownKey,
        11,
        "write it under training",
    ),
    "a number as a key": (GOOD + "3: x\n", UnknownKey, 13, "known here: name"),
    "an alias in Python alone": (
        GOOD + "timeouts: {register_: 3}\n",
        UnknownKey,
        13,
        "did you mean 'register'?",
    ),
    "a transport": (
        GOOD + "network: {transport: udp}\n",
        InvalidValue,
        13,
        "choose one of ipc, tcp",
    ),
    "a port": (GOOD + "metrics: {port: 99999}\n", InvalidValue, 13, "65535 or less"),
    "one hospital that trains": (
        broken("    data: {samples: 60}", "    held_out: true\n    data: {samples: 60}"),
        TooFewHospitals,
        4,
        "only one hospital that trains",
    ),
    "a key that faults replace": (
        (
            "name: n\nhospitals: [{name: a, architecture: m},{name: c, architecture: m}]\n"
            "algorithm: {behaviour: abort, name: placebo}"
        ),
        UnknownKey,
        3,
        "write 'faults: [{hospital: ..., what: ...}]' at the top level",
    ),
    "a date": (broken("seed: 7", "seed: 2026-01-01"), InvalidValue, 2, "2026-01-01"),
}


@pytest.mark.parametrize(("text", "kind", "line", "words"), BAD.values(), ids=BAD.keys())
def test_bad_scenarios_have_file_line_value_fix_and_code(
    text: str, kind: type[FedskdError], line: int | None, words: str, scenario_file: Callable
) -> None:
    """Each kind of mistake raises its own error at its own line, with words that help."""
    path = scenario_file(text)
    with pytest.raises(FedskdError) as caught:
        load(path)
    assert type(caught.value) is kind
    assert (caught.value.where.file, caught.value.where.line) == (str(path), line)
    assert words in str(caught.value).splitlines()[0] + str(caught.value).splitlines()[1]
    assert caught.value.fix
    done = CliRunner().invoke(main, ["validate", str(path)])
    assert (done.exit_code, done.stderr.startswith(f"error: {caught.value}\n")) == (
        kind.exit_code,
        True,
    )


@pytest.mark.parametrize("text", [text for text, *_ in BAD.values()], ids=BAD.keys())
def test_errors_speak_no_dialect_of_libraries(text: str, scenario_file: Callable) -> None:
    """No text shows Python's or a library's own words, and none is longer than a person reads."""
    with pytest.raises(FedskdError) as caught:
        load(scenario_file(text))
    for error in (caught.value, *caught.value.others):
        said = f"{error.message} {error.fix}"
        assert not re.search(
            r"[Ii]nput should|tuple|\bdict\b|NoneType|str_type|valid array|object\b(?!:os)|pattern "
            r"'|<unicode",
            said,
        ), said
        assert len(error.message) < 250, error.message


def test_all_problems_are_listed_in_the_order_of_the_file(scenario_file: Callable) -> None:
    """One run of the check shows every mistake, first lines first."""
    text = (
        broken("rounds: 3", "rounds: 0")
        .replace("seed: 7", "sed: 7")
        .replace("batch: 0.5", "batch: -1")
    )
    with pytest.raises(UnknownKey) as caught:
        load(scenario_file(text))
    assert [error.where.line for error in (caught.value, *caught.value.others)] == [2, 11, 12]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("name: good", "nmae: good", 1), ("algorithm:", "algoritm:", 9), ("- name: b", "- nam: b", 6)],
)
def test_a_misspelt_key_is_not_missing_as_well(
    old: str, new: str, line: int, scenario_file: Callable
) -> None:
    """One slip of the finger is one error, even where the key is required."""
    with pytest.raises(UnknownKey) as caught:
        load(scenario_file(broken(old, new)))
    assert (caught.value.where.line, caught.value.others) == (line, ())


def test_exploding_anchors_are_refused_quickly(scenario_file: Callable) -> None:
    """A billion laughs end at twenty thousand."""
    levels = "".join(
        f"  - &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 10)
    )
    with pytest.raises(ScenarioSyntaxError, match="too many values"):
        load(scenario_file("name: x\nlaughs:\n  - &l0 [a]\n" + levels))


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff\xfe\x00", "UTF-8"), (b"#" * (1 << 18) + b"#", "256 KiB")]
)
def test_files_that_are_no_scenario_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    """Binary and huge files have a clear error."""
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ScenarioSyntaxError, match=words):
        load(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_missing_file_and_a_folder_are_errors(name: str, tmp_path: Path) -> None:
    """The error says that the scenario cannot be read, and why."""
    with pytest.raises(ScenarioSyntaxError, match="cannot read the scenario"):
        load(tmp_path / name)


def test_hospitals_inherit_the_data_and_override_keys(scenario_file: Callable) -> None:
    """A hospital's data is the top level's with its own keys on top; a bare architecture name
    has no options.
    """
    scenario = load(scenario_file(GOOD)).scenario
    first, second = (hospital.data for hospital in scenario.hospitals)
    assert isinstance(first, SyntheticSkin)
    assert (first.samples, second.samples, second.classes) == (50, 60, first.classes)
    assert scenario.hospitals[0].architecture.options == {}
    assert scenario.hospitals[1].architecture.options == {"width": 8}


def test_a_hospital_with_another_kind_of_data_begins_afresh(scenario_file: Callable) -> None:
    """Keys of the top level's data do not leak into a hospital that names another kind."""
    path = scenario_file(broken("{samples: 60}", "{name: ham10000, site: rosendahl}"))
    assert load(path).scenario.hospitals[1].data == Ham10000(name="ham10000", site="rosendahl")


def test_an_inherited_mistake_is_told_once(scenario_file: Callable) -> None:
    """What all hospitals inherit is one error at the top level's key, not one per hospital."""
    with pytest.raises(InvalidValue) as caught:
        load(scenario_file(broken("samples: 50", "samples: many")))
    assert caught.value.key == ("data", "samples")
    assert [error.key for error in caught.value.others] == []


def test_harmless_anchors_and_merges_of_values_work(scenario_file: Callable) -> None:
    """An anchor that does not loop stands for its value wherever it is used."""
    text = broken("cnn-plain}", "&plain cnn-plain}").replace(
        "{name: cnn-plain, options: {width: 8}}", "*plain"
    )
    assert load(scenario_file(text)).scenario.hospitals[1].architecture.name == "cnn-plain"


MERGING = """\
name: merging
data:
  <<: &data {name: synthetic-skin, samples: many}
hospitals:
  - &north {name: north, architecture: cnn-plain, resources: &few {cpu: 0}}
  - <<: *north
    name: south
  - <<: [{name: east}, *north]
    resources: {<<: *few, memory: 5}
algorithm: {name: fedskd, rounds: 1}
prediction: {<<: text}
"""


def test_what_a_merge_key_stands_for_is_not_missed(scenario_file: Callable) -> None:
    """Each merge key is an error in its line that names the keys to write; nothing that it stands
    for is called missing, and what is wrong with it is told where it is written.
    """
    with pytest.raises(ScenarioSyntaxError) as caught:
        load(scenario_file(MERGING))
    told = [caught.value, *caught.value.others]
    merges = {one.where.line: one.fix for one in told if isinstance(one, ScenarioSyntaxError)}
    assert merges == {
        3: "write the keys out in its place: name, samples",
        6: "write the keys out in its place: architecture, resources",
        8: "write the keys out in its place: name, architecture",
        9: "write the keys out in its place: cpu",
        11: "write the keys out",
    }
    rest = {(one.where.line, one.key) for one in told if not isinstance(one, ScenarioSyntaxError)}
    assert rest == {
        (5, ("hospitals", 0, "resources", "cpu")),
        (9, ("hospitals", 2, "resources", "memory")),
    }


def test_a_merge_key_that_contains_itself_is_refused(scenario_file: Callable) -> None:
    """A loop through merge keys ends in its error."""
    text = broken("{batch: 0.5}", "&loop {<<: *loop}")
    with pytest.raises(ScenarioSyntaxError, match="contains itself"):
        load(scenario_file(text))


def test_a_scenario_cannot_be_changed(scenario_file: Callable) -> None:
    """What was read is frozen."""
    scenario = load(scenario_file(GOOD)).scenario
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 8


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.name)
def test_the_scenarios_of_the_project_load_and_fit_on_a_screen(path: Path) -> None:
    """Every file in scenarios/ is good, has a sentence for people, is named as its file, and has
    under 40 lines.
    """
    scenario = fedskd_sim.load(path).scenario
    assert scenario.name == path.stem
    assert scenario.description
    assert path.read_text().count("\n") < 40


@pytest.mark.parametrize("hospitals", ["3", "true", "{a: 1}", "north"])
def test_hospitals_that_are_no_list_are_named(hospitals: str, tmp_path: Path) -> None:
    """Whatever stands where the list of hospitals should, file, line and key are named."""
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\nhospitals: {hospitals}\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["validate", str(path)])
    assert isinstance(result.exception, SystemExit)
    assert f"{path}:2: hospitals" in result.output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name: 007\n", 'put it in quotes, "007"'),
        (b"name: 1e5\n", 'put it in quotes, "1e5"'),
        ("seed: 2\u200b\n".encode(), r'"2\u200b" cannot be used'),
        (b"training: {learning_rate: 1e-3}\n", "it stands under optimiser: {learning_rate: ...}"),
        (b"algorithm: {name: local}\nrounds: 2\n", "it stands under algorithm: {rounds: ...}"),
        (b"data: {name: table, file_: x}\nlabel_column: x\n", "under data: {label_column: ...}"),
        (b"data: {name: table, numbers: {age: [1]}}\n", "data.numbers.age: [1] is too short"),
        (b"data: {name: table, labels: {}}\n", "data.labels: {} cannot be used"),
        (b"seed: 1\ndescription: gr\xfcn\n", ":2: not a text file in UTF-8: byte 24 is 0xfc"),
        ("name: x\n".encode("utf-16"), "iconv -f utf-16 -t utf-8"),
        ("name: x\n".encode("utf-16-le"), "byte 2 is 0x00"),
    ],
)
def test_what_cannot_be_seen_is_shown(content: bytes, told: str, tmp_path: Path) -> None:
    """Names that YAML reads as numbers, characters that nobody sees, other encodings and keys of
    an inner part are told so that they can be found and mended.
    """
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(FedskdError) as caught:
        load(tmp_path / "odd.yaml")
    assert told in str(caught.value)
