"""What scenarios may say of the methods in this package; imports no PyTorch."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fedskd_sim import AllReduceKeys, AveragingKeys, NamedArchitecture


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
