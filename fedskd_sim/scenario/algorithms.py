"""How the hospitals learn: one class per algorithm, chosen by ``algorithm.name``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, NonNegative, Part, Positive, Share

Grid = Annotated[int, Field(ge=1, le=64)]


class Similarity(Part):
    """Similarity distillation between visitor and resident; each weight 0 switches its level off."""

    distance: Literal["corr", "mse", "row", "cka"] = "corr"
    """Distance between two item-by-item similarity matrices; corr = 1 - Pearson correlation off the diagonal."""
    batch: NonNegative = 0.1
    """Weight of the batch level: patients compared with patients, deep tap."""
    pixel: NonNegative = 0.1
    """Weight of the pixel level: places compared with places within each image, middle tap."""
    region: NonNegative = 0.1
    """Weight of the region level: regions compared with regions within each image, deep tap."""
    pixel_grid: Grid | None = None
    """Height and width of the grid both middle maps are pooled to; null: the coarsest middle map of all hospitals."""
    region_grid: Grid = 4
    """Height and width of the region grid."""
    to_visitor: NonNegative = 1.0
    """Factor on what the visitor learns from the resident."""
    to_resident: NonNegative = 1.0
    """Factor on what the resident learns from the visitor."""
    ramp: Share = 0.3
    """Share of a session over which the weights rise from 0."""


class Optimiser(Part):
    """AdamW, made anew for every session: optimiser state does not travel."""

    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-2
    """Decoupled weight decay."""
    clip: Positive = 2.0
    """Largest gradient norm of each model."""
    ramp: Share = 0.2
    """Share of a session over which the learning rate rises from 0."""


class FedSKD(Part):
    """Circulation with similarity distillation: visitor and resident train together at every stop."""

    name: Literal["fedskd"]
    """Parallel circulation, homecoming session, reconciliation, evaluation round."""
    rounds: Count = 2
    """Full circulations: K-1 visits and a homecoming session each."""
    epochs: Count = 1
    """Passes over the host's training data in a session."""
    warmup_epochs: Count = 2
    """Passes over the own training data before a model first sets out."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Samples in a mini-batch; both models see the identical tensor."""
    optimiser: Optimiser = Optimiser()
    """Settings of the gradient steps."""
    similarity: Similarity = Similarity()
    """Weights and form of the distillation."""
    reconcile: Literal["average", "two_track", "replace", "select"] = "average"
    """What home does with resident and returned traveller: mean with a guard, keep both, take the traveller, or the better."""
    class_weights: Literal["sqrt_inverse", "none"] = "sqrt_inverse"
    """Weights of the host's cross-entropy: one over the square root of the class frequency, or none."""
    augment: bool = True
    """Random flips and transposition, the same for both models."""
    max_rollbacks: Count = 3
    """Sessions in a row that a hospital may roll back for a non-finite loss before the run ends."""


class Placebo(Part):
    """Tests the machinery: buffers travel, nothing is learned, PyTorch is never imported."""

    name: Literal["placebo"]
    """No learning."""
    rounds: Count = 1
    """Full circulations."""
    buffer_bytes: Annotated[int, Field(ge=0, le=2**33)] = 1024
    """Size of each travelling model in bytes."""
    session_seconds: NonNegative = 0.0
    """How long a session pretends to work."""
    behaviour: Literal["ok", "stall", "crash", "abort"] = "ok"
    """What ``culprit`` does at its first hop: nothing special, keep the visitor for ever, die, or end the run with an error."""
    culprit: str = ""
    """The hospital that misbehaves."""


Algorithm = Annotated[FedSKD | Placebo, Field(discriminator="name")]
