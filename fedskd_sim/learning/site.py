"""What every algorithm needs of a hospital: its data, its architectures, its seeds, and sessions
that are undone if they fail.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fedskd_sim import clock
from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.answers import FOLDER, Answers, Tested
from fedskd_sim.learning.base import LearnerContext, LearnerState, Measures, Session
from fedskd_sim.learning.canaries import plant
from fedskd_sim.learning.comparable import pixel_grid, require_facts, shape_of
from fedskd_sim.learning.data import (
    HospitalData,
    Samples,
    as_input,
    fingerprint,
    load,
    pool,
)
from fedskd_sim.learning.devices import describe_card, device, lay_out, settle, share_of_card
from fedskd_sim.learning.distillation.arrangements import Atlas
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.evaluate import BATCH, evaluate, logits_of
from fedskd_sim.learning.kept import keep, take_back
from fedskd_sim.learning.networks.models import blueprint, build, parameter_count, with_memory
from fedskd_sim.learning.networks.shapes import GRIDLESS, ImageShape
from fedskd_sim.learning.networks.trainable import part_of
from fedskd_sim.learning.samples import Given
from fedskd_sim.learning.sessions.own import loss_of
from fedskd_sim.learning.sessions.recorded import Recordings
from fedskd_sim.learning.sessions.session import (
    NonFinite,
    RunningSums,
    RunShare,
    SessionModels,
    TrainingJob,
    train,
)
from fedskd_sim.learning.sessions.steps import Output, Teaching
from fedskd_sim.learning.similarities import Similarities
from fedskd_sim.learning.spending import PRIVATE, Spending, Spent
from fedskd_sim.learning.task import task_of
from fedskd_sim.learning.weights import (
    buffers_of,
    export,
    floats_in,
    install,
    install_some,
    snapshot,
    spec_of,
)
from fedskd_sim.messages import Spec, Weights
from fedskd_sim.privacy import accountant
from fedskd_sim.records import PrivateNumber
from fedskd_sim.scenario import Architecture, NetworkPart, Scenario, Similarity
from fedskd_sim.seeds import seed

BUFFERS = "buffers/"
"""Before the buffers that stay."""
BEGINNING: RunShare = (0.0, 0.0)
"""Of a session before the first round: no share of the run is done."""
LOSS = "loss/"
"""Before what a loss of the user's own keeps."""


def specs_of(scenario: Scenario, shape: ImageShape) -> Mapping[str, Spec]:
    """Describe the model of every hospital, given what its inputs look like; each architecture is
    built once.
    """
    chosen = {name: scenario.architecture(name) for name in scenario.members}
    different = {one.model_dump_json(): one for one in chosen.values()}
    specs = {key: spec_of(blueprint(one, shape)) for key, one in different.items()}
    return {name: specs[one.model_dump_json()] for name, one in chosen.items()}


class Site:
    """A hospital as its learner sees it: data, device and seeds, and how to build, train and
    measure a model. Learners reach it as ``self.site``.

    ``model`` is the name of a hospital whose model is meant, ``network`` a model itself. Further
    attributes: ``name`` of the hospital, the ``scenario``, its part ``training``, the
    hospital's part ``me``, and ``device`` (a PyTorch device's name).
    """

    def __init__(self, context: LearnerContext) -> None:
        """Look up what its inputs look like, and tell how many there are; nothing is loaded or
        built yet.
        """
        self.context, self.name, self.scenario = context, context.host, context.scenario
        self.me = context.scenario.hospital(context.host)
        self.training = context.scenario.training_of(context.host)
        self.device = device(self.me.device)
        self.share = share_of_card(context.scenario, self.device, alone=context.own_card)
        self.recordings = Recordings.of(self.device, self.training, self.share)
        self.loss = loss_of(context.scenario.algorithm)
        chosen = None if self.me.held_out else self.me.privacy
        known = context.scenario, context.topology, context.host
        self.spending = None if chosen is None else Spending(*known, chosen)
        self.similarities = Similarities(
            context.scenario.instruments.probe_similarity,
            context.host,
            {"scenario": context.scenario.name, "seed": context.scenario.seed},
            context.folder,
        )
        self._buffers: dict[str, Weights] = {}
        """What models whose ``buffers`` stay had of these when they last trained here."""
        self._others: dict[str, Samples] = {}
        self._known = require_facts(context.scenario, context.host, context.data_folder)
        self.shape, facts = shape_of(self._known), self._known
        self.task = task_of(context.scenario, facts.classes, multi_label=facts.multi_label)
        kept = context.scenario.instruments.predictions
        self.answers = Answers(bool(kept), self.task, named=kept == "named")
        context.counted(self._known.counts)
        if context.own_process:
            context.receive_buffers.build = self._build_receive_buffer

    @property
    def given(self) -> Given | None:
        """What the hospital's own reader returned; None with a built-in one."""
        return self._known.given

    def specs(self) -> Mapping[str, Spec]:
        """Return names, shapes and types of the tensors of every hospital's model."""
        return specs_of(self.scenario, self.shape)

    @cached_property
    def data(self) -> HospitalData:
        """The hospital's data, ``.train``, ``.validation`` and ``.test``, each with ``.images`` and
        ``.labels``; those of all hospitals if the algorithm pools. They are read at first use.
        """
        data = self._read()
        if self.context.loaded:
            self.context.loaded(fingerprint(data))
        return data

    def _read(self) -> HospitalData:
        own = self._load(self.name)
        if self.scenario.instruments.evaluate_on == "validation":
            remark = "; ".join(
                part
                for part in (
                    own.remark,
                    "evaluated on validation data, as instruments.evaluate_on says",
                )
                if part
            )
            own = replace(own, test=own.validation, remark=remark)
        if not self.scenario.pools:
            return own
        return pool(own, {name: self._load(name) for name in self.scenario.members})

    def _load(self, name: str) -> HospitalData:
        share = self.share / (len(self.scenario.members) if self.scenario.pools else 1)
        found = load(self.scenario, name, self.context.data_folder, self.device, share)
        return plant(found, self.scenario, name) if self.scenario.audit else found

    def validation_of(self, name: str) -> Samples:
        """Return the validation data of any hospital. It is an instrument of the simulation: an
        algorithm that uses it is no federation.
        """
        if name not in self._others:
            self._others[name] = self._load(name).validation
        return self._others[name]

    @cached_property
    def atlas(self) -> Atlas | None:
        """The regions of the hospital's volumes; None without an atlas."""
        found = self._known.atlas
        return None if found is None else Atlas(torch.as_tensor(found).long().to(self.device))

    def seed(self, purpose: str, *names: str | int) -> int:
        """Return a seed of this hospital for a purpose, the same in every run of the scenario.
        ``names`` tell draws for one purpose apart, such as a round's number.
        """
        return seed(self.scenario.seed, purpose, self.name, *names)

    def common_seed(self, purpose: str, *names: str | int) -> int:
        """Return a seed for a purpose that is the same at every hospital."""
        return seed(self.scenario.seed, purpose, *names)

    def settle(self) -> None:
        """Set threads, precision and deterministic kernels of PyTorch. Call it first in every
        method of a learner that computes.
        """
        settle(self.me.resources.cpu, self.device, self.training)

    def state(self) -> LearnerState:
        """Return what must outlive a death of the hospital besides the learner's own state:
        predictions, buffers that stay, and what a loss of your own keeps.
        """
        kept = {BUFFERS + model: buffers for model, buffers in self._buffers.items()}
        private = {PRIVATE: self.spending.state()} if self.spending else {}
        state = self.answers.state().plus(private, kept).plus(*self.similarities.state())
        return keep(self.loss, state, LOSS) if self.loss else state

    def restore(self, state: LearnerState) -> None:
        """Continue from a state, and `settle`."""
        self.settle()
        self.answers.restore(state)
        self.similarities.restore(state)
        if self.spending:
            self.spending.restore(state.numbers[PRIVATE])
        self._buffers = {
            name.removeprefix(BUFFERS): group
            for name, group in state.weights.items()
            if name.startswith(BUFFERS)
        }
        if self.loss:
            take_back(self.loss, state, self, LOSS)

    def first(self, seed: int) -> nn.Module:
        """Build the hospital's own architecture, with initial weights drawn from a seed."""
        return self.initialise(self.scenario.architecture(self.name), seed)

    def initialise(self, architecture: Architecture, seed: int) -> nn.Module:
        """Build an architecture on the hospital's device, with weights drawn from a seed."""
        network = self.to_device(build(architecture, self.shape, seed))
        return self.recordings.know(network, architecture)

    def parameters(self, architecture: Architecture) -> int:
        """Return the number of an architecture's parameters."""
        return parameter_count(blueprint(architecture, self.shape))

    def floats(self, architecture: Architecture, *, names: Container[str] | None = None) -> int:
        """Return the length of `flat` for an architecture, with the same ``names``: the number of
        floats in its ``state_dict``.
        """
        spec = spec_of(blueprint(architecture, self.shape))
        return floats_in(
            {name: one for name, one in spec.items() if names is None or name in names}
        )

    def part(self, architecture: Architecture, part: NetworkPart) -> frozenset[str]:
        """Return the names in an architecture's ``state_dict`` of a part: ``head`` is the last
        module with as many rows as classes, ``norm`` all normalisations.
        """
        return part_of(blueprint(architecture, self.shape), part, self.shape.classes)

    @torch.no_grad()
    def outputs(self, network: nn.Module, samples: Samples) -> Iterator[tuple[Output, Tensor]]:
        """Yield a model's output and the labels (B,), batch by batch, for samples in their order.
        The model is asked in evaluation mode and without gradients, and keeps its mode.
        """
        before = network.training
        network.eval()
        for images, labels in zip(
            samples.images.split(BATCH), samples.labels.split(BATCH), strict=True
        ):
            logits, taps = network(as_input(images, labels.device))
            yield Output(logits, taps, self.task), labels
        network.train(before)

    def to_device(self, network: nn.Module, *, empty: bool = False) -> nn.Module:
        """Move a network to the hospital's device, in the scenario's memory format. With ``empty``
        it is one on the meta device, which gets memory without values.
        """
        if self.shape.kind not in GRIDLESS:
            network = lay_out(network, self.training.memory_format, self.device)
        return with_memory(network, self.device) if empty else network.to(self.device)

    def build(self, model: str, weights: Weights) -> nn.Module:
        """Build the architecture of the hospital ``model`` with these weights."""
        return self.build_around(self.scenario.architecture(model), weights)

    def build_around(self, architecture: Architecture, weights: Weights) -> nn.Module:
        """Build an architecture with these weights."""
        network = self.to_device(blueprint(architecture, self.shape), empty=True)
        install(network, weights)
        return self.recordings.know(network, architecture)

    def receive(self, model: str, arriving: Weights) -> nn.Module:
        """Return an arrived model as a network, to be measured: the one in whose memory it has
        arrived, or one that is built.
        """
        network: nn.Module | None = self.context.receive_buffers.take(model, arriving)
        if network is None or model in self._buffers:  # its memory is what goes on
            network = self.build(model, arriving)
        return self.with_own_buffers(model, network)

    def with_own_buffers(self, model: str, network: nn.Module) -> nn.Module:
        """Set in a network the buffers that its model had here last, if they stay (``buffers:
        stay``). Return the network.
        """
        install_some(network, self._buffers.get(model, {}))
        return network

    def keep_buffers(self, model: str, network: nn.Module) -> None:
        """Keep the buffers of a model that has trained here, if they stay (``buffers: stay``)."""
        if self.scenario.architecture(model).buffers == "stay":
            self._buffers[model] = buffers_of(network)

    def visitor(self, model: str, arriving: Weights) -> tuple[nn.Module, Weights]:
        """Return an arrived model as a network, to be trained, and a copy of its weights on
        arrival.
        """
        network: nn.Module | None = self.context.receive_buffers.take(model, arriving)
        came = arriving if network is None else snapshot(network)
        found = self.build(model, arriving) if network is None else network
        return self.with_own_buffers(model, found), came

    def _build_receive_buffer(self, model: str) -> tuple[nn.Module | None, Weights]:
        """Build a network whose memory travelling bytes can be written to; None where a copy has
        to be made of them anyway.
        """
        if self.device != "cpu" or self.training.memory_format == "channels_last":
            return None, {}
        architecture = self.scenario.architecture(model)
        network = self.to_device(blueprint(architecture, self.shape), empty=True)
        if not all(tensor.is_contiguous() for tensor in network.state_dict().values()):
            return None, {}
        return network, export(network)

    def passes(self, count: float) -> float:
        """Return the sample-gradients of ``count`` passes of one model over the training data."""
        if self.spending:
            samples = len(self.data.train.labels)
            rule = self.spending.guard(self.data.train).rule
            return accountant.passes(self.scenario, rule, count, samples)
        sizes = self.training.batch_sizes(len(self.data.train.labels))
        return count * sum(sizes[: self.training.batches])

    def during(self, round_: int, hop: int = 0) -> RunShare:
        """Return the shares (0 to 1) of the run that are done before and after a session, for
        `plan_job`. Without ``hop`` the round has one session.
        """
        hops = len(self.context.topology.hops(1)) if hop else 1
        all_ = hops * self.scenario.algorithm.rounds
        before = hops * (round_ - 1) + max(hop - 1, 0)
        return before / all_, (before + 1) / all_

    def plan_job(self, work: float, seed: int, during: RunShare | None = None) -> TrainingJob:
        """Plan a session on the training data, for `session`.

        Args:
            work: the sample-gradients that it may spend, as from `passes`.
            seed: decides batches and augmentations, as from `seed`.
            during: the shares of the run that are done before and after it, from `during`.

        Raises:
            InvalidValue: the learning rate falls over the run, and ``during`` is not given.

        """
        if during is None and self.training.optimiser.schedule.over == "run":
            name = self.scenario.algorithm.name
            text = f"'run' cannot be used: {name!r} has sessions of which it does not say when"
            fix = "choose session; or plan_job(..., self.site.during(round_)) in its code"
            raise InvalidValue(text, fix=fix, key=("training", "optimiser", "schedule", "over"))
        weights = self.task.weights(
            self.data.train.labels, len(self.data.classes), self.training.class_weights
        )
        given = self.data.train, weights, self.training, work, seed
        watched = self.data.validation if self.training.patience else None
        return TrainingJob(*given, self.loss, self.task, during or BEGINNING, watched)

    def similarity(self, settings: Similarity) -> SimilarityLoss:
        """Return the similarity loss with these settings, for the models of this scenario."""
        return SimilarityLoss.of(settings, pixel_grid(self.scenario, self.shape), self.atlas)

    def session(
        self,
        models: SessionModels,
        job: TrainingJob,
        teaching: Teaching | None = None,
        arriving: Weights | None = None,
    ) -> Session:
        """Train models on a job, step by step. If a loss, gradient or weight is not finite, every
        model is put back to what it was before, and the outcome is ``rolled_back``.

        Args:
            models: the models, by role.
            job: data, budget and seed, from `plan_job`.
            teaching: called in every step; what it returns is added to the cross-entropies.
            arriving: the first model's weights before training, as from `visitor`; saves a copy.

        """
        main, model = models.main, models.by_role[models.main]
        before = {name: snapshot(models.by_role[name]) for name in models.learners if name != main}
        before[main], began = arriving or snapshot(model), clock.now()
        try:
            sums = self._train(models, job, teaching)
        except (NonFinite, Spent) as problem:
            for name, weights in before.items():
                install(models.by_role[name], weights)
            if isinstance(problem, Spent):
                return Session(before[main], "passed", str(problem))
            return Session(before[main], "rolled_back", str(problem), private=self._spent())
        return Session(
            export(model),
            reason=sums.remark,
            samples=sums.samples,
            steps=sums.steps,
            measures=sums.measured,
            early=sums.early,
            training=clock.now() - began,
            private=self._spent(),
        )

    def _train(
        self, models: SessionModels, job: TrainingJob, teaching: Teaching | None
    ) -> RunningSums:
        if self.spending:
            return self.spending.train(models, job, teaching)
        return train(models, job, teaching, self.recordings.begin)

    def _spent(self) -> Mapping[PrivateNumber, int | float | None]:
        return self.spending.numbers(self.data.train) if self.spending else {}

    def note_remarks(self, session: Session) -> Session:
        """Return the session of a warm-up with remarks for its record: data that were masked or
        left out, the device that ``auto`` is, and a GPU's driver and libraries.
        """
        found = f"device auto is {self.device}" if self.me.device == "auto" else ""
        learned = self.training.words
        grids = self.shape.kind not in GRIDLESS
        arithmetic = self.me.arithmetic_in_words(self.scenario.training, grids=grids)
        private = self.spending.words(self.data.train) if self.spending else ""
        card = describe_card(self.device)
        parts = (found, card, self.data.remark, learned, arithmetic, private, session.reason)
        return replace(session, reason="; ".join(part for part in parts if part))

    def validate(self, network: nn.Module, prefix: str = "") -> Measures:
        """Measure a model on the validation data. ``prefix`` is set before the measures' names."""
        return evaluate(network, self.data.validation, prefix, self.task)

    def test(self, model: str, network: nn.Module) -> Measures:
        """Measure the model of the hospital ``model`` on the test data, and keep its predictions.
        Nothing is returned without test data.
        """
        if not len(self.data.test.labels):
            return {}
        self.note_final(model, network)
        known = partial(logits_of, network, self.data.validation.images)
        return self.assess("evaluation", model, logits_of(network, self.data.test.images), known)

    def note_final(self, model: str, network: nn.Module) -> None:
        """Keep what a final model makes of the validation data, where that is probed."""
        if self.similarities.wanted:
            settings = getattr(self.scenario.algorithm, "similarity", Similarity())
            loss = self.similarity(settings)
            self.similarities.note(model, network, self.data.validation, loss)

    def assess(
        self, kind: Tested, model: str, logits: Tensor, known: Callable[[], Tensor] | None = None
    ) -> Measures:
        """Measure a model by its logits (N, classes) for the test data, and keep them as
        predictions. Thresholds of several labels are those that are best for the logits of the
        validation data, which ``known`` returns; 0.5 without it, and where these are tested.
        """
        apart = self.scenario.instruments.evaluate_on == "test"
        task = self.task.tuned(known if apart else None, self.data.validation.labels)
        self.answers.add(kind, model, logits, task)
        return task.measure(logits, self.data.test.labels)

    def save_answers(self, run: Path) -> None:
        """Write the predictions of the models that were tested here into a run folder, unless
        ``instruments.predictions`` is false, and what the other instruments have kept.
        """
        scenario = self.scenario
        if self.similarities.wanted:
            shown = scenario.instruments.pictures and self.shape.kind == "image"
            validation = self.data.validation
            atlas = self.atlas.labels if self.atlas else None
            self.similarities.save(validation, validation if shown else None, atlas)
        about = {
            "scenario": scenario.name,
            "seed": scenario.seed,
            "host": self.name,
            "split": scenario.instruments.evaluate_on,
        }
        self.answers.save(
            run / FOLDER / f"{self.name}.npz",
            self.data.test,
            {**about, "classes": self.data.classes},
        )

    def score(self, weights: Weights) -> float:
        """Return the balanced accuracy of weights of the own model on the validation data (0 to 1);
        0 without any data.
        """
        measures = self.validate(self.build(self.name, weights))
        return measures[self.task.decisive].mean if measures else 0.0


@runtime_checkable
class Sited(Protocol):
    """Whatever shows the site that it works at."""

    @property
    def site(self) -> Site:
        """The site."""
