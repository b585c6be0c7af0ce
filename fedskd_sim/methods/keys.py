"""What scenarios may say of the methods in this package; imports no PyTorch."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedskd_sim import (
    AllReduceKeys,
    AveragingKeys,
    CirculationKeys,
    GossipKeys,
    NamedArchitecture,
    Schedule,
)


class FedProx(AveragingKeys):
    """FedAvg whose local sessions are held close to the common model (Li et al. 2020)."""

    base_sessions: ClassVar[bool] = True
    mu: Annotated[float, Field(gt=0)] = 0.01
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

    base_sessions: ClassVar[bool] = True
    keeps_models: ClassVar[bool] = True
    architecture: NamedArchitecture = None
    """The architecture of the common model; null: the hospitals' smallest."""
    weight: Annotated[float, Field(ge=0)] = 1.0
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

    one_label: ClassVar[bool] = True
    base_sessions: ClassVar[bool] = True
    keeps_models: ClassVar[bool] = True
    weight: Annotated[float, Field(ge=0)] = 1.0
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

    @property
    def compared(self) -> dict[str, list[str]]:
        """The deep map, if the distance has a weight."""
        return {"deep": ["algorithm.weight"]} if self.weight else {}

    @property
    def idle(self) -> dict[str, str]:
        """The weight, where there is one round only."""
        why = "there are prototypes from the second round on"
        return {"weight": why} if self.rounds == 1 else {}


class FedTGP(AllReduceKeys):
    """Trainable global prototypes (Zhang et al. 2024): class means of all hospitals are gathered,
    and prototypes trained that lie near those of their class and apart from others.
    """

    one_label: ClassVar[bool] = True
    base_sessions: ClassVar[bool] = True
    keeps_models: ClassVar[bool] = True
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the mean squared distance of a sample's features to the prototype of its class."""
    features: Annotated[int, Field(ge=1, le=4096)] = 32
    """Length of a prototype, see fedproto."""
    margin: Annotated[float, Field(ge=0)] = 100.0
    """The largest margin between prototypes of different classes, the paper's tau; it is no more
    than the largest distance between the mean features of two classes."""
    server_steps: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Steps of Adam on the prototypes in a round, each on the class means of all hospitals."""
    server_rate: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of these steps."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains its own model and draws it to prototypes of every class, which "
            "all train alike on the mean features of all, gathered over a ring. "
            "Models stay at home until all are tested."
        )

    @property
    def compared(self) -> dict[str, list[str]]:
        """The deep map, if the distance has a weight."""
        return {"deep": ["algorithm.weight"]} if self.weight else {}

    @property
    def idle(self) -> dict[str, str]:
        """What says how prototypes are, where they teach nobody."""
        shaped = ("margin", "server_steps", "server_rate")
        if self.rounds == 1:
            why = "there are prototypes from the second round on"
            return dict.fromkeys(("weight", *shaped), why)
        return {} if self.weight else dict.fromkeys(shaped, "weight is 0")


class FedGH(AllReduceKeys):
    """FedGH (Yi et al. 2023): models of different architecture have one head, which is trained on
    the class means of all hospitals.
    """

    one_label: ClassVar[bool] = True
    base_sessions: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    alike: ClassVar[Any] = "head"
    server_steps: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Steps of Adam on the head in a round, each on the class means of all hospitals."""
    server_rate: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate of these steps."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains its own model on its own data. After each session all train one "
            "head alike on the mean features of every class, gathered over a ring, and go on with "
            "it. Models stay at home until all are tested."
        )

    @property
    def needs(self) -> dict[Any, str]:
        """The head."""
        return {"head": "algorithm.name"}


class FD(AllReduceKeys):
    """Federated distillation (Jeong et al. 2018), also called FedDistill: what models say of every
    class on average, summed over the ring.
    """

    one_label: ClassVar[bool] = True
    base_sessions: ClassVar[bool] = True
    keeps_models: ClassVar[bool] = True
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distance of a sample's prediction to the others' mean for its class."""
    shares: Literal["probabilities", "logits"] = "probabilities"
    """``probabilities``: mean predictions, and the cross-entropy to them, as the paper has it.
    ``logits``: mean logits, and the mean squared distance to them, as public code has it."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains its own model and draws it to what the others' models say of "
            "every class on average, which is summed over a ring. "
            "Models stay at home until all are tested."
        )

    @property
    def idle(self) -> dict[str, str]:
        """The weight, where there is one round only."""
        why = "others have said something from the second round on"
        return {"weight": why} if self.rounds == 1 else {}


class DefKT(CirculationKeys):
    """Def-KT (Li et al. 2020): visitor and resident learn from each other, and the visitor is then
    forgotten.
    """

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the Kullback-Leibler divergences, temperature 1, the other side detached."""
    schedule: Schedule = Schedule(order="shuffled", visits=1)
    """See fedskd. As it is, every model visits one other hospital in a round, which is drawn."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every model travels; at every stop visitor and resident train on the host's data and "
            "teach each other by their predictions. The resident stays as it is then, and a "
            "visitor is forgotten when it comes home."
        )

    def work(self, size: int) -> float:
        """Return the work of a round: two models at every visit, and nothing at home."""
        return 2.0 * min(self.schedule.visits or size, size - 1)

    @property
    def idle(self) -> dict[str, str]:
        """What would reconcile the resident with a visitor that has come home."""
        return {"reconcile": "what comes home is forgotten"}

    @property
    def circulating(self) -> Any:
        """The FedSKD that circulates alike; of the two models at a homecoming one is left."""
        return super().circulating.model_copy(update={"reconcile": "replace"})


class Ditto(AveragingKeys):
    """Ditto (Li et al. 2021): FedAvg, and beside the common model a personal one at every hospital,
    held close to it.
    """

    base_sessions: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    strength: Annotated[float, Field(ge=0)] = 0.1
    """Weight of half the squared Euclidean distance of the personal model to the common one."""
    begins: Literal["own", "common"] = "own"
    """``own``: a session of the personal model goes on from its last one. ``common``: it begins at
    the common model. With the latter and strength 0 it is FedAvg with fine-tuning at home."""

    @property
    def tunes(self) -> bool:
        """Whether the personal model is the common one after its session."""
        return self.begins == "common" and not self.strength

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        held = (
            "is the common one after its last session"
            if self.tunes
            else "trains beside it and is held close to it"
        )
        return (
            "Every hospital trains the common model on its own data; after each session all take "
            f"the mean of what they have, summed over a ring. A personal model {held}; it stays at "
            "home until all are tested."
        )

    @property
    def idle(self) -> dict[str, str]:
        """Where a personal model begins, if it has one session only."""
        why = "in the first round both models begin at the common initial one"
        return {"begins": why} if self.rounds == 1 and self.strength else {}

    def work(self, size: int) -> float:  # noqa: ARG002 - every hospital works for itself
        """One session of two models, or of one."""
        return 1.0 if self.tunes else 2.0


class Partial(AveragingKeys):
    """FedAvg of a part of the model; the rest stays at home: FedPer, LG-FedAvg, FedBN, FedRep."""

    base_sessions: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    shared: Literal["body", "head", "all-but-norm"] = "body"
    """``body``: all but the head (FedPer, and with ``alternate`` FedRep). ``head``: the head alone
    (LG-FedAvg). ``all-but-norm``: all but normalisations (FedBN). The head is the last module whose
    weights have as many rows as there are classes."""
    alternate: bool = False
    """The first half of a session's steps trains what stays at home, the second what is shared."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        what = {"body": "all but the head", "head": "the head", "all-but-norm": "all but norms"}
        turns = ", what stays at home first and then the rest" if self.alternate else ""
        return (
            f"Every hospital trains a model of one architecture on its own data{turns}; after each "
            f"session all take the mean of a part of it, {what[self.shared]}, summed over a ring."
        )

    @property
    def needs(self) -> dict[Any, str]:
        """The part that is treated apart."""
        return {"norm" if self.shared == "all-but-norm" else "head": "algorithm.shared"}


class MOON(AveragingKeys):
    """MOON (Li, He and Song 2021): FedAvg whose features are drawn to the common model's and away
    from those of the own model before it was averaged.
    """

    base_sessions: ClassVar[bool] = True
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the contrast, the paper's mu."""
    temperature: Annotated[float, Field(gt=0)] = 0.5
    """Of the contrast."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains the common model on its own data, close to the features of the "
            "common model and far from those that it had itself. After each session all take the "
            "mean of what they have, summed over a ring."
        )

    @property
    def compared(self) -> dict[str, list[str]]:
        """The deep map, if the contrast has a weight."""
        return {"deep": ["algorithm.weight"]} if self.weight else {}

    @property
    def idle(self) -> dict[str, str]:
        """What says how the contrast is, where there is none."""
        if self.rounds == 1:
            why = "there is something to contrast with from the second round on"
            return {"weight": why, "temperature": why}
        return {} if self.weight else {"temperature": "weight is 0"}


class Scaffold(AveragingKeys):
    """SCAFFOLD (Karimireddy et al. 2020): FedAvg whose gradients are corrected for every hospital's
    drift.
    """

    base_sessions: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains the common model on its own data and corrects its gradients by "
            "their difference from the mean of all. After each session all take the mean of models "
            "and of gradients, summed over a ring."
        )


class DPSGD(GossipKeys):
    """D-PSGD (Lian et al. 2017): every hospital mixes its model with those of some others in every
    round.
    """

    base_sessions: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every model travels to some hospitals, which keep a copy, and comes home. There the "
            "own model becomes the mean of itself and of those that came, and trains alone."
        )


class DFML(CirculationKeys):
    """DFML (Khalil et al. 2024): visitor and resident learn from each other, more and less by turns
    from round to round, and both go on.
    """

    one_label: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    peak: Annotated[float, Field(ge=0, le=1)] = 0.8
    """The highest weight of the Kullback-Leibler divergences; that of the labels is what is left to
    1. In the first round of a cycle it is 0."""
    cycle: Annotated[int, Field(ge=2, le=1000)] = 2
    """Rounds after which the weights are the same again. What is tested is the model after the last
    round of the highest weight, or after the last of all where there was none."""
    schedule: Schedule = Schedule(mode="sequential", order="shuffled", visits=1)
    """See fedskd. As it is, every model in its turn visits one other hospital, which is drawn."""

    def weight_in(self, round_: int) -> float:
        """Return the weight of the divergences in a round, counted from 1."""
        return self.peak / 2 * (1 - cos(2 * pi * (round_ - 1) / self.cycle))

    def is_peak(self, round_: int) -> bool:
        """Whether the weight is highest in a round."""
        return round_ > 0 and (round_ - 1) % self.cycle == self.cycle // 2

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "A model travels; at every stop visitor and resident train on the host's data and "
            "teach each other by their predictions, in some rounds more than in others. Both go on."
        )

    @property
    def idle(self) -> dict[str, str]:
        """Both keys, where there is one round only."""
        why = "in the first round of a cycle nobody teaches"
        return {"peak": why, "cycle": why} if self.rounds == 1 else {}
