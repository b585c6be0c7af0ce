"""How the hospitals learn from each other: one class per algorithm, chosen by ``algorithm.name``.
Some sum something over the ring after every local session (models, a common model beside the own
one, prototypes); some are there to be compared with (training alone, on everybody's data, or not at
all).

What a run has to know of each beside its keys, `AlgorithmKeys` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from fedskd_sim.scenario.circulation import (
    AlgorithmKeys,
    CommunicationPattern,
    Schedule,
    SelfDistillation,
    Similarity,
)
from fedskd_sim.scenario.part import (
    Architecture,
    Count,
    NonNegative,
    Positive,
    Seconds,
    with_a_name,
)


class AllReduceKeys(AlgorithmKeys):
    """The keys of an algorithm that sums something over the ring after every session."""

    pattern: ClassVar[CommunicationPattern] = "all_reduce"


class FedAvg(AllReduceKeys):
    """Federated averaging (McMahan et al. 2017) of one architecture, by ring all-reduce instead
    of a server.
    """

    warms_up: ClassVar[bool] = False
    averages: ClassVar[bool] = True
    name: Literal["fedavg"]
    """Mean of the hospitals' models, weighted by their training samples, after every local
    session."""
    rounds: Count = 2
    """Local sessions, each followed by one averaging."""
    architecture: Annotated[Architecture | None, with_a_name(str | Architecture | None)] = None
    """The architecture of all; null: the hospitals' own, which must then be equal."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains the common model on its own data; after each session all take "
            "the mean of what they have, "
            "summed over a ring."
        )


class FedProx(AllReduceKeys):
    """FedAvg whose local sessions are held close to the common model (Li et al. 2020)."""

    warms_up: ClassVar[bool] = False
    averages: ClassVar[bool] = True
    name: Literal["fedprox"]
    """FedAvg with a proximal term."""
    rounds: Count = 2
    """Local sessions, each followed by one averaging."""
    architecture: Annotated[Architecture | None, with_a_name(str | Architecture | None)] = None
    """The architecture of all; null: the hospitals' own, which must then be equal."""
    mu: Positive = 0.01
    """Weight of half the squared Euclidean distance of all parameters to the common model."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains the common model on its own data and stays close to it; after "
            "each session all take the mean of "
            "what they have, summed over a ring."
        )


class FML(AllReduceKeys):
    """Federated mutual learning (Shen et al. 2020): an own model of any architecture beside a
    small common one that is averaged.
    """

    keeps_models: ClassVar[bool] = True
    name: Literal["fml"]
    """Own model and common model teach each other at home; only the common one is averaged."""
    rounds: Count = 2
    """Local sessions of both models, each followed by one averaging."""
    architecture: Annotated[Architecture | None, with_a_name(str | Architecture | None)] = None
    """The architecture of the common model; null: the hospitals' smallest."""
    weight: NonNegative = 1.0
    """Weight of the Kullback-Leibler divergences beside the cross-entropies, temperature 1, the
    other side detached; the paper's alpha and beta are both 1 / (1 + weight)."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "At every hospital its own model and a common one train and teach each other by their "
            "predictions. Only the common one "
            "is averaged, summed over a ring; own models stay at home until all are tested."
        )

    def work(self, size: int) -> float:  # noqa: ARG002 - every hospital works for itself
        """One session of two models."""
        return 2.0


class FedProto(AllReduceKeys):
    """Prototypes instead of models (Tan et al. 2022): the mean features of every class, summed
    over the ring.
    """

    keeps_models: ClassVar[bool] = True
    name: Literal["fedproto"]
    """Models never leave home; every class has one common prototype that all are drawn to."""
    rounds: Count = 2
    """Local sessions, each followed by one summing of prototypes."""
    weight: NonNegative = 1.0
    """Weight of the mean squared distance of a sample's features to the prototype of its class."""
    features: Annotated[int, Field(ge=1, le=4096)] = 32
    """Length of a prototype: the channel means of every architecture's deep map are pooled to
    it."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains its own model and draws it to the mean features of every class, "
            "which are summed over a ring. "
            "Models stay at home until all are tested."
        )


class Local(AlgorithmKeys):
    """Every hospital trains alone; nothing travels before the evaluation."""

    name: Literal["local"]
    """The lower reference."""
    rounds: Count = 2
    """Sessions of ``training.epochs`` each."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains its own model on its own data. No model travels before all are "
            "tested."
        )


class Pooled(AlgorithmKeys):
    """Every hospital's architecture trains on the data of ALL hospitals: not federated, in one
    process only.
    """

    pools: ClassVar[bool] = True
    name: Literal["pooled"]
    """The upper reference; refuses to run where hospitals are apart."""
    rounds: Count = 2
    """Sessions of ``training.epochs`` passes over everybody's data each."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital's model trains on the data of all hospitals, put into one place. This "
            "is no federation."
        )

    def work(self, size: int) -> float:
        """One session over everybody's data: as much as ``size`` hospitals' on average."""
        return float(size)


class Placebo(AlgorithmKeys):
    """Tests the machinery: buffers travel, nothing is learned, PyTorch is never imported."""

    pattern: ClassVar[CommunicationPattern] = "circulation"
    learns: ClassVar[bool] = False
    name: Literal["placebo"]
    """No learning."""
    rounds: Count = 1
    """Full circulations."""
    buffer_bytes: Annotated[int, Field(ge=0, le=2**33)] = 1024
    """Size of each travelling model in bytes."""
    session_seconds: Seconds = 0.0
    """How long a session pretends to work."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return "Buffers without meaning travel from hospital to hospital. Nothing is learned."

    def work(self, size: int) -> float:  # noqa: ARG002 - there is none
        """Nothing is learned."""
        return 0.0


Reconcile = Literal["average", "two_track", "replace", "select"]


OFF = Similarity(batch=0.0, pixel=0.0, region=0.0)
TRAVELLER_FIRST: Mapping[str, Any] = MappingProxyType(
    {
        "resident_every": 0,
        "traveller_start": "own",
        "stop_work": 1.0,
        "reconcile": "replace",
        "self_distillation": {"kl": 1.0},
    }
)


class FedSKD(AlgorithmKeys):
    """Circulation with similarity distillation: visitor and resident at every stop, a homecoming
    session, reconciliation.
    """

    pattern: ClassVar[CommunicationPattern] = "circulation"
    name: Literal["fedskd"]
    """Similarity distillation between visitor and resident."""
    preset: Literal["plain", "traveller-first"] = "plain"
    """Defaults of the keys below. plain: both train and teach each other at every step.
    traveller-first: the resident is a frozen teacher, the visitor is held close to what it was on
    arrival, and a stop has half the work."""
    rounds: Count = 2
    """Full circulations: K-1 visits and a homecoming session each."""
    similarity: Similarity = Similarity()
    """Weights and form of the distillation."""
    mutual_kl: NonNegative = 0.0
    """Weight of the Kullback-Leibler divergence between the predictions of visitor and resident,
    the other side detached."""
    self_distillation: SelfDistillation = SelfDistillation()
    """Distillation from the visitor's own past; traveller-first: kl 1."""
    resident_every: Annotated[int, Field(ge=0)] = 1
    """The resident takes a gradient step in every n-th step of a session; 0: never, it only teaches
    (traveller-first)."""
    traveller_start: Literal["reconciled", "own"] = "reconciled"
    """A traveller sets out as the reconciled model, or as it came home (traveller-first). What the
    evaluation tests is the home model in either case (but for ``reconcile: two_track``)."""
    stop_work: Positive = 2.0
    """Sample-gradients of a stop, both models together, in units of ``training.epochs`` passes over
    the host's data; traveller-first: 1."""
    reconcile: Reconcile = "average"
    """What home does with resident and returned traveller: mean with a guard, keep both, take the
    traveller (traveller-first), or the better."""
    schedule: Schedule = Schedule()
    """Order of the ring and length of a round."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        chosen = isinstance(values, dict) and values.get("preset") == "traveller-first"
        return {**TRAVELLER_FIRST, **values} if chosen else values

    def work(self, size: int) -> float:
        """Return the work of a round: as many stops as a model makes, the one at home included
        where it trains there.
        """
        at_home = 0 if self.schedule.mode == "sequential" else 1
        return (min(self.schedule.visits or size, size - 1) + at_home) * self.stop_work

    @property
    def circulating(self) -> FedSKD:
        """The FedSKD that circulates and trains alike: one learner serves all of them."""
        return self

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom with these settings, for reports."""
        stays = "" if self.schedule.mode == "sequential" else ", while a copy of it stays there"
        return f"{_tour(self.schedule)}{stays}; {_session(self)}."


def _tour(schedule: Schedule) -> str:
    """Say how models travel."""
    which = "One model at a time" if schedule.mode == "sequential" else "Every model"
    return f"{which} travels from hospital to hospital and comes home"


def _session(settings: FedSKD) -> str:
    """Say who trains and who teaches at a stop."""
    similarity = settings.similarity
    to_visitor, to_resident = (
        " and ".join(
            way
            for way, on in (
                ("similarities", factor and not similarity.off),
                ("predictions", settings.mutual_kl),
            )
            if on
        )
        for factor in (similarity.to_visitor, similarity.to_resident)
    )
    if settings.resident_every == 0:
        teacher = (
            f"; the resident, which does not change, teaches it by its {to_visitor}"
            if to_visitor
            else ""
        )
        return f"at every stop the visitor trains on the host's data{teacher}"
    ways = {
        "the resident teaches the visitor by its": to_visitor,
        "the visitor teaches the resident by its": to_resident,
    }
    taught = (
        " and ".join(f"{way} {what}" for way, what in ways.items() if what)
        or "neither teaches the other"
    )
    both = (
        f"they teach each other by their {to_visitor}"
        if to_visitor == to_resident and to_visitor
        else taught
    )
    return f"at every stop visitor and resident train on the host's data, and {both}"


class CirculationKeys(AlgorithmKeys):
    """The keys of an algorithm whose models circulate, visitor and resident training at every
    stop.
    """

    pattern: ClassVar[CommunicationPattern] = "circulation"
    reconcile: Reconcile = "average"
    """See fedskd."""
    schedule: Schedule = Schedule()
    """See fedskd."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return self.circulating.words

    def work(self, size: int) -> float:
        """Return the work of a round, that of the FedSKD which circulates alike."""
        return self.circulating.work(size)

    @property
    def circulating(self) -> FedSKD:
        """The FedSKD that circulates and trains alike: one learner serves all of them."""
        return FedSKD(
            name="fedskd",
            rounds=self.rounds,
            similarity=OFF,
            reconcile=self.reconcile,
            schedule=self.schedule,
        )


class Circulation(CirculationKeys):
    """The control of every claim about similarity: FedSKD's circulation with all weights 0."""

    name: Literal["circulation"]
    """Visitor and resident train side by side and do not teach each other."""
    rounds: Count = 2
    """Full circulations."""


class Mutual(CirculationKeys):
    """The same circulation with deep mutual learning (Zhang et al. 2018) on predictions instead
    of similarities.
    """

    name: Literal["mutual"]
    """Visitor and resident learn each other's predictions, the other side detached."""
    rounds: Count = 2
    """Full circulations."""
    weight: NonNegative = 1.0
    """Weight of the Kullback-Leibler divergences, temperature 1."""

    @property
    def circulating(self) -> FedSKD:
        """The FedSKD that circulates and trains alike: one learner serves all of them."""
        return super().circulating.model_copy(update={"mutual_kl": self.weight})


class Cyclic(AlgorithmKeys):
    """Cyclic weight transfer (Chang et al. 2018): every model travels and trains alone at each
    stop; there are no residents.
    """

    pattern: ClassVar[CommunicationPattern] = "circulation"
    name: Literal["cyclic"]
    """One travelling model per hospital and architecture."""
    rounds: Count = 2
    """Full circulations."""
    stop_work: Positive = 1.0
    """Passes over the host's data at a stop, in units of ``training.epochs``."""
    self_distillation_kl: NonNegative = 0.0
    """Weight of the divergence from the model's own predictions on arrival: with it, the control of
    traveller-first FedSKD."""
    schedule: Schedule = Schedule()
    """See fedskd."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            f"{_tour(self.schedule)}; it trains at every stop on the host's data, without a "
            "teacher."
        )

    def work(self, size: int) -> float:
        """Return the work of a round, that of the FedSKD which circulates alike."""
        return self.circulating.work(size)

    @property
    def circulating(self) -> FedSKD:
        """The FedSKD that circulates and trains alike: one learner serves all of them."""
        return FedSKD(
            name="fedskd", preset="traveller-first", rounds=self.rounds, similarity=OFF,
            stop_work=self.stop_work,
            self_distillation=SelfDistillation(kl=self.self_distillation_kl),
            schedule=self.schedule,
        )  # fmt: skip


BUILT_IN: Mapping[str, AlgorithmKeys] = MappingProxyType(
    {
        "fedskd": FedSKD(name="fedskd"),
        "traveller-first": FedSKD.model_validate(
            {"name": "fedskd", "preset": "traveller-first"}, strict=False
        ),
        "circulation": Circulation(name="circulation"),
        "mutual": Mutual(name="mutual"),
        "cyclic": Cyclic(name="cyclic"),
        "local": Local(name="local"),
        "pooled": Pooled(name="pooled"),
        "fedavg": FedAvg(name="fedavg"),
        "fedprox": FedProx(name="fedprox"),
        "fml": FML(name="fml"),
        "fedproto": FedProto(name="fedproto"),
    }
)
"""What `fedskd-sim compare` knows by name, with default settings."""
