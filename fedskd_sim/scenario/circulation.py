"""What algorithms are made of: the keys of all, and of those in which models circulate distillation
by similarity, self-distillation, and the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, NonNegative, Part, Plain, Share

CommunicationPattern = Literal["circulation", "all_reduce", "none"]
"""How models move in a round, see `fedskd_sim.ring.topology`."""
GridSize = Annotated[int, Field(ge=1, le=64)]
NetworkPart = Literal["head", "norm"]
"""What some algorithms treat apart: the head of a network, or all of its normalisations."""
Tap = Literal["mid", "deep"]
"""A map of a model that levels compare: a middle stage's or the last one's, see `fedskd-sim
models`."""


class Similarity(Part):
    """Similarity distillation between visitor and resident; each weight 0 switches its level
    off.
    """

    distance: Literal["corr", "mse", "row", "cka"] = "corr"
    """Distance between two item-by-item similarity matrices; corr = 1 - Pearson correlation off the
    diagonal."""
    batch: NonNegative = 0.1
    """Weight of the batch level: patients compared with patients."""
    pixel: NonNegative = 0.1
    """Weight of the pixel level: places compared with places within each image."""
    region: NonNegative = 0.1
    """Weight of the region level: regions compared with regions within each image."""
    batch_tap: Tap = "deep"
    """Map that the batch level compares, and self-distillation too."""
    pixel_tap: Tap = "mid"
    """The same for the pixel level."""
    region_tap: Tap = "deep"
    """The same for the region level."""
    pixel_grid: GridSize | None = None
    """Height and width of the grid both maps of the pixel level are pooled to; null: the coarsest
    of all hospitals' maps."""
    region_grid: GridSize = 4
    """Height and width of the region grid."""
    to_visitor: NonNegative = 1.0
    """Factor on what the visitor learns from the resident."""
    to_resident: NonNegative = 1.0
    """Factor on what the resident learns from the visitor."""
    ramp: Share = 0.3
    """Share of a session over which the weights rise from 0."""

    @property
    def off(self) -> bool:
        """Return whether no level has a weight."""
        return not (self.batch or self.pixel or self.region)

    def with_weights(self, own: SelfDistillation) -> Similarity:
        """Return what keeps a visitor close to its past: the weights of ``own`` on the same maps,
        grids and distance.
        """
        weights = {"batch": own.batch, "pixel": own.pixel, "region": own.region}
        return self.model_copy(update={**weights, "to_visitor": 1.0, "to_resident": 1.0})


class SelfDistillation(Part):
    """What keeps a visitor close to the model that it was on arrival."""

    kl: NonNegative = 0.0
    """Weight of the Kullback-Leibler divergence from its predictions on arrival."""
    batch: NonNegative = 0.0
    """Weight of the batch-level distance to itself on arrival."""
    pixel: NonNegative = 0.0
    """Weight of the pixel-level distance to itself on arrival."""
    region: NonNegative = 0.0
    """Weight of the region-level distance to itself on arrival."""


class Schedule(Part):
    """Who visits whom when."""

    mode: Literal["parallel", "sequential"] = "parallel"
    """``parallel``: all models travel at once, and a copy stays at home. ``sequential``: one model
    travels at a time, in ring order, and exists once; coming home takes no session, and nothing is
    reconciled. It is the reference for small federations."""
    order: Literal["fixed", "shuffled"] = "fixed"
    """``fixed``: the ring is the scenario's order of hospitals. ``shuffled``: every round has an
    order of its own, drawn from the seed."""
    visits: Count | None = None
    """How many hospitals a model visits in a round before it comes home, for large rings. The next
    round continues with others. null: all."""


class AlgorithmKeys(Part):
    """Base of the keys of an algorithm in a scenario. Fields of your subclass are further keys.

    Class variables and properties say what a run has to know of the algorithm before its learner is
    imported. Override those that differ.
    """

    pattern: ClassVar[CommunicationPattern] = "none"
    """What travels in a round: models (circulation), sums (all_reduce), or nothing (none). Gossip
    is a circulation."""
    warms_up: ClassVar[bool] = True
    """Whether models train alone before the first round."""
    learns: ClassVar[bool] = True
    """Whether it has models and data, and so needs PyTorch."""
    pools: ClassVar[bool] = False
    """Whether every model trains on the data of all hospitals, in one process."""
    averages: ClassVar[bool] = False
    """Whether all hospitals train one model, of one architecture."""
    alike: ClassVar[NetworkPart | None] = None
    """A part of a network, ``head`` or ``norm``, that must have the same form at all hospitals that
    train, since they exchange it or what enters it. Others are refused."""
    one_label: ClassVar[bool] = False
    """Whether each sample must be of one class. Data with several labels per sample are then
    refused."""
    personal: ClassVar[bool] = False
    """Whether the tested model is a hospital's own, other than the common model and the model of
    its last record."""
    keeps_models: ClassVar[bool] = False
    """Whether sums travel while each hospital keeps its model, which departs for the evaluation as
    the last session left it. ``verify`` then compares the two."""
    base_sessions: ClassVar[bool] = False
    """Whether its learner does not override sessions, visits and homecomings of its base.
    ``verify`` then checks their numbers too."""
    name: str
    """The name of the algorithm."""
    rounds: Count = 2
    """Rounds of training."""
    loss: str | None = None
    """The name of a loss of your own, which is added to the cross-entropies of every session or
    takes their place; null: none."""
    options: dict[str, Plain] = {}
    """Arguments of that loss, by name."""

    @property
    def words(self) -> str:
        """A sentence for reports: what travels, and who trains with whom."""
        return "An algorithm of your own."

    @property
    def settings(self) -> dict[str, Any]:
        """All keys with their values, as plain data."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def compared(self) -> Mapping[str, Sequence[str]]:
        """The maps, ``mid`` and ``deep``, at which it compares models, each with the keys of the
        weights, such as ``algorithm.weight``. A network in which nothing trains such a map is
        refused.
        """
        return {}

    @property
    def needs(self) -> Mapping[NetworkPart, str]:
        """The parts of a network, ``head`` and ``norm``, that it treats apart, each with the key
        that asks for it, such as ``algorithm.shared``. A network without the part is refused.
        """
        return {}

    @property
    def idle(self) -> Mapping[str, str]:
        """Keys that have no effect with these values, such as ``weight``, each with the reason,
        which ``validate`` notes.
        """
        return {}

    def work(self, size: int) -> float:  # noqa: ARG002 - of most it does not depend on it
        """Return the work of a round among ``size`` hospitals, per hospital: 1 is what a session
        trains, ``training.epochs`` passes of one model over the hospital's training data.
        """
        return 1.0
