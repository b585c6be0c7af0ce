"""Hooks and options of a user's own, where they are not as they should be: told in words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fedskd_sim import AddedLoss, Loss, TrainingStep, load
from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.installed import fill_in, wrong_options
from fedskd_sim.learning.networks.named import find
from fedskd_sim.learning.offers import OWN, code_of, loss
from fedskd_sim.learning.sessions.steps import _prepared, _scalar, name_of
from fedskd_sim.operate.checks import load_and_check

SCENARIO = """\
name: own
code: [mine.py]
data: {name: synthetic-skin, samples: 20, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: b, architecture: {name: cnn-plain, options: {width: 4}}}
algorithm: {name: ALGORITHM}
"""
METHOD = """\
from fedskd_sim import AlgorithmKeys, CirculatingLearner, CirculationKeys, Kept, Loss
from fedskd_sim import algorithm, loss

class Keys(CirculationKeys):
    mu: float = 1.0

@algorithm("mine")
class Mine(CirculatingLearner):
    keys = Keys
"""
LOSS = """\
from fedskd_sim import Loss, loss

@loss("bad")
class Bad(Loss):
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    OWN.use(None)


def told(tmp_path: Path, code: str, algorithm: str = "mine") -> FedskdError:
    """Return the first thing that is wrong."""
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    place = tmp_path / "s.yaml"
    place.write_text(SCENARIO.replace("ALGORITHM", algorithm), encoding="utf-8")
    with pytest.raises(FedskdError) as caught:
        load_and_check(place, None)
    return caught.value


@pytest.mark.parametrize(
    ("more", "name", "meant"),
    [
        ("    def teachng(self, stop, arriving): ...\n", "teachng", "teaching"),
        ("    homecomes = None\n", "homecomes", "homecome"),
    ],
)
def test_a_hook_that_is_misspelt_is_refused(
    more: str, name: str, meant: str, tmp_path: Path
) -> None:
    """By the name that is meant."""
    error = told(tmp_path, METHOD + more)
    assert error.message == f"Mine has no hook {name!r}"
    assert error.fix.startswith(f"did you mean {meant!r}?")


def test_hooks_of_keys_and_losses_are_looked_at_too(tmp_path: Path) -> None:
    """And a loss that overrides nothing is none."""
    keys = METHOD.replace("mu: float = 1.0", "def wrok(self, size): return 1.0")
    assert told(tmp_path, keys).message == "Keys has no hook 'wrok'"
    spelt = LOSS + "    def suprevised(self, step, role): ...\n"
    error = told(tmp_path, spelt, "local, loss: bad")
    assert (error.message, error.key) == ("Bad has no hook 'suprevised'", ("algorithm", "loss"))
    assert error.fix.startswith("did you mean 'supervised'?")
    assert (
        "overrides no method of Loss"
        in told(tmp_path, LOSS + "    x = 1\n", "local, loss: bad").message
    )
    other = LOSS.replace("Bad(Loss)", "Bad") + "    def added(self, step): ...\n"
    assert "is a class, and none on Loss" in told(tmp_path, other, "local, loss: bad").message


def test_helpers_beside_a_hook_are_let_alone(tmp_path: Path) -> None:
    """Where the hook itself is there, where the name is private, and what is kept."""
    more = """\
    def visit(self, stop, arriving): return super().visit(stop, arriving)
    def visits(self): ...
    def _joined(self): ...
    joint = Kept(None)
"""
    (tmp_path / "mine.py").write_text(METHOD + more, encoding="utf-8")
    place = tmp_path / "s.yaml"
    place.write_text(SCENARIO.replace("ALGORITHM", "mine"), encoding="utf-8")
    assert load(place).scenario.algorithm.name == "mine"


@pytest.mark.parametrize("value", ["true", '"1.0"', "[1.0]"])
def test_keys_take_numbers_as_they_are_written(value: str, tmp_path: Path) -> None:
    """No truth value, and no number in quotes."""
    error = told(tmp_path, METHOD, f"mine, mu: {value}")
    assert (error.fix, error.key) == ("give a number", ("algorithm", "mu"))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            METHOD.replace("mu: float = 1.0", "mu = 1.0"),
            "Keys.mu has no type: write mu: float = 1.0 (mine.py, line 4)",
        ),
        (METHOD.replace("mu: float", "mu = 'x'  #"), "Keys.mu has no type: write mu: str = 'x'"),
        ("x = (", "mine cannot be imported: SyntaxError: '(' was never closed (mine.py, line 1)"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_made_is_told_in_our_words(
    code: str, words: str, tmp_path: Path
) -> None:
    """Without a URL, and its place once."""
    error = told(tmp_path, code)
    assert words in error.message
    assert "http" not in error.message
    assert error.message.count("line ") == 1


def test_options_of_a_loss_stand_behind_a_star(tmp_path: Path) -> None:
    """One that does not would be no option."""
    code = "from fedskd_sim import loss\n@loss('bad')\ndef bad(step, weight=1.0): ...\n"
    error = told(tmp_path, code, "local, loss: bad")
    assert "has the option weight without a star before it" in error.message
    assert error.fix == "write a function (step, *, option=default)"


def test_a_whole_number_is_taken_where_a_float_is_wanted() -> None:
    """And handed over as one; no truth value, and no float for a whole number."""
    known = {"gamma": 2.0, "width": 3, "name": "x"}
    assert not [*wrong_options("focal", known, {"gamma": 2}, ())]
    assert len([*wrong_options("focal", known, {"gamma": True, "width": 2.0}, ())]) == 2
    given = fill_in(known, {"gamma": 2, "width": 4, "other": 1})
    assert [type(one) for one in given.values()] == [float, int, int]


class Broken(Loss):
    """Forgets what it has to give."""

    def prepare(self, batch: Samples) -> Samples:
        """Give nothing."""


def test_what_a_loss_forgets_is_told_with_its_line() -> None:
    """Class, hook and line, and a teaching by its function."""
    broken: Any = Broken()
    batch = Samples(torch.ones(2, 1), torch.ones(2))
    line = Broken.prepare.__code__.co_firstlineno
    place = rf"Broken\.prepare \(test_own_hooks\.py:{line}\)"
    with pytest.raises(
        TypeError, match=rf"{place} has to give a batch, .*, not None \(is a return"
    ):
        _prepared(broken, broken.prepare(batch))
    with pytest.raises(TypeError, match="as many images as labels"):
        _prepared(broken, batch._replace(labels=torch.ones(3)))
    with pytest.raises(TypeError, match=r"has to give a scalar tensor, not None \(is a return"):
        _scalar(broken, "supervised", None)
    assert name_of(lambda _: None).startswith("test_what_a_loss_forgets_is_told_with_its_line.<loc")
    assert name_of(broken.prepare).startswith("Broken.prepare (test_own_hooks.py:")


def test_pythons_own_modules_are_not_searched() -> None:
    """And a class that is no network has a fix in one sentence."""
    with pytest.raises(FedskdError, match="'os' is a module of Python itself"):
        find("os:system")
    with pytest.raises(InvalidValue) as caught:
        find("numpy:array")
    assert "write a function that builds the network" in caught.value.fix


def test_a_program_that_is_run_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is a file."""

    @loss("given")
    def given(step: TrainingStep) -> AddedLoss:
        return AddedLoss(step.logits().sum(), {})

    given.__module__ = "__main__"
    program = ModuleType("__main__")
    program.__file__ = str(tmp_path / "nb.py")
    (tmp_path / "nb.py").write_text("", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "__main__", program)
    with pytest.raises(
        InvalidValue, match=r"stands in nb\.py, and a program that is run is no mod"
    ):
        code_of([given], as_files=True)
