"""Code of a user's own in a file beside the scenario: what it offers, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedskd_sim import TrainingStep, load, loss
from fedskd_sim.api import _with_code
from fedskd_sim.errors import FedskdError, InvalidValue, UnknownKey
from fedskd_sim.learning.base import NOTHING
from fedskd_sim.learning.kept import Keeping, Kept
from fedskd_sim.learning.offers import OWN
from fedskd_sim.operate import trust
from fedskd_sim.operate.canary import changes
from fedskd_sim.operate.checks import load_and_check
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import examine
from fedskd_sim.scenario.own import LARGEST, OwnCode, read_answers, read_code

SCENARIO = """\
name: own
code: [mine.py]
data: {name: synthetic-skin, samples: 20, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: b, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: c, architecture: {name: cnn-plain, options: {width: 4}}}
training: {warmup_epochs: 1, batch_size: 6}
algorithm: {name: mine}
"""
METHOD = """\
from fedskd_sim import CirculatingLearner, CirculationKeys, Schedule, algorithm

class Keys(CirculationKeys):
    strength: float = 1.0
    schedule: Schedule = Schedule(order="shuffled", visits=1)

@algorithm("mine")
class Mine(CirculatingLearner):
    keys = Keys
"""
LOSSES = """\
import torch
from fedskd_sim import Loss, loss

@loss("more")
def more(step, *, weight=1.0):
    return weight * step.logits().square().mean()

@loss("instead", replaces=True)
def instead(step, role, *, scale=2.0):
    return scale * step.cross_entropy(role)

@loss("still")
class Still(Loss):
    def before_step(self, step, role):
        for parameter in step.models[role].parameters():
            parameter.grad = torch.zeros_like(parameter)

@loss("vector", replaces=True)
def vector(step, role):
    return step.logits(role)

@loss("nothing")
def nothing(step):
    step.logits()
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    OWN.use(None)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a scenario, and files beside it."""

    def write(text: str = SCENARIO, **files: str) -> Path:
        for name, content in files.items():
            (tmp_path / f"{name}.py").write_text(content, encoding="utf-8")
        (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "s.yaml"

    return write


def told(path: Path, *changed: str) -> FedskdError:
    """Return the first thing that is wrong."""
    with pytest.raises(FedskdError) as caught:
        load_and_check(path, None, changes=changed)
    return caught.value


def test_an_own_algorithm_is_data(write: Callable[..., Path]) -> None:
    """What the ring does follows from what its class has said: pattern, schedule, work, words."""
    path = write(mine=METHOD)
    scenario = load(path).scenario
    mine = Topology.of(scenario)
    assert (mine.pattern, mine.visits, mine.schedule.order) == ("circulation", 1, "shuffled")
    orders = {
        Topology.of(load(path, "algorithm.rounds=9").scenario).order(one) for one in (1, 2, 3)
    }
    assert len(orders) > 1
    assert scenario.algorithm.work(3) == 4.0
    assert scenario.algorithm.warms_up
    assert "travels" in scenario.algorithm.words
    assert "algorithm.schedule.visits=null" in changes(scenario)


def test_only_its_class_knows_its_keys(write: Callable[..., Path]) -> None:
    """A wrong key or value of it is told with its line, as those of built-in ones are."""
    path = write(mine=METHOD)
    load_and_check(path, None, changes=["algorithm.strength=2.5"])
    wrong = told(path, "algorithm.strenght=2.5")
    assert isinstance(wrong, UnknownKey)
    assert wrong.fix.startswith("did you mean 'strength'?")
    assert told(path, "algorithm.strength=high").key == ("algorithm", "strength")
    unknown = told(path, "algorithm.name=mane")
    assert unknown.fix.startswith("did you mean 'mine'? there are ")
    assert unknown.where
    assert told(path, "algorithm.resolved={pattern: none}").key == ("algorithm", "resolved")


@pytest.mark.parametrize(
    ("files", "changed", "words"),
    [
        ({}, (), "is no Python file in"),
        ({"mine": METHOD}, ("code=[../mine.py]",), "is no module beside the scenario"),
        ({"mine": METHOD}, ("code=[mine]",), "is no Python file in"),
        ({"mine": METHOD}, ("code=[mine.py, mine.py]",), "is named twice"),
        ({"json": METHOD}, ("code=[json.py]",), "a module 'json' is installed"),
        ({"numpy": METHOD}, ("code=[numpy.py]",), "a module 'numpy' is installed"),
        ({"mine": "import nothing_of_that_name"}, (), "(mine.py, line 1)"),
        ({"mine": "a = 1\n1 / 0"}, (), "ZeroDivisionError: division by zero (mine.py, line 2)"),
        ({"mine": "def"}, (), "SyntaxError"),
        ({"mine": "import sys; sys.exit(3)"}, (), "SystemExit: 3 (mine.py, line 1)"),
        ({"mine": METHOD, "other": METHOD}, ("code=[mine.py, other.py]",), "is offered twice"),
        ({"mine": METHOD.replace('"mine"', '"fedavg"')}, (), "'fedavg' is a built-in algorithm"),
        ({"mine": f"x = '{'a' * LARGEST}'"}, (), "the most is"),
    ],
)
def test_code_that_cannot_be_used_is_refused(
    write: Callable[..., Path],
    files: dict[str, str],
    changed: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything else of it is told, at the key that names it, with the line of the code."""
    path = write(**files)
    monkeypatch.chdir(path.parent)
    for place in (path, Path(path.name)):  # as people give it, from within its folder
        error = told(place, *changed)
        assert words in str(error)
        assert error.key[:1] == ("code",)
        assert not error.others


def test_nothing_leads_elsewhere(write: Callable[..., Path], tmp_path: Path) -> None:
    """A link is no file of the scenario's."""
    path = write(real=METHOD)
    (tmp_path / "mine.py").symlink_to(tmp_path / "real.py")
    assert "is a link" in str(told(path))


def test_files_import_each_other(write: Callable[..., Path]) -> None:
    """As modules that lie side by side, and a package by its name; Python's path stays."""
    before = list(sys.path)
    path = write(base="WIDTH = 3\n", mine=f"from base import WIDTH\n{METHOD}")
    load(path, "code=[mine.py, base.py]")
    assert sys.path == before
    folder = path.parent / "whole"
    folder.mkdir()
    (folder / "__init__.py").write_text("from whole import inner\n", encoding="utf-8")
    (folder / "inner.py").write_text(METHOD, encoding="utf-8")
    assert load(path, "code=[whole]").scenario.algorithm.name == "mine"
    assert "whole.inner" in sys.modules
    OWN.use(None)
    assert not {"whole", "whole.inner", "mine", "base"} & {*sys.modules}


def test_changed_code_is_imported_anew(write: Callable[..., Path]) -> None:
    """In one process, too, and by its bytes: two edits within a second are two codes."""
    path = write(mine=METHOD)
    assert load(path).scenario.schedule.visits == 1
    write(mine=METHOD.replace("visits=1", "visits=2"))
    assert load(path).scenario.schedule.visits == 2


def test_what_the_program_has_imported_is_hidden_meanwhile(write: Callable[..., Path]) -> None:
    """A notebook may have an older module of that name: what runs is what was read."""
    older = ModuleType("mine")
    sys.modules["mine"] = older
    try:
        assert load(write(mine=METHOD)).scenario.schedule.visits == 1
        assert sys.modules["mine"] is not older
        OWN.use(None)
        assert sys.modules["mine"] is older
    finally:
        del sys.modules["mine"]


def test_keys_that_are_for_built_in_algorithms_are_refused(write: Callable[..., Path]) -> None:
    """They would be taken without effect."""
    pools = METHOD.replace("    strength", "    pools = True\n    strength")
    assert "pools and learns are for built-in algorithms" in str(told(write(mine=pools)))


def test_code_of_a_program_keeps_what_was_changed(write: Callable[..., Path]) -> None:
    """A scenario that was loaded with changes has them beside code that is given, too."""
    path = write(SCENARIO.replace("code: [mine.py]\n", "").replace("mine}", "circulation}"))

    @loss("given")
    def given(step: TrainingStep) -> torch.Tensor:
        return step.logits().sum()

    changed = load(path, "seed=7", "algorithm.loss=given")
    assert _with_code(changed, [given], "memory").scenario.seed == 7


def test_without_its_code_the_rest_is_checked(write: Callable[..., Path]) -> None:
    """Nothing is imported; what else is wrong is found."""
    path = write(SCENARIO.replace("seed", "seed"), mine="raise SystemExit(9)")
    found = examine(path)
    assert [one.given["name"] for one in found.asked] == ["mine"]
    assert not found.problems
    with pytest.raises(InvalidValue, match="only code can say"):
        found.good()
    assert examine(path, ["training.epochs=no"]).problems


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("algorithm.loss=mor",), "there is no loss 'mor'"),
        (("algorithm.loss=more", "algorithm.options={wait: 1.0}"), "more has no option 'wait'"),
        (("algorithm.loss=more", "algorithm.options={weight: x}"), "weight is 'x'"),
    ],
)
def test_a_loss_that_is_none_is_refused(
    write: Callable[..., Path], changed: tuple[str, ...], words: str
) -> None:
    """With what there is."""
    assert words in str(told(write(mine=LOSSES), "algorithm.name=circulation", *changed))


class Holder(Keeping):
    """Keeps a number, tensors and one alone."""

    count = Kept[int](3)
    tensors = Kept[dict[str, torch.Tensor]]({})
    alone = Kept[torch.Tensor | None](None)
    unset = Kept[str]()


def test_kept_attributes_come_back() -> None:
    """Bit for bit, NaN included; what was never set has its default."""
    one, other = Holder(), Holder()
    one.count, one.alone = 7, torch.tensor([1.5, float("nan")])
    one.tensors = {"w": torch.arange(3)}

    class Nowhere:
        device = "cpu"

    other.take_back(one.keep(NOTHING), Nowhere())  # type: ignore[arg-type]
    assert other.count == 7
    assert other.tensors["w"].equal(torch.arange(3))
    assert str(other.alone) == str(one.alone)
    assert (Holder().count, Holder().tensors, Holder().alone) == (3, {}, None)
    with pytest.raises(AttributeError, match=r"Holder\.unset has not been set yet"):
        _ = one.unset
    one.unset = {1, 2}  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"Holder\.unset is set: kept are models, tensors"):
        one.keep(NOTHING)


def test_foreign_code_is_run_by_its_digest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this user has launched is theirs; of another's code they have to say the digest."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    code, edited = OwnCode({"mine.py": b"1"}, "x"), OwnCode({"mine.py": b"2"}, "x")
    with pytest.raises(FedskdError, match=r"brings code that was not launched by you: mine\.py"):
        trust.check(code, tmp_path)
    trust.check(code, tmp_path, code.digest)
    with pytest.raises(FedskdError, match=f"its digest is {code.digest}, not {edited.digest}"):
        trust.check(code, tmp_path, edited.digest)
    trust.note(code)
    trust.check(code, tmp_path)
    with pytest.raises(FedskdError, match=f"--trust-code {edited.digest}") as caught:
        trust.check(edited, tmp_path)
    assert "read it in x" in caught.value.fix
    trust.check(None, tmp_path)


def test_a_damaged_answer_is_told(tmp_path: Path) -> None:
    """With its file."""
    (tmp_path / "resolved.json").write_text('{"algorithms": [{"given": "x"}]}', encoding="utf-8")
    with pytest.raises(FedskdError, match=r"resolved\.json"):
        read_answers(tmp_path)
    assert read_code(tmp_path, []) is None
