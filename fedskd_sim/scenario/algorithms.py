"""How the hospitals learn from each other: one class per algorithm, chosen by ``algorithm.name``.
Some sum something over the ring after every local session (models, a common model beside the own
one, prototypes); some are there to be compared with (training alone, on everybody's data, or not at
all).

What a run has to know of each beside its keys, `AlgorithmKeys` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fedskd_sim.scenario.circulation import (
    AlgorithmKeys,
    CommunicationPattern,
    Schedule,
    SelfDistillation,
    Similarity,
)
from fedskd_sim.scenario.part import (
    Count,
    NamedArchitecture,
    NonNegative,
    Positive,
    Seconds,
)


class AllReduceKeys(AlgorithmKeys):
    """Base of the keys of an algorithm on `AllReduceLearner`, which adds up a vector over all
    hospitals after every session.
    """

    pattern: ClassVar[CommunicationPattern] = "all_reduce"


class AveragingKeys(AllReduceKeys):
    """Base of the keys of an algorithm on `AveragingLearner`, in which all hospitals train one
    model and average it.
    """

    warms_up: ClassVar[bool] = False
    averages: ClassVar[bool] = True
    rounds: Count = 2
    """Local sessions, each followed by one averaging."""
    architecture: NamedArchitecture = None
    """The architecture of all; null: the hospitals' own, which must then be equal."""


class FedAvg(AveragingKeys):
    """Federated averaging (McMahan et al. 2017) of one architecture, by ring all-reduce instead
    of a server.
    """

    base_sessions: ClassVar[bool] = True
    name: Literal["fedavg"]
    """Mean of the hospitals' models, weighted by their training samples, after every local
    session."""

    @property
    def words(self) -> str:
        """Describe what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains the common model on its own data; after each session all take "
            "the mean of what they have, "
            "summed over a ring."
        )


class Local(AlgorithmKeys):
    """Every hospital trains alone; nothing travels before the evaluation."""

    base_sessions: ClassVar[bool] = True
    name: Literal["local"]
    """The lower reference."""
    rounds: Count = 2
    """Sessions of ``training.epochs`` each."""

    @property
    def words(self) -> str:
        """Describe what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains its own model on its own data. No model travels before all are "
            "tested."
        )


class Pooled(AlgorithmKeys):
    """Every hospital's architecture trains on the data of ALL hospitals: not federated, in one
    process only.
    """

    pools: ClassVar[bool] = True
    base_sessions: ClassVar[bool] = True
    name: Literal["pooled"]
    """The upper reference; refuses to run where hospitals are apart."""
    rounds: Count = 2
    """Sessions of ``training.epochs`` passes over everybody's data each."""

    @property
    def words(self) -> str:
        """Describe what travels and who trains with whom, for reports."""
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
    base_sessions: ClassVar[bool] = True
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
        """Describe what travels and who trains with whom, for reports."""
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
    base_sessions: ClassVar[bool] = True
    name: Literal["fedskd"]
    """Similarity distillation between visitor and resident."""
    preset: Literal["plain", "traveller-first"] = "plain"
    """Defaults of the keys below. ``plain``: both train and teach each other at every step.
    ``traveller-first``: the resident is a frozen teacher, the visitor is held close to what it was
    on arrival, and a stop has half the work."""
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
    def compared(self) -> Mapping[str, Sequence[str]]:
        """The maps of a model that it compares with others, and under each the keys of the
        weights.
        """
        found: dict[str, list[str]] = {}
        given, own = self.similarity, self.self_distillation
        taught = given.to_visitor or (given.to_resident and self.resident_every)
        for level in ("batch", "pixel", "region"):
            weights = {"similarity": getattr(given, level) if taught else 0.0}
            weights["self_distillation"] = getattr(own, level)
            for part, weight in weights.items():
                if weight:
                    key = f"algorithm.{part}.{level}"
                    found.setdefault(getattr(given, f"{level}_tap"), []).append(key)
        return found

    @property
    def words(self) -> str:
        """Describe what travels and who trains with whom with these settings, for reports."""
        stays = "" if self.schedule.mode == "sequential" else ", while a copy of it stays there"
        return f"{_tour(self.schedule)}{stays}; {_session(self)}."


def _tour(schedule: Schedule) -> str:
    """Describe how models travel."""
    which = "One model at a time" if schedule.mode == "sequential" else "Every model"
    return f"{which} travels from hospital to hospital and comes home"


def _session(settings: FedSKD) -> str:
    """Describe who trains and who teaches at a stop."""
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
    """Base of the keys of an algorithm on `CirculatingLearner`, whose models circulate, and in
    which visitor and resident train at every stop.
    """

    pattern: ClassVar[CommunicationPattern] = "circulation"
    reconcile: Reconcile = "average"
    """What home does with resident and returned traveller: mean with a guard (average), keep
    both (two_track), take the traveller (replace), or the better one (select)."""
    schedule: Schedule = Schedule()
    """Order of the ring and length of a round."""

    @property
    def words(self) -> str:
        """Describe what travels and who trains with whom, for reports."""
        return self.circulating.words

    def work(self, size: int) -> float:
        """Return the work of a round, as fedskd has it with the keys of `circulating`."""
        return self.circulating.work(size)

    @property
    def compared(self) -> Mapping[str, Sequence[str]]:
        """The maps at which it compares models, as fedskd has them with the keys of
        `circulating`.
        """
        return self.circulating.compared

    @property
    def circulating(self) -> FedSKD:
        """The keys of fedskd with which `CirculatingLearner` circulates and trains here."""
        return FedSKD(
            name="fedskd",
            rounds=self.rounds,
            similarity=OFF,
            reconcile=self.reconcile,
            schedule=self.schedule,
        )


class GossipKeys(CirculationKeys):
    """Base of the keys of an algorithm on `GossipLearner`, in which hospitals mix their model with
    those of several others.
    """

    averages: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    architecture: NamedArchitecture = None
    """The architecture of all; null: the hospitals' own, which must then be equal."""
    schedule: Schedule = Schedule(order="shuffled", visits=2)
    """See fedskd. ``visits`` is how many others a model is mixed into, and how many are mixed into
    it, in a round; all travel at once."""

    @field_validator("schedule")
    @classmethod
    def _at_once(cls, schedule: Schedule) -> Schedule:
        if schedule.mode == "sequential":
            raise ValueError("all models travel at once here: leave mode out")
        return schedule

    def work(self, size: int) -> float:  # noqa: ARG002 - every hospital works for itself
        """One session at home."""
        return 1.0

    @property
    def idle(self) -> dict[str, str]:
        """What would reconcile the resident with a traveller."""
        return {"reconcile": "the own model is mixed with those that came"}

    @property
    def circulating(self) -> FedSKD:
        """The FedSKD that circulates alike; of the two models at a homecoming one is left."""
        return super().circulating.model_copy(update={"reconcile": "replace"})


class Circulation(CirculationKeys):
    """The control of every claim about similarity: FedSKD's circulation with all weights 0."""

    base_sessions: ClassVar[bool] = True
    name: Literal["circulation"]
    """Visitor and resident train side by side and do not teach each other."""
    rounds: Count = 2
    """Full circulations."""


class Mutual(CirculationKeys):
    """The same circulation with deep mutual learning (Zhang et al. 2018) on predictions instead
    of similarities.
    """

    base_sessions: ClassVar[bool] = True
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
    base_sessions: ClassVar[bool] = True
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
        """Describe what travels and who trains with whom, for reports."""
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
    }
)
"""What `fedskd-sim compare` knows by name, with default settings, besides what packages offer."""
