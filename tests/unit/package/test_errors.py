"""The tree of errors: its table, its numbers, and what a person reads."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import pytest

from fedskd_sim import errors, exits
from fedskd_sim.errors import FedskdError, InvalidValue, ScenarioError, UnknownKey, Where
from fedskd_sim.exits import all_errors, meaning, rebuilt

LEAVES = [error for error in all_errors() if not error.__subclasses__()]
CHART = Path(__file__).parents[3] / "helm" / "fedskd-sim"
TABLE = re.findall(r"-- (\w+)(?: +(\d+)  (\S.*))?$", errors.__doc__ or "", re.MULTILINE)


def test_the_table_is_the_tree() -> None:
    """The tree drawn at the top of the package errors has every class once, in order, with its
    number, and no other.
    """
    drawn = {name: int(code) for name, code, _ in TABLE if code}
    assert drawn == {error.__name__: error.exit_code for error in LEAVES}
    assert {name for name, code, _ in TABLE if not code} == {
        error.__name__ for error in all_errors()[1:] if error.__subclasses__()
    }
    assert list(drawn.values()) == sorted(drawn.values())
    assert len(TABLE) == len({name for name, *_ in TABLE})


def test_exit_codes_are_unique_and_clear_of_the_shells() -> None:
    """No two kinds of error share a number, and none is one that the shell, click or a signal
    uses.
    """
    codes = [error.exit_code for error in LEAVES]
    assert len(set(codes)) == len(codes)
    assert set(codes).isdisjoint({0, 1, 2, exits.INTERRUPTED})
    assert all(code < 126 for code in codes)


def test_a_new_error_is_final_in_the_cluster_too() -> None:
    """A class with a number of its own joins the codes after which no pod is tried again, and
    the chart has exactly these.
    """
    kept = json.loads((CHART / "files" / "final-codes.json").read_text(encoding="utf-8"))
    assert kept == list(exits.final_codes()), (
        f"write {json.dumps(exits.final_codes())} into the chart's files/final-codes.json"
    )
    assert '.Files.Get "files/final-codes.json"' in (
        CHART / "templates" / "controller.yaml"
    ).read_text(encoding="utf-8")

    class NewError(FedskdError):
        """An error that nobody has thought of yet."""

        exit_code = 125

    assert NewError.exit_code in exits.final_codes()
    del NewError
    gc.collect()
    assert json.loads(json.dumps(exits.final_codes())) == kept


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_an_error_is_rebuilt_from_its_code(kind: type[FedskdError]) -> None:
    """What another process reports by number, text, fix and key is the same error again."""
    again = rebuilt(kind.exit_code, "text", fix="fix", key=("a", 1))
    assert type(again) is kind
    assert str(again) == str(kind("text", fix="fix", key=("a", 1)))
    assert again.exit_code == kind.exit_code


@pytest.mark.parametrize("code", [0, 1, 2, 99, -9])
def test_an_unknown_code_is_the_base_of_all_errors(code: int) -> None:
    """A number that nobody foresaw still becomes an error."""
    assert type(rebuilt(code, "text")) is FedskdError


def test_errors_read_as_place_key_value_and_fix() -> None:
    """One line says where, which key and what, the next what to do; editors understand
    file:line.
    """
    error = InvalidValue("3 is wrong", fix="use 4", key=("a", 1, "b"), where=Where("x.yaml", 7))
    assert str(error) == "x.yaml:7: a.1.b: 3 is wrong\n  fix: use 4"
    assert str(InvalidValue("bare")) == "bare"
    assert str(InvalidValue("no line", where=Where("x.yaml"))) == "x.yaml: no line"


def test_other_problems_follow() -> None:
    """Further errors are listed under the first, each with its own place and fix."""
    error = InvalidValue("first", where=Where("x.yaml", 1))
    error.others = (UnknownKey("second", fix="remove it", where=Where("x.yaml", 2)),)
    assert str(error).splitlines() == ["x.yaml:1: first", "x.yaml:2: second", "  fix: remove it"]


def test_parents_catch_their_children() -> None:
    """A caller can catch a family of errors by its parent."""
    family = {error.__name__ for error in LEAVES if issubclass(error, ScenarioError)}
    assert family == {error.__name__ for error in LEAVES if 10 <= error.exit_code < 30}


def test_every_class_says_in_one_sentence_what_happened() -> None:
    """The help's table of exit codes is made of these sentences."""
    for error in all_errors():
        assert re.fullmatch(r"[A-Z`].*\.", meaning(error)), error
