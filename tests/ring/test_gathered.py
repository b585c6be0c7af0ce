"""All-gather and gossip: each method on them equals a loop with a server in the middle, or with all
models in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import EPOCHS, Loops, agree, files, final, saved, text, train_together, warmed_up
from test_rivals import LEARNS
from torch import nn
from torch.nn.functional import cross_entropy

from fedskd_sim import launch
from fedskd_sim.errors import ArchitecturesDiffer
from fedskd_sim.learning.task import class_weights
from fedskd_sim.methods.fedtgp import margin_loss, widest
from fedskd_sim.operate.checks import load_and_check
from fedskd_sim.records.files import read_records

COMMON = "architecture: {name: cnn-plain, options: {width: 4, norm: batch}}"
ALIKE = """
name: heads
seed: 3
data: {name: synthetic-skin, samples: 60, image_size: 16, classes: 3}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: b, architecture: {name: cnn-residual, options: {width: 4}}, data: {samples: 50}}
  - {name: c, architecture: {name: vit-tiny, options: {width: 16, depth: 2}}}
algorithm: ALGORITHM
training: {epochs: 2, warmup_epochs: 1, batch_size: 20}
"""


@pytest.fixture
def begun(scenario_file: Callable) -> Callable[[str], tuple[Path, Loops]]:
    """Give the file of a scenario, and the loop's side of it."""

    def begin(written: str) -> tuple[Path, Loops]:
        path = scenario_file(written)
        return path, Loops(path)

    return begin


def weighted(loops: Loops, name: str) -> Callable:
    weights = class_weights(loops.data[name].train.labels, 3, "sqrt_inverse")
    return partial(cross_entropy, weight=weights)


def means_of(loops: Loops, name: str, features: Callable) -> dict[int, torch.Tensor]:
    """Give the mean features of the classes that a hospital has, patient by patient."""
    train, found = loops.data[name].train, dict[int, list]()
    with torch.no_grad():
        for image, label in zip(train.images, train.labels.tolist(), strict=True):
            found.setdefault(label, []).append(features(image[None])[0])
    return {label: torch.stack(each).mean(0).double() for label, each in found.items()}


def pooled(deep: torch.Tensor, length: int) -> torch.Tensor:
    flat = deep.flatten(2).mean(2)
    return nn.functional.adaptive_avg_pool1d(flat[:, None], length)[:, 0]


class Trained(nn.Module):
    """Prototypes as the paper has them: embeddings through two layers."""

    def __init__(self, length: int, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(length, length), nn.ReLU(), nn.Linear(length, length)
        ).double()
        for part in self.layers.parameters():
            drawn = torch.rand(part.shape, generator=draw, dtype=torch.float64)
            part.data = (2 * drawn - 1) / length**0.5
        self.embeddings = nn.Parameter(torch.randn(3, length, generator=draw, dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return self.layers(self.embeddings)


def margin_of(sent: list[tuple[int, torch.Tensor]], most: float) -> float:
    centres = {
        label: torch.stack([mean for one, mean in sent if one == label]).mean(0)
        for label in {one for one, _ in sent}
    }
    return min(most, *(
        max(float((one - other).norm()) for one in centres.values() for other in centres.values()),
    ))  # fmt: skip


def contrast(found: torch.Tensor, sent: list[tuple[int, torch.Tensor]], margin: float) -> Any:
    """Give the paper's loss of prototypes, one mean after the other."""
    losses = []
    for label, mean in sent:
        near = (-((mean - found[label]).norm() + margin)).exp()
        others = [(-(mean - one).norm()).exp() for k, one in enumerate(found) if k != label]
        losses.append(-(near / (near + sum(others))).log())
    return torch.stack(losses).mean()


def test_fedtgp_equals_prototypes_that_a_server_trains(begun: Callable, run: Callable) -> None:
    """Own models end as in a loop where a server trains prototypes on the class means of all; what
    travels are 2 (K - 1) times the means of all hospitals.
    """
    keys = "weight: 2.0, features: 5, margin: 0.3, server_steps: 20"
    path, loops = begun(text(f"{{name: fedtgp, rounds: 3, {keys}}}"))
    own, trained = warmed_up(loops), Trained(5, loops.seed("initial prototypes"))
    known: torch.Tensor | None = None
    for round_ in (1, 2, 3):
        sent = list[tuple[int, torch.Tensor]]()
        for name, model in own.items():

            def loss(outputs: list, labels: Any, name: str = name, known: Any = known) -> Any:
                logits, taps = outputs[0]
                plain = weighted(loops, name)(logits, labels)
                if known is None:
                    return plain
                return plain + 2.0 * (pooled(taps.deep, 5) - known[labels]).square().mean()

            train_together(loops, [model], name, loops.seed("session", name, name, round_, 0), loss)
            model.eval()
            found = means_of(loops, name, lambda x, model=model: pooled(model(x)[1].deep, 5))
            sent += sorted(found.items())
        optimiser, margin = torch.optim.Adam(trained.parameters(), 0.01), margin_of(sent, 0.3)
        for _ in range(20):
            optimiser.zero_grad()
            contrast(trained(), sent, margin).backward()
            optimiser.step()
        known = trained().detach().float()
    folder = run(path)
    assert agree(final(folder), own)
    assert not agree(final(run(begun(text("{name: local, rounds: 3}"))[0])), own)
    told = [one for one in read_records(folder) if "prototype" in one.measures]
    assert [(one.kind, one.round) for one in told] == [("alone", 2), ("alone", 3)] * 3
    sent_bytes = [one.bytes for one in read_records(folder) if one.kind in ("reduce", "gather")]
    assert sum(size - 8 for size in sent_bytes) == 3 * 4 * (3 * 3 * (5 + 1)) * 4


def test_the_loss_of_prototypes_is_the_papers() -> None:
    """Its value for drawn numbers is that of the sum written term by term; the margin is the
    largest distance between the classes' means, those of a class nobody has left out.
    """
    torch.manual_seed(2)
    means, prototypes = torch.randn(4, 3, 6).double(), torch.randn(3, 6).double()
    has = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]]).bool()
    sent = [(k, means[j, k]) for j in range(4) for k in range(3) if has[j, k]]
    assert widest(means, has) == pytest.approx(margin_of(sent, 1e9))
    labels = has.nonzero()[:, 1]
    for margin in (0.0, 1.7):
        wanted = contrast(prototypes, sent, margin)
        assert torch.allclose(margin_loss(prototypes, means[has], labels, margin), wanted)


def test_fedgh_equals_a_head_that_a_server_trains(begun: Callable, run: Callable) -> None:
    """Models of three architectures end with the head that a server has trained on what enters
    the heads of all, class by class; sessions are those of the cross-entropy alone.
    """
    keys = "rounds: 2, server_steps: 30, server_rate: 0.02"
    path, loops = begun(ALIKE.replace("ALGORITHM", f"{{name: fedgh, {keys}}}"))
    own = warmed_up(loops)
    head = loops.first("a", loops.seed("initial head")).head.double()
    for round_ in (1, 2):
        sent = list[tuple[int, torch.Tensor]]()
        for name, model in own.items():
            session = loops.seed("session", name, name, round_, 0)
            loops.train(model, name, session, EPOCHS)
            model.eval()

            def entered(image: Any, model: Any = model) -> Any:
                layer, model.head = model.head, nn.Identity()
                found = model(image)[0]
                model.head = layer
                return found

            sent += means_of(loops, name, entered).items()
        optimiser = torch.optim.Adam(head.parameters(), 0.02)
        for _ in range(30):
            optimiser.zero_grad()
            losses = [-head(mean).log_softmax(0)[label] for label, mean in sent]
            torch.stack(losses).mean().backward()
            optimiser.step()
        for model in own.values():
            model.head.load_state_dict({key: one.float() for key, one in saved(head).items()})
    folder = run(path)
    assert agree(final(folder), own)
    sent_bytes = [one.bytes for one in read_records(folder) if one.kind in ("reduce", "gather")]
    assert sum(size - 8 for size in sent_bytes) == 2 * 4 * (3 * 3 * (16 + 1)) * 4


def test_heads_of_another_form_are_refused(scenario_file: Callable) -> None:
    """The hospital whose head takes more features than the first one's is named, with both."""
    text = ALIKE.replace("ALGORITHM", "{name: fedgh}").replace(
        "name: cnn-residual, options: {width: 4}", "name: cnn-residual, options: {width: 6}"
    )
    with pytest.raises(ArchitecturesDiffer) as found:
        load_and_check(scenario_file(text), None)
    assert (found.value.exit_code, found.value.key) == (23, ("hospitals", 1, "architecture"))
    assert "the head of 'b' has 3 x 24 and 3 numbers, that of 'a' 3 x 16" in found.value.message
    assert "fedgh needs one form of head" in found.value.fix


def test_d_psgd_equals_models_that_are_mixed(begun: Callable, run: Callable) -> None:
    """Hospitals end as in a loop in which each becomes the mean of its own model and of those whose
    ring leads them there, as they were before any was mixed, and then trains it.
    """
    path, loops = begun(text(f"{{name: d-psgd, rounds: 2, schedule: {{visits: 1}}, {COMMON}}}"))
    own = {name: loops.first(name, loops.seed("initial weights")) for name in "abc"}
    for name, model in own.items():
        loops.train(model, name, loops.seed("warm-up", name), 1)
    for round_ in (1, 2):
        gone = {name: saved(model) for name, model in own.items()}
        for visitor, host in ("ab", "bc", "ca") if round_ == 1 else ("ac", "ba", "cb"):
            mixed = {
                key: (value + gone[visitor][key]) / 2 if value.is_floating_point() else value
                for key, value in gone[host].items()
            }
            own[host].load_state_dict(mixed)
            loops.train(own[host], host, loops.seed("session", host, round_), EPOCHS)
    folder = run(path)
    assert agree(final(folder), own)
    records = read_records(folder)
    assert {one.samples for one in records if one.kind == "visit"} == {0}
    assert sum(one.samples for one in records if one.host == "a") == (1 + 2 * EPOCHS) * 36


def mixed_once(loops: Loops, mix: Callable) -> dict[str, nn.Module]:
    """Warm up, mix the models of all hospitals, and train each once more."""
    own = {name: loops.first(name, loops.seed("initial weights")) for name in "abc"}
    for name, model in own.items():
        loops.train(model, name, loops.seed("warm-up", name), 1)
    gone = [saved(model) for model in own.values()]
    for name, model in own.items():
        model.load_state_dict({
            key: mix([one[key] for one in gone]) if value.is_floating_point() else value
            for key, value in saved(model).items()
        })  # fmt: skip
        loops.train(model, name, loops.seed("session", name, 1), EPOCHS)
    return own


def test_d_psgd_mixes_all_that_came(begun: Callable, run: Callable) -> None:
    """With two visits of three hospitals each becomes the mean of all before it trains."""
    keys = f"rounds: 1, schedule: {{visits: 2}}, {COMMON}"
    path, loops = begun(text(f"{{name: d-psgd, {keys}}}"))
    own = mixed_once(loops, lambda values: sum(values) / len(values))
    assert agree(final(run(path)), own)


MEDIAN = """
import torch
from fedskd_sim import GossipLearner, algorithm

@algorithm("median")
class Median(GossipLearner):
    def mix(self, own, arrived):
        assert len(arrived) == 2
        return torch.stack([own, *arrived.values()]).median(dim=0).values
"""


def test_a_mean_of_ones_own_takes_its_place(begun: Callable, tmp_path: Path) -> None:
    """Hospitals whose method takes the median of the models that came end as in such a loop."""
    (tmp_path / "mine.py").write_text(MEDIAN, encoding="utf-8")
    path, loops = begun(text(f"{{name: d-psgd, rounds: 1, {COMMON}}}"))
    own = mixed_once(loops, lambda values: torch.stack(values).median(dim=0).values)
    written = path.read_text(encoding="utf-8").replace("name: d-psgd", "name: median")
    path.write_text(written + "code: [mine.py]\n", encoding="utf-8")
    launch(path, on="memory", out=tmp_path / "out")
    assert agree(final(tmp_path / "out"), own)


@pytest.mark.parametrize("name", ["fedtgp", "fedgh", "d-psgd"])
def test_models_on_these_learn(name: str, scenario_file: Callable, run: Callable) -> None:
    """What is tested at home ranks the patients there better than chance does."""
    tested = read_records(run(scenario_file(LEARNS.replace("NAME", name))))
    home = [one.measures["auc"] for one in tested if one.kind == "evaluation" and not one.hop]
    assert len(home) == 2
    assert min(one.mean for one in home) > 0.7


@pytest.mark.parametrize("name", ["fedtgp", "fedgh", "d-psgd"])
def test_a_death_changes_nothing(name: str, scenario_file: Callable, run: Callable) -> None:
    """A hospital that dies in the midst of the second round, between what comes, goes on to the
    same records and weights.
    """
    text = LEARNS.replace("NAME", name).replace("rounds: 4", "rounds: 2")
    dies = text + "faults: [{hospital: b, what: kill, round: 2, hop: 1}]\n"
    left = [files(run(scenario_file(one))) for one in (text, dies)]
    assert left[0] == left[1]
