"""How any model trains at a hospital, and what a hospital predicts with in the end: the same for
every algorithm.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, NonNegative, Part, Positive, Share


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


class Training(Part):
    """The sessions in which models learn."""

    epochs: Count = 1
    """Passes over the host's training data in a session."""
    warmup_epochs: Count = 2
    """Passes over the own training data before the first round."""
    batch_size: Annotated[int, Field(ge=2)] = 32
    """Samples in a mini-batch; all models of a session see the identical tensor. A hospital with
    fewer training samples has one mini-batch of them all in an epoch, so one gradient step."""
    batches: Count | None = None
    """Mini-batches that count as a pass, at most: a session is then shorter. null: all of them."""
    optimiser: Optimiser = Optimiser()
    """Settings of the gradient steps."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of forward and backward passes in sessions; tf32: on CUDA, products and
    convolutions take 10 bits of their factors' mantissas, on a CPU the same as fp32; bf16:
    bfloat16 where PyTorch's autocast allows it, weights, losses and everything that travels or is
    measured stay fp32. For GPUs, and CPUs with instructions for it."""
    deterministic: bool = True
    """On CUDA, only kernels that give the same bytes each time on one type of card; false: faster
    ones where there are some. A CPU always computes so."""
    memory_format: Literal["contiguous", "channels_last", "auto"] = "contiguous"
    """How models of images and volumes lie in memory. On a CPU channels_last was faster for large
    images, on a GPU slower for networks with GroupNorm, which has no kernel for it; auto: on CUDA
    channels_last for networks without GroupNorm, everything else contiguous. What travels is the
    same."""
    recorded_steps: bool = True
    """On CUDA, the steps of a session are recorded once for a pair of architectures, as CUDA
    graphs, and replayed; where that cannot be, the record says why. The same bytes as without, and
    small networks up to 11 times faster. A CPU takes no notice."""
    recorded_gib: Positive | None = None
    """GiB that recorded steps of a hospital may keep on its device; beyond that all give way.
    null: half of the card's memory, shared by the hospitals that compute on it."""
    compile: bool = False
    """On CUDA, networks of recorded steps are compiled first: other bytes, as repeatable. It takes
    about a minute for each large network and pays in long runs at 224 pixels, with bf16 most; a C
    compiler must be there. Only steps are of which a session has at least four of a kind. What
    cannot be compiled is recorded as it is, and the record says so."""
    class_weights: Literal["sqrt_inverse", "none"] = "sqrt_inverse"
    """Weights of the host's cross-entropy: one over the square root of the class frequency, or
    none."""
    augment: bool = True
    """Random flips and transposition of images, the same for all models of a session."""
    max_rollbacks: Count = 3
    """Sessions in a row that a hospital may roll back for a non-finite loss before the run ends."""

    def batch_sizes(self, samples: int) -> list[int]:
        """Return the sizes of the mini-batches of a pass over so many samples, as
        `fedskd_sim.learning.data.batches` cuts them; ``batches`` is not applied.
        """
        rest = samples % self.batch_size
        whole = [self.batch_size] * (samples // self.batch_size)
        return whole + ([rest] if rest > 1 or samples == 1 else [])


class Instruments(Part):
    """What is measured beyond accuracy and parameter drift; it costs time and changes nothing
    that is learned.
    """

    changes: bool = False
    """How much a session changed a model as a function: drift of its representation (CKA), and
    churn of its answers, both on the host's validation data."""
    probe: bool = False
    """Simulation only, no real federation could do it: after every session the visitor, at home
    the model that sets out next, is measured on the validation data of ALL hospitals, from which
    forgetting, backward transfer and dilution are computed."""
    evaluate_on: Literal["test", "validation"] = "test"
    """What the evaluation round measures on; validation: to choose settings without a look at the
    test data."""
    predictions: bool = True
    """What every model that the evaluation round tests says of every patient of its host, in one
    file per hospital, with the ids of the samples. It stays in the run folder; the report reads
    it."""
    keep_hops: NonNegative = 0.0
    """GiB in the run folder, for all hospitals together, in which sessions are kept as they were
    before and after, so that ``fedskd-sim verify RUN --replay N`` can execute them again; which
    ones is drawn, where there is no room for all. 0: none. It holds models of all hospitals."""


class Prediction(Part):
    """What a hospital uses in the end; it can be added to any algorithm."""

    model: Literal["reconciled", "last", "averaged", "mix"] = "reconciled"
    """reconciled: the home model of the algorithm; last: its traveller as it came home; averaged:
    the mean of the model's own snapshots, which travels along and doubles the bytes; mix: halfway
    between last and averaged."""
    averaging_weight: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Smallest weight of the newest snapshot in the averaged weights: after i snapshots
    max(averaging_weight, 1 / (i + 1))."""
    ensemble: bool = False
    """Every hospital keeps the finished models of all and averages their predicted probabilities:
    K-fold storage and inference, and the other hospitals' final weights stay with everybody."""
    logit_adjustment: Share = 0.0
    """Exponent of the correction for label skew: decide by p_c / (mean p_c on the own validation
    images)^logit_adjustment; 0: none."""

    @property
    def keeps_averaged(self) -> bool:
        """Return whether averaged weights travel along."""
        return self.model in ("averaged", "mix")
