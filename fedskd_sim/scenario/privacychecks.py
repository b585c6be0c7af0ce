"""What is wrong with the privacy of hospitals, and which other keys would undo it."""

from __future__ import annotations

from collections.abc import Iterator

from fedskd_sim.errors import FedskdError, InvalidValue, Key
from fedskd_sim.scenario.schema import Scenario
from fedskd_sim.scenario.training import Privacy
from fedskd_sim.scenario.valid import ValidParts

Refusal = tuple[tuple[Key, ...], str, str]
"""A key, what is wrong with its value, and the fix."""
SHOWN = ("local", "fedavg", "fedskd", "circulation", "mutual", "cyclic")
"""Algorithms that read training data in the steps of sessions alone. Others sum class means,
control variates or personal models, or are a user's own."""


def find_bad_privacy(rest: ValidParts) -> Iterator[FedskdError]:
    """Find what is wrong with the privacy of hospitals, and what of a scenario and its variants
    would undo it.
    """
    if rest.lacks("hospitals") and not rest.scenario.hospitals:
        return
    for index, hospital in enumerate(rest.scenario.hospitals):
        if hospital.privacy and not rest.lacks("hospitals", index, "privacy"):
            for last, text, fix in _contradictory(hospital.privacy):
                yield InvalidValue(text, key=("hospitals", index, "privacy", *last), fix=fix)
    yield from _audited(rest)
    for label, variant in (("", None), *rest.scenario.variants.items()):
        parts = (
            ("algorithm", "training", "hospitals") if variant is None else variant.model_fields_set
        )
        given = {name: getattr(variant, name) for name in parts} if variant else {}
        given = {name: part for name, part in given.items() if name in ("algorithm", "training")}
        scenario = rest.scenario.model_copy(update=given)
        under = ("variants", label) if label else ()
        for error in undoing(scenario):
            own = error.key[0] in (given if label else parts)
            error.key = (*under, *error.key)
            if own and not rest.lacks(*error.key):
                yield error


def _contradictory(privacy: Privacy) -> Iterator[Refusal]:
    """Find what of a privacy block goes with none of its other values."""
    if privacy.noise is not None and privacy.target is not None:
        text = f"{privacy.noise:g} cannot be used beside a target: one follows from the other"
        yield ("noise",), text, "remove noise, or target"
    if privacy.noise is None and privacy.target is None:
        text = "neither noise nor target is set, and nothing says how private it is to be"
        fix = "set target: {epsilon: 8}, or noise: 2; noise: 0 only clips, and guarantees nothing"
        yield (), text, fix
    if privacy.budget is not None and privacy.target is not None:
        text = f"{privacy.budget:g} cannot be used beside a target, which is the budget"
        yield ("budget",), text, "remove budget"
    if privacy.budget is not None and privacy.noise == 0:
        text = f"{privacy.budget:g} cannot be used: without noise every step spends all there is"
        yield ("budget",), text, "remove budget, or set a noise"


def _audited(rest: ValidParts) -> Iterator[InvalidValue]:
    """Find an audit of a hospital with a secret key: it would write losses without noise."""
    secret = [
        one.name for index, one in enumerate(rest.scenario.hospitals)
        if one.privacy_is_secret and not rest.lacks("hospitals", index, "privacy")
    ]  # fmt: skip
    if secret and rest.scenario.audit and not rest.lacks("audit"):
        text = f"{secret[0]!r} has a secret key, and an audit keeps its losses without noise"
        fix = "remove it, or set privacy.key: scenario and audit a simulation of the same run"
        yield InvalidValue(text, key=("audit",), fix=fix)


def undoing(scenario: Scenario) -> Iterator[InvalidValue]:
    """Find what of a scenario lets out of a private hospital what neither clipping nor noise has
    touched.
    """
    for key, text, fix in _undone(scenario):
        yield InvalidValue(text, key=key, fix=fix)


def _undone(scenario: Scenario) -> Iterator[Refusal]:
    """Find what would let out of a private hospital what neither clipping nor noise has touched."""
    private = [one for one in scenario.hospitals if one.privacy and not one.held_out]
    if not private:
        return
    who, algorithm = repr(private[0].name), scenario.algorithm
    if algorithm.name not in SHOWN:
        text = f"{algorithm.name!r} cannot be used where {who} is private: "
        text += (
            "everything is trained on in one place"
            if algorithm.pools
            else "nobody has shown that it reads patients only in clipped and noised steps"
        )
        fix = f"choose one of {', '.join(SHOWN)}"
        yield ("algorithm", "name"), text, fix
        return
    if algorithm.loss:
        text = f"{algorithm.loss!r} cannot be used where {who} is private: a loss of your own may "
        yield (
            ("algorithm", "loss"),
            text + "keep what it saw of patients",
            "remove it, or the privacy of that hospital",
        )
    yield from _between_patients(scenario, who)
    yield from _unshown(scenario, who)


def _between_patients(scenario: Scenario, who: str) -> Iterator[Refusal]:
    """Find losses that compare patients with each other, or weigh them by all labels."""
    how = scenario.circulating
    levels = [("similarity", how.similarity.batch)] if how else []
    levels += [("self_distillation", how.self_distillation.batch)] if how else []
    for name, weight in levels:
        if weight:
            text = f"{weight:g} cannot be used where {who} is private: it compares patients "
            text += "with each other, so that one moves the clipped gradients of all"
            yield ("algorithm", name, "batch"), text, f"set algorithm.{name}.batch to 0"
    if scenario.training.class_weights != "none":
        text = f"{scenario.training.class_weights!r} cannot be used where {who} is private: "
        text += "these weights are computed from the labels of all patients, without noise"
        yield ("training", "class_weights"), text, "set training.class_weights: none"


def _unshown(scenario: Scenario, who: str) -> Iterator[Refusal]:
    """Find ways to take steps with which private ones have not been shown to be right."""
    training = scenario.training
    private = [(*one,) for one in enumerate(scenario.hospitals) if one[1].privacy]
    cards = [one.name for _, one in private if one.device != "cpu"]
    why = f"cannot be used where {who} is private: it has not been shown to be so"
    for index, one in private:
        if one.precision == "bf16" and not one.held_out:
            fix = "set its precision: fp32"
            yield ("hospitals", index, "precision"), f"'bf16' {why}", fix
    shared = training.precision == "bf16" and any(one.precision is None for _, one in private)
    found = (
        (shared, "precision", "'bf16'", "set training.precision: fp32"),
        (training.compile, "compile", "true", "set training.compile: false"),
        (
            bool(cards) and training.recorded_steps,
            "recorded_steps",
            "true",
            "set training.recorded_steps: false: batches are of another size in every step",
        ),
        (
            training.accumulate > 1,
            "accumulate",
            f"{training.accumulate}",
            "set training.accumulate: 1, and a larger privacy.batch",
        ),
        (
            training.patience is not None,
            "patience",
            f"{training.patience}",
            "remove training.patience: how many steps there are is known before the run",
        ),
    )
    for wrong, key, value, fix in found:
        if wrong:
            yield ("training", key), f"{value} {why}", fix
