"""One step of a session: forward passes, losses, backward passes, clipping, the optimiser's step.

With visitor v, resident l and the frozen copy v0 of the visitor on arrival, sg = stop-gradient, D
the distances of `fedskd_sim.learning.distillation.distill` and KL(q || p) the mean over the batch
of sum_c q_c (log q_c - log p_c), visitor and resident learn from each other, and a visitor from its
own past, by

    visitor:   CE(v) + ramp (D(F_v, sg F_l) + kappa KL(sg p_l || p_v))
                     + D(F_v, F_v0) + kappa_0 KL(p_v0 || p_v)
    resident:  CE(l) + ramp (D(sg F_v, F_l) + kappa KL(sg p_v || p_l)), in steps in which it trains

Nothing of a step is read back to the host: what it saw stays on the device as one tensor, and
nothing that changes from step to step need be a Python number. So the same code can be launched
operation by operation, or recorded once and replayed (`fedskd_sim.learning.sessions.recorded`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import SimilarityLoss, Taps, ramp, scale
from fedskd_sim.learning.task import ONE_LABEL, PredictionTask
from fedskd_sim.scenario import Training

Precision = Literal["fp32", "tf32", "bf16"]


class Output(NamedTuple):
    """What a model returned for a batch; with a gradient if the model trains in this step."""

    logits: Tensor
    """(B, classes), float32."""
    taps: Taps
    """The two maps at which it is compared with others."""
    task: PredictionTask | None = None
    """The prediction task of the labels, by which `divergence` reads the logits. All outputs of a
    step and of a site have it."""


class Outputs(dict[str, Output]):
    """What the models of a step made of its batch, by role."""

    def __missing__(self, role: str) -> Output:
        """Raise KeyError with the roles that there are."""
        raise KeyError(f"no model of this step is the {role!r}: its roles are {', '.join(self)}")


class Moment(NamedTuple):
    """Which of a session's ``total`` steps is taken, counted from 0, and who takes part in it:
    roles, and whether each trains.
    """

    number: int
    total: int
    roles: Mapping[str, bool]
    clock: Tensor | None = None
    """Number and total as float64 (2,) on the device, where a step is recorded and replayed."""
    gathered: Mapping[str, int] | None = None
    """How many mini-batches are in the gradient with which each model that trains is changed after
    this step; 0: it is not changed yet. None: one."""

    @property
    def changed(self) -> list[str]:
        """The roles of the models that are changed after this step."""
        trained = [role for role, trains in self.roles.items() if trains]
        return [role for role in trained if self.gathered is None or self.gathered[role]]


class TrainingStep(NamedTuple):
    """One training step, as a `Loss` or a teaching gets it after the forward passes.

    Roles are such as ``visitor`` (see `SessionModels`); one that is not in the step raises KeyError
    with the roles that are.
    """

    batch: Samples
    """The mini-batch: ``.images`` (B, ...) and ``.labels`` (B,)."""
    outputs: Mapping[str, Output]
    """What each model returned for the mini-batch, by role."""
    moment: Moment
    """``.number`` of ``.total`` steps, counted from 0; ``.roles``, each with whether it trains."""
    precision: Precision = "fp32"
    """In which the session computes, as ``training.precision`` says."""
    models: Mapping[str, nn.Module] = MappingProxyType({})
    """The models of the step, by role."""
    class_weights: Tensor | None = None
    """Weights of the classes (classes,) in the cross-entropies."""
    task: PredictionTask = ONE_LABEL
    """The prediction task. ``task.loss(logits, labels, class_weights)`` is the cross-entropy of any
    logits (B, classes): a scalar, for one label and for several."""

    @property
    def labels(self) -> Tensor:
        """The classes of the batch, int64 (B,); patterns of bits where samples have several."""
        return self.batch.labels

    @property
    def trained(self) -> list[str]:
        """The roles of the models that train in this step."""
        return [role for role, trains in self.moment.roles.items() if trains]

    @property
    def main(self) -> str:
        """The role of the first model: the visitor, or the one that trains alone."""
        return next(iter(self.moment.roles))

    def prefix(self, role: str) -> str:
        """Return the prefix of a model's measures in records: '' for the first or ``ROLE_``."""
        return "" if role == self.main else f"{role}_"

    def logits(self, role: str = "") -> Tensor:
        """Return the logits (B, classes) of a role's model; without a role those of the first."""
        return self.outputs[role or self.main].logits

    def cross_entropy(self, role: str = "") -> Tensor:
        """Return the cross-entropy of a role's model, or of the first: a scalar, class-weighted."""
        return self.task.loss(self.logits(role), self.labels, self.class_weights)

    def ask(self, model: nn.Module) -> Output:
        """Return the output of a frozen model for the batch: without gradients, in the session's
        precision, and in the mode (training or evaluation) that the model is in.
        """
        with torch.no_grad():
            return answer(model, self.batch.images, self.precision, self.task)

    def rise(self, share: float) -> float | Tensor:
        """Return a factor that rises from 0 to 1 over the first ``share`` (0 to 1) of the session,
        and stays 1. It is a float, or a float64 scalar tensor where steps are recorded.
        """
        number, total, _, clock, _ = self.moment
        factor = ramp(number, total, share)
        if clock is None or not share:
            return factor
        return (clock[0] / (share * clock[1])).clamp(max=1.0)


class AddedLoss(NamedTuple):
    """What a teaching returns: a term of the loss, and its parts for the records.

    A total or part that is no scalar tensor, or a part with the name of a cross-entropy (``loss``,
    ``resident_loss``), ends the session with a TypeError that names the teaching.

    >>> weights = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> norm = weights.norm()
    >>> AddedLoss(0.1 * norm, {"norm": norm.detach()}).parts["norm"].item()
    5.0

    """

    total: Tensor | None
    """The scalar that is added to the cross-entropies; None: nothing."""
    parts: Mapping[str, Tensor]
    """Scalars without a gradient that records show, by name."""


Teaching = Callable[[TrainingStep], AddedLoss]


class Loss:
    """Base of a loss of your own, offered by `loss`. It holds in every session of every algorithm:
    the warm-up, visits, training at home. Each hospital makes one object, with its options.
    Override what you need; the rest is as without it.
    """

    @property
    def called(self) -> str:
        """The name in records of what `added` returns; the name of the class unless overridden."""
        return type(self).__name__.lower()

    def prepare(self, batch: Samples) -> Samples:
        """Return the mini-batch that all models of a step see, as
        ``batch._replace(images=..., labels=...)``. Another type or unequal lengths raise TypeError.
        """
        return batch

    def supervised(self, step: TrainingStep, role: str) -> Tensor:
        """Return a scalar in place of the cross-entropy, for each model that trains."""
        return step.cross_entropy(role)

    def added(self, step: TrainingStep) -> AddedLoss | Tensor | None:
        """Return a scalar that is added to the sum of all models' losses; None for nothing."""

    def before_step(self, step: TrainingStep, role: str) -> None:
        """Change the gradients of ``step.models[role]``, which trains, in place. It is called after
        the backward pass, before gradients are clipped and the optimiser steps.
        """


@runtime_checkable
class Asking(Protocol):
    """A teaching that asks frozen models of its own."""

    @property
    def asked(self) -> int:
        """How many it asks in every step about the samples of the batch."""


@runtime_checkable
class Correcting(Protocol):
    """A teaching, or a loss, that changes gradients."""

    def before_step(self, step: TrainingStep, role: str) -> None:
        """Change the gradients of a model that trains, after the backward pass and before they are
        clipped and its optimiser steps.
        """


@runtime_checkable
class Supervising(Protocol):
    """A teaching, or a loss, with a loss of its own in the place of the cross-entropy."""

    def supervised(self, step: TrainingStep, role: str) -> Tensor:
        """Return what stands in the place of the cross-entropy of a model that trains, a scalar."""


@runtime_checkable
class Recordable(Protocol):
    """A teaching whose steps can be recorded: it tells what memory they read besides the batch."""

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute what is added in a step."""

    def kind(self, moment: Moment) -> Hashable:
        """Return what decides which operations a step has."""

    def tensors(self) -> Sequence[Tensor]:
        """List the tensors that are others in another session."""

    def apart(self) -> Self:
        """Copy it, with memory of its own for these tensors."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all steps of a session have in common: models and optimisers by role, class weights
    (classes,), settings, and what is taught.
    """

    models: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    class_weights: Tensor
    training: Training
    teaching: Teaching | None
    loss: Loss | None = None
    task: PredictionTask = ONE_LABEL


PLAIN = Loss()


class Seen(NamedTuple):
    """What a step saw: the names of what was taught, the prefixes of who trained, and all values in
    a row.
    """

    parts: tuple[str, ...]
    trained: tuple[str, ...]
    values: Tensor
    """Parts, cross-entropies of those who trained, the whole loss, gradients' norms."""
    changed: int
    """How many models were changed: so many norms there are."""


def take(given: Setting, batch: Samples, moment: Moment) -> Seen:
    """Take one step: every model that trains is changed."""
    own = given.loss or PLAIN
    batch = _prepared(own, own.prepare(batch))
    outputs = Outputs((name, _output(given, name, batch, moment)) for name in moment.roles)
    known = given.training.precision, given.models, given.class_weights, given.task
    step = TrainingStep(batch, outputs, moment, *known)
    trained = step.trained
    judge = given.loss or (given.teaching if isinstance(given.teaching, Supervising) else own)
    losses = {name: _scalar(judge, "supervised", judge.supervised(step, name)) for name in trained}
    added = taught(given.teaching, step) if given.teaching is not None else AddedLoss(None, {})
    first, *others = losses.values()
    loss = torch.stack([first, *others]).sum() if others else first
    loss = loss if added.total is None else loss + added.total
    if given.loss is not None:
        more = _added(given.loss, step)
        loss = loss if more.total is None else loss + more.total
        added = AddedLoss(None, {**added.parts, **more.parts})
        if not loss.requires_grad:
            text = "gave a loss in which no weight has a part: is something detached, or no_grad?"
            raise TypeError(f"{name_of(own, 'supervised')} {text}")
    loss.backward()
    _correct(given, step)
    changed = moment.changed
    norms = [change(given.models[name], given.optimisers[name]) for name in changed]
    seen = [*added.parts.values(), *losses.values(), loss, *norms]
    values = torch.stack([value.detach() for value in seen])
    return Seen(tuple(added.parts), tuple(map(step.prefix, trained)), values, len(changed))


def _correct(given: Setting, step: TrainingStep) -> None:
    """Take the mean of gradients that were gathered, and change them as the teaching says, and then
    as a user's own loss does.
    """
    for name, count in (step.moment.gathered or {}).items():
        if count > 1:
            gradients = [one.grad for one in given.models[name].parameters()]
            torch._foreach_div_([one for one in gradients if one is not None], count)
    for one in (given.teaching, given.loss):
        if isinstance(one, Correcting):
            for name in step.moment.changed:
                one.before_step(step, name)


def _prepared(loss: Loss, given: object) -> Samples:
    """Check that what a loss has prepared is a batch; raises TypeError."""
    what = name_of(loss, "prepare")
    if not isinstance(given, Samples):
        found = "None (is a return missing?)" if given is None else type(given).__name__
        raise TypeError(f"{what} has to give a batch, batch._replace(images=...), not {found}")
    images, labels = given.images, given.labels
    if not (isinstance(images, Tensor) and isinstance(labels, Tensor)) or len(images) != len(
        labels
    ):
        raise TypeError(f"{what} has to give as many images as labels, both tensors")
    return given


def _scalar(loss: object, hook: str, value: object) -> Tensor:
    """Check that a loss is a scalar tensor; raises TypeError."""
    if isinstance(value, Tensor) and not value.ndim:
        return value
    found = f"a tensor {(*value.shape,)}" if isinstance(value, Tensor) else repr(value)
    found = "None (is a return missing?)" if value is None else found
    raise TypeError(f"{name_of(loss, hook)} has to give a scalar tensor, not {found}")


def name_of(given: object, hook: str = "") -> str:
    """Return what a loss, a method of it or a teaching is called in errors, with its line."""
    if place := getattr(given, "place", ""):
        return str(place)
    function: Any = getattr(type(given), hook) if hook else getattr(given, "__func__", given)
    written = getattr(function, "__code__", None)
    if written is None:
        return type(given).__name__
    line = f" ({Path(written.co_filename).name}:{written.co_firstlineno})"
    name = f"{type(given).__name__}.{hook}" if hook else function.__qualname__
    return f"{name}{line}"


def _added(loss: Loss, step: TrainingStep) -> AddedLoss:
    """Ask what a user's own loss adds; raises TypeError if that is no scalar."""
    given: Any = loss.added(step)
    if given is None:
        return AddedLoss(None, {})
    if isinstance(given, Tensor):
        value = _scalar(loss, "added", given)
        given = AddedLoss(value, {loss.called: value.detach()})
    return _checked(given, step, name_of(loss, "added"))


def taught(teaching: Teaching, step: TrainingStep) -> AddedLoss:
    """Ask what is added to the cross-entropies; raises TypeError if that is not what `AddedLoss`
    promises.
    """
    return _checked(teaching(step), step, name_of(teaching))


def _checked(given: Any, step: TrainingStep, what: str) -> AddedLoss:
    """Raise TypeError for what is not as `AddedLoss` promises."""
    if not isinstance(given, AddedLoss):
        found = "None (is a return missing?)" if given is None else type(given).__name__
        raise TypeError(f"{what} has to give AddedLoss(total, parts), not {found}")
    for name, value in {**given.parts, "total": given.total}.items():
        if value is None and name == "total":
            continue
        if not isinstance(value, Tensor) or value.ndim:
            found = f"a tensor {(*value.shape,)}" if isinstance(value, Tensor) else repr(value)
            raise TypeError(f"{what}: {name} of AddedLoss has to be a scalar tensor, not {found}")
    losses = {f"{step.prefix(role)}loss" for role in step.outputs}
    taken = [name for name in given.parts if name in losses]
    if taken:
        raise TypeError(f"{what}: {taken[0]!r} is what cross-entropy is called: rename that part")
    return given


def answer(model: nn.Module, images: Tensor, precision: Precision, task: PredictionTask) -> Output:
    """Ask a model; its maps may be bfloat16, its logits are fp32."""
    half = precision == "bf16"
    with torch.autocast(images.device.type, torch.bfloat16) if half else nullcontext():
        logits, taps = model(images)
    return Output(logits.float() if half else logits, taps, task)


def _output(given: Setting, role: str, batch: Samples, moment: Moment) -> Output:
    model, trains = given.models[role], moment.roles[role]
    if model.training != trains:
        model.train(trains)
    with torch.set_grad_enabled(trains):
        return answer(model, batch.images, given.training.precision, given.task)


def change(model: nn.Module, optimiser: torch.optim.Optimizer) -> Tensor:
    """Clip a model's gradients and let its optimiser step; gives their norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), optimiser.defaults["clip"])
    optimiser.step()
    optimiser.zero_grad()  # now, not before the next step: its activations need the memory
    return norm


@dataclass(frozen=True, slots=True)
class Exchange:
    """The terms of a visit beside the cross-entropies."""

    similarity: SimilarityLoss
    mutual_kl: float
    rise: float
    """Share of the session over which the weights of the exchange rise from 0."""
    past: nn.Module | None = None
    """The visitor as it arrived, frozen and in evaluation mode; None: nothing holds it."""
    self_similarity: SimilarityLoss | None = None
    self_distillation_kl: float = 0.0

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute the terms of a step."""
        parts: dict[str, Tensor] = {}
        total = [*self._exchange(step, parts), *self._self_distilled(step, parts)]
        return AddedLoss(torch.stack(total).sum() if total else None, parts)

    @property
    def asked(self) -> int:
        """One frozen model where the visitor is held to what it was: the visitor as it arrived."""
        return int(self.past is not None)

    def kind(self, moment: Moment) -> bool:
        """Return whether anything is exchanged yet."""
        return ramp(moment.number, moment.total, self.rise) > 0

    def tensors(self) -> Sequence[Tensor]:
        """List the tensors of the visitor as it arrived."""
        return [] if self.past is None else [*self.past.state_dict().values()]

    def apart(self) -> Exchange:
        """Copy the visitor as it arrived."""
        return replace(self, past=deepcopy(self.past))

    def _exchange(self, step: TrainingStep, parts: dict[str, Tensor]) -> list[Tensor]:
        visitor, resident = step.outputs[step.main], step.outputs.get("resident")
        if resident is None or not self.kind(step.moment):
            return []
        factor = step.rise(self.rise)
        found, levels = self.similarity(visitor.taps, resident.taps, factor)
        parts.update({f"similarity_{level}": value for level, value in levels.items()})
        total = [] if found is None else [found]
        if self.mutual_kl:
            value = divergence(resident, visitor)
            parts["mutual_kl"] = value.detach()
            total.append(scale(value, factor * self.mutual_kl))
            if resident.logits.requires_grad:
                value = divergence(visitor, resident)
                total.append(scale(value, factor * self.mutual_kl))
        return total

    def _self_distilled(self, step: TrainingStep, parts: dict[str, Tensor]) -> list[Tensor]:
        if self.past is None:
            return []
        visitor, past = step.outputs[step.main], step.ask(self.past)
        total = []
        if self.self_similarity is not None:
            found, levels = self.self_similarity(visitor.taps, past.taps)
            parts.update({f"self_distillation_{level}": value for level, value in levels.items()})
            total = [] if found is None else [found]
        if self.self_distillation_kl:
            value = divergence(past, visitor)
            parts["self_distillation_kl"] = value.detach()
            total.append(self.self_distillation_kl * value)
        return total


def divergence(teacher: Output, student: Output) -> Tensor:
    """Return KL(sg teacher || student) of the predictions: a scalar in nats, the mean over the
    batch, at temperature 1. The teacher gets no gradient (sg). Where samples have several labels,
    it is the mean over these of the divergence of each, between Bernoulli distributions.

    Raises TypeError if neither output has a ``task``: then nothing says which of both it is.

    >>> maps = Taps(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1))
    >>> sure, unsure = (Output(torch.tensor([[x, 0.0]]), maps, ONE_LABEL) for x in (2.0, 0.0))
    >>> divergence(sure, sure).item(), round(divergence(sure, unsure).item(), 3)
    (0.0, 0.328)

    """
    task = student.task or teacher.task
    if task is None:
        text = "divergence cannot tell whether samples have one label or several"
        raise TypeError(f"{text}: take outputs of a step, or make Output(logits, taps, step.task)")
    return task.divergence(teacher.logits, student.logits)
