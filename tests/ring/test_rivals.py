"""Methods of other people: each equals a loop with a server in the middle, or with all models in
one place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import EPOCHS, Loops, agree, final, kl, same, saved, text, train_together, warmed_up
from torch import nn
from torch.nn.functional import cross_entropy

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.sessions.steps import Moment, TrainingStep
from fedskd_sim.learning.task import class_weights
from fedskd_sim.methods.scaffold import ControlTeaching
from fedskd_sim.records.files import read_records

COMMON = "architecture: {name: cnn-plain, options: {width: 4, norm: batch}}"


@pytest.fixture
def begun(scenario_file: Callable) -> Callable[[str], tuple[Path, Loops]]:
    """Give the file of an algorithm's scenario, and the loop's side of it."""

    def begin(algorithm: str) -> tuple[Path, Loops]:
        path = scenario_file(text(algorithm))
        return path, Loops(path)

    return begin


def weighted(loops: Loops, name: str) -> Callable:
    weights = class_weights(loops.data[name].train.labels, 3, "sqrt_inverse")
    return partial(cross_entropy, weight=weights)


def mean(loops: Loops, models: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    sizes = {name: len(loops.data[name].train.labels) for name in "abc"}
    total = sum(sizes.values())
    return {
        key: sum(models[n][key] * sizes[n] for n in "abc") / total if value.is_floating_point()
        else value
        for key, value in models["a"].items()
    }  # fmt: skip


def said(model: nn.Module, data: Any, label: int, *, soft: bool) -> torch.Tensor | None:
    """Give what a model says of a class on average."""
    of_class = data.train.images[data.train.labels == label]
    if not len(of_class):
        return None
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(one[None])[0] for one in of_class])
    return (logits.softmax(1) if soft else logits).mean(0)


def distance(wanted: dict, found: torch.Tensor, labels: torch.Tensor, *, soft: bool) -> Any:
    """Give the mean distance of predictions to what others say of their classes."""
    gaps = []
    for logits, label in zip(found, labels.tolist(), strict=True):
        if wanted.get(label):
            other = torch.stack(wanted[label]).mean(0)
            apart = -(other * logits.log_softmax(0)).sum(), (logits - other).square().mean()
            gaps.append(apart[0] if soft else apart[1])
    return torch.stack(gaps).mean() if gaps else 0.0


@pytest.mark.parametrize("shares", ["probabilities", "logits"])
def test_fd_equals_class_means_of_the_others(shares: str, begun: Callable, run: Callable) -> None:
    """Own models end as in a loop where a server gives each what the others say of every class,
    hospital by hospital and without its own; what travels are 2 (K - 1) times these means.
    """
    path, loops = begun(f"{{name: fd, rounds: 2, weight: 0.5, shares: {shares}}}")
    soft, own, means = shares == "probabilities", warmed_up(loops), dict[str, dict]()
    for round_ in (1, 2):
        for name, model in own.items():
            others = [one for host, one in means.items() if host != name]
            wanted = {
                label: [one[label] for one in others if one[label] is not None]
                for label in range(3)
            }

            def loss(outputs: list, labels: Any, name: str = name, wanted: dict = wanted) -> Any:
                far = distance(wanted, outputs[0][0], labels, soft=soft)
                return weighted(loops, name)(outputs[0][0], labels) + 0.5 * far

            train_together(loops, [model], name, loops.seed("session", name, name, round_, 0), loss)
        means = {
            name: {label: said(model, loops.data[name], label, soft=soft) for label in range(3)}
            for name, model in own.items()
        }
    folder = run(path)
    assert agree(final(folder), own)
    told = [one for one in read_records(folder) if "class_means" in one.measures]
    assert [(one.kind, one.round) for one in told] == 3 * [("alone", 2)]
    sent = [record.bytes for record in read_records(folder) if record.kind in ("reduce", "gather")]
    assert sum(size - 8 for size in sent) == 2 * 4 * (3 * (3 + 1)) * 4


def test_def_kt_equals_two_models_that_teach_each_other(begun: Callable, run: Callable) -> None:
    """Hosts end as in a loop where each learns beside a copy of another's model, which is then
    thrown away.
    """
    path, loops = begun("{name: def-kt, rounds: 2, weight: 0.7, schedule: {visits: 1}}")
    own = warmed_up(loops)
    for round_ in (1, 2):
        gone = {name: loops.copied(name, saved(model)) for name, model in own.items()}
        for visitor, host in ("ab", "bc", "ca") if round_ == 1 else ("ac", "ba", "cb"):

            def loss(outputs: list, labels: Any, host: str = host) -> Any:
                (p, _), (q, _) = outputs
                plain = weighted(loops, host)
                return plain(p, labels) + plain(q, labels) + 0.7 * (kl(q, p) + kl(p, q))

            seed = loops.seed("session", host, visitor, round_, 1)
            train_together(loops, [gone[visitor], own[host]], host, seed, loss)
    folder = run(path)
    assert agree(final(folder), own)
    spent = [record.samples for record in read_records(folder) if record.kind == "visit"]
    assert sum(spent) == 2 * 2 * EPOCHS * sum(len(one.train.labels) for one in loops.data.values())
    assert not any(one.samples for one in read_records(folder) if one.kind == "homecoming")


def test_dfml_equals_meetings_one_after_the_other(begun: Callable, run: Callable) -> None:
    """What is tested ends as in a loop of meetings in which each model learns labels and the
    other's predictions by turns, as it was when the latter had most weight.
    """
    keys = "peak: 0.6, cycle: 2, schedule: {mode: sequential, visits: 1}"
    path, loops = begun(f"{{name: dfml, rounds: 3, {keys}}}")
    own = warmed_up(loops)
    for round_, share in ((1, 0.0), (2, 0.6)):
        for visitor, host in ("ab", "bc", "ca") if round_ == 1 else ("ac", "ba", "cb"):
            labels = loops.data[host].train.labels
            chances = torch.tensor([float((labels == one).float().mean()) for one in range(3)])

            def loss(outputs: list, labels: Any, host: str = host, share: float = share,
                     chances: Any = chances) -> Any:  # fmt: skip
                (p, _), (q, _) = outputs
                weights = class_weights(loops.data[host].train.labels, 3, "sqrt_inverse")[labels]

                def supervised(z: Any) -> Any:
                    whole = (chances * z.exp()).sum(1)
                    right = chances[labels] * z.gather(1, labels[:, None])[:, 0].exp()
                    return (-(right / whole).log() * weights).sum() / weights.sum()

                plain = (1 - share) * (supervised(p) + supervised(q))
                return plain + share * (kl(q, p) + kl(p, q))

            seed = loops.seed("session", host, visitor, round_, 1)
            train_together(loops, [own[visitor], own[host]], host, seed, loss)
    folder = run(path)
    assert agree(final(folder), own)
    spent = [one for one in read_records(folder) if one.kind == "visit" and one.round == 1]
    assert sum(one.samples for one in spent) == 2 * EPOCHS * sum(
        len(one.train.labels) for one in loops.data.values()
    )


@pytest.mark.parametrize(("begins", "strength"), [("own", 0.3), ("common", 0.3), ("common", 0.0)])
def test_ditto_equals_personal_models_beside_fedavg(
    begins: str, strength: float, begun: Callable, run: Callable
) -> None:
    """Personal models end as in a loop where each is held close to the common one as it is before
    a session; without strength, begun at the common one, each is that before the last mean.
    """
    keys = f"strength: {strength}, begins: {begins}"
    path, loops = begun(f"{{name: ditto, rounds: 2, {keys}, {COMMON}}}")
    common = saved(loops.first("a", loops.seed("initial weights")))
    personal = {name: loops.copied(name, common) for name in "abc"}
    for round_ in (1, 2):
        trained = {}
        for name in "abc":
            copy, own = loops.copied(name, common), personal[name]
            if begins == "common":
                own.load_state_dict(common)
            session = loops.seed("session", name, round_)
            anchors = [one.detach().clone() for one in copy.parameters()]

            def loss(outputs: list, labels: Any, name: str = name, own: Any = own,
                     anchors: list = anchors) -> Any:  # fmt: skip
                pairs = zip(own.parameters(), anchors, strict=True)
                far = sum((one - other).square().sum() for one, other in pairs)
                plain = weighted(loops, name)
                losses = plain(outputs[0][0], labels) + plain(outputs[1][0], labels)
                return losses + strength / 2 * far

            train_together(loops, [copy, own], name, session, loss)
            trained[name] = saved(copy)
        common = mean(loops, trained)
    folder = run(path)
    assert agree(final(folder), personal)
    assert not agree(final(folder), {name: loops.copied(name, common) for name in "abc"})
    tunes = begins == "common" and not strength
    spent = sum(one.samples for one in read_records(folder) if one.host == "a")
    assert spent == 2 * EPOCHS * 36 * (1 if tunes else 2)


def averaged(
    loops: Loops, rounds: int, trained: Callable[[str, int, nn.Module], None],
    shared: Callable[[str], bool] = lambda _: True,
) -> dict[str, nn.Module]:  # fmt: skip
    """Average what is shared of one model in a loop with a server."""
    own = {name: loops.first(name, loops.seed("initial weights")) for name in "abc"}
    for round_ in range(1, rounds + 1):
        for name in "abc":
            trained(name, round_, own[name])
        common = mean(loops, {name: saved(model) for name, model in own.items()})
        for model in own.values():
            part = {key: value for key, value in common.items() if shared(key)}
            kept = {key: value for key, value in saved(model).items() if key not in part or
                    not value.is_floating_point()}  # fmt: skip
            model.load_state_dict({**part, **kept})
    return own


OF = {
    "body": lambda name: not name.startswith("head."),
    "head": lambda name: name.startswith("head."),
    "all-but-norm": lambda name: name not in NORMS,
}
NORMS = {
    f"{layer}.{name}"
    for layer in ("stem.1", "middle.1", "last.1")
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
}


@pytest.mark.parametrize(("shared", "alternate"), [(one, one == "body") for one in OF])
def test_a_part_is_averaged_and_the_rest_stays(
    shared: str, *, alternate: bool, begun: Callable, run: Callable
) -> None:
    """Models end as in a loop where a server averages the tensors of that part; by turns, the first
    half of the steps trains the others alone. What travels is no more than the part.
    """
    keys = f"shared: {shared}, alternate: {str(alternate).lower()}"
    path, loops = begun(f"{{name: partial, rounds: 2, {keys}, {COMMON}}}")

    def trained(name: str, round_: int, model: nn.Module) -> None:
        session = loops.seed("session", name, round_)
        if not alternate:
            loops.train(model, name, session, EPOCHS)
            return
        steps, seen = len(loops.steps(name, session, EPOCHS)), count()

        def turn(*_: object) -> None:
            second = 2 * next(seen) >= steps
            for key, parameter in model.named_parameters():
                parameter.requires_grad_(OF[shared](key) == second)

        def loss(outputs: list, labels: Any) -> Any:
            return weighted(loops, name)(outputs[0][0], labels)

        hook = model.register_forward_pre_hook(turn)
        train_together(loops, [model], name, session, loss)
        hook.remove()
        model.requires_grad_(True)

    own = averaged(loops, 2, trained, OF[shared])
    folder = run(path)
    assert agree(final(folder), own)
    sent = [record.bytes for record in read_records(folder) if record.kind in ("reduce", "gather")]
    numbers = sum(
        value.numel() for key, value in saved(own["a"]).items()
        if OF[shared](key) and value.is_floating_point()
    )  # fmt: skip
    assert sum(size - 8 for size in sent) == 2 * 4 * numbers * 4


def test_moon_equals_fedavg_with_a_contrast(begun: Callable, run: Callable) -> None:
    """Models end as in a loop in which the loss of the second round has the paper's contrast, and
    the two frozen models are counted as asked.
    """
    path, loops = begun(f"{{name: moon, rounds: 2, weight: 3.0, temperature: 0.2, {COMMON}}}")
    previous: dict[str, nn.Module] = {}

    def features(model: nn.Module, images: Any) -> Any:
        return model(images)[1].deep.mean((2, 3))

    def trained(name: str, round_: int, model: nn.Module) -> None:
        session = loops.seed("session", name, round_)
        common, steps = loops.copied(name, saved(model)).eval(), iter(
            loops.steps(name, session, EPOCHS)
        )  # fmt: skip

        def loss(outputs: list, labels: Any) -> Any:
            plain, (images, _) = weighted(loops, name)(outputs[0][0], labels), next(steps)
            if name not in previous:
                return plain
            z = outputs[0][1].deep.mean((2, 3))
            with torch.no_grad():
                there, before = features(common, images), features(previous[name], images)
            near, far = (
                (torch.nn.functional.cosine_similarity(z, one) / 0.2).exp()
                for one in (there, before)
            )
            return plain - 3.0 * (near / (near + far)).log().mean()

        train_together(loops, [model], name, session, loss)
        previous[name] = loops.copied(name, saved(model)).eval()

    own = averaged(loops, 2, trained)
    folder = run(path)
    assert agree(final(folder), own)
    asked = {
        one.round: one.measures["forwards"].mean
        for one in read_records(folder)
        if one.host == "a" and "forwards" in one.measures
    }
    assert asked == {2: 2 * EPOCHS * 36}


def test_scaffold_equals_fedavg_with_corrected_gradients(begun: Callable, run: Callable) -> None:
    """Models end as in a loop whose gradients have the controls of the round before; a control is
    over all steps of a session, and not over those of one epoch.
    """
    path, loops = begun(f"{{name: scaffold, rounds: 3, {COMMON}}}")
    controls: dict[int, dict[str, list]] = {0: {}}
    sizes = {name: len(loops.data[name].train.labels) for name in "abc"}

    def trained(name: str, round_: int, model: nn.Module) -> None:
        parts, before = [*model.parameters()], controls[round_ - 1]
        fixed = [torch.zeros_like(one) for one in parts]
        if before:
            common = [
                sum(before[n][i] * sizes[n] for n in "abc") / sum(sizes.values())
                for i in range(len(parts))
            ]
            fixed = [c - own for c, own in zip(common, before[name], strict=True)]
        found: list[list] = []

        def loss(outputs: list, labels: Any) -> Any:
            plain = weighted(loops, name)(outputs[0][0], labels)
            found.append([*torch.autograd.grad(plain, parts, retain_graph=True)])
            pairs = zip(parts, fixed, strict=True)
            return plain + sum((one * other).sum() for one, other in pairs)

        train_together(loops, [model], name, loops.seed("session", name, round_), loss)
        own = [sum(each) / len(found) for each in zip(*found, strict=True)]
        controls.setdefault(round_, {})[name] = own

    folder = run(path)
    assert agree(final(folder), averaged(loops, 3, trained))
    plain = run(begun(f"{{name: fedavg, rounds: 3, {COMMON}}}")[0])
    assert not same(final(folder)["a"], final(plain)["a"])


def test_the_control_is_that_of_the_papers_second_option() -> None:
    """With gradient descent of one rate the mean gradient is c_k - c + (x - y) / (T r), T being
    the steps of all epochs.
    """
    torch.manual_seed(1)
    model, rate, steps = nn.Linear(5, 3), 0.1, 7
    correction = torch.randn(18)
    start = torch.cat([one.detach().reshape(-1) for one in model.parameters()])
    optimiser = torch.optim.SGD(model.parameters(), rate)
    teaching = ControlTeaching(torch.zeros(19), correction)
    for _ in range(steps):
        images, labels = torch.randn(4, 5), torch.randint(3, (4,))
        optimiser.zero_grad()
        cross_entropy(model(images), labels).backward()
        step = TrainingStep(
            Samples(images, labels), {}, Moment(0, 1, {"own": True}), models={"own": model}
        )
        teaching.before_step(step, "own")
        optimiser.step()
    end = torch.cat([one.detach().reshape(-1) for one in model.parameters()])
    wanted = -correction + (start - end) / (steps * rate)
    assert torch.allclose(teaching.gathered[:-1] / teaching.gathered[-1], wanted, atol=1e-5)


LEARNS = """
name: easy
data: {name: synthetic-skin, samples: 60, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 4, norm: batch}}}
  - {name: b, architecture: {name: cnn-plain, options: {width: 4, norm: batch}}}
algorithm: {name: NAME, rounds: 4}
training: {warmup_epochs: 2, epochs: 3, batch_size: 12, optimiser: {learning_rate: 0.01}}
"""


@pytest.mark.parametrize("name", ["fd", "def-kt", "dfml", "ditto", "partial", "moon", "scaffold"])
def test_models_learn(name: str, scenario_file: Callable, run: Callable) -> None:
    """What is tested at home ranks the patients there better than chance does."""
    tested = read_records(run(scenario_file(LEARNS.replace("NAME", name))))
    home = [one.measures["auc"] for one in tested if one.kind == "evaluation" and not one.hop]
    assert len(home) == 2
    assert min(one.mean for one in home) > 0.7
