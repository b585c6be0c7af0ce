"""Algorithms that sum something over the ring after every local session: models, a common model
beside the own one, prototypes.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedskd_sim.scenario.circulation import CommunicationPattern
from fedskd_sim.scenario.part import Architecture, Count, NonNegative, Part, Positive, with_a_name


class FedAvg(Part):
    """Federated averaging (McMahan et al. 2017) of one architecture, by ring all-reduce instead
    of a server.
    """

    pattern: ClassVar[CommunicationPattern] = "all_reduce"
    warms_up: ClassVar[bool] = False
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

    def work(self, size: int) -> float:  # noqa: ARG002 - every hospital works for itself
        """One session."""
        return 1.0


class FedProx(Part):
    """FedAvg whose local sessions are held close to the common model (Li et al. 2020)."""

    pattern: ClassVar[CommunicationPattern] = "all_reduce"
    warms_up: ClassVar[bool] = False
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

    def work(self, size: int) -> float:  # noqa: ARG002 - every hospital works for itself
        """One session."""
        return 1.0


class FML(Part):
    """Federated mutual learning (Shen et al. 2020): an own model of any architecture beside a
    small common one that is averaged.
    """

    pattern: ClassVar[CommunicationPattern] = "all_reduce"
    warms_up: ClassVar[bool] = True
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


class FedProto(Part):
    """Prototypes instead of models (Tan et al. 2022): the mean features of every class, summed
    over the ring.
    """

    pattern: ClassVar[CommunicationPattern] = "all_reduce"
    warms_up: ClassVar[bool] = True
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

    def work(self, size: int) -> float:  # noqa: ARG002 - every hospital works for itself
        """One session."""
        return 1.0
