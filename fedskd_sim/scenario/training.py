"""How any model trains at a hospital, and what a hospital predicts with in the end: the same for
every algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from fedskd_sim.scenario.part import Count, NonNegative, Part, Positive, Share, with_a_name

BelowOne = Annotated[float, Field(ge=0, lt=1)]
ArithmeticName = Literal["fp32", "tf32", "bf16"]
LayoutName = Literal["contiguous", "channels_last", "auto"]
KEPT = BeforeValidator(lambda given: "anonymous" if given is True else given)
"""A true of earlier scenarios: predictions are kept, as by default."""


class ForeignKey(NamedTuple):
    """A key that is given to something that has no such option, and who has it."""

    key: str
    name: str
    owners: tuple[str, ...]


class RateSchedule(Part):
    """How the learning rate goes on after its rise: by its name alone, or with options."""

    name: Literal["constant", "cosine", "step"] = "constant"
    """``constant``: the peak. ``cosine``: half a wave from the peak down to ``floor``.
    ``step``: the peak times ``factor`` from each of the ``milestones`` on."""
    over: Literal["session", "run"] = "session"
    """What passes meanwhile. ``run``: all rounds, with the warm-up at their beginning. They are
    counted by round and hop and not by a clock, so that a session that is repeated is the same."""
    floor: Share = 0.0
    """Of cosine: the share of the peak at the end."""
    milestones: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, strict=False)
    ] = (0.5, 0.75)
    """Of step: the shares of the session, or of the run, from which on the rate is lower."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of step: by what the rate is multiplied at each of them."""

    def at(self, done: float) -> float:
        """Return the factor on the peak when a share of all steps, 0 to 1, is done."""
        if self.name == "cosine":
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        if self.name == "step":
            return float(self.factor ** sum(done >= one for one in self.milestones))
        return 1.0

    @property
    def words(self) -> str:
        """Describe it; nothing where it is constant."""
        how = {
            "cosine": f"cosine to {self.floor:g} of its peak",
            "step": f"times {self.factor:g} at {', '.join(f'{one:g}' for one in self.milestones)}",
        }.get(self.name)
        return f"learning rate {how} over the {self.over}" if how else ""


OWNERS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "optimiser": {
            "momentum": ("sgd",),
            "nesterov": ("sgd",),
            "betas": ("adamw", "adam"),
            "epsilon": ("adamw", "adam"),
        },
        "schedule": {
            "over": ("cosine", "step"),
            "floor": ("cosine",),
            "milestones": ("step",),
            "factor": ("step",),
        },
    }
)
"""Which optimisers and schedules have an option that not all have."""


class Optimiser(Part):
    """What takes the gradient steps, made anew for every session: its state does not travel."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw (Loshchilov and Hutter 2019), adam (Kingma and Ba 2015), or sgd with momentum."""
    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    weight_decay: NonNegative = 1e-2
    """Weight decay: decoupled with adamw; with adam and sgd it is added to the gradient, times
    the weight."""
    momentum: BelowOne = 0.9
    """Of sgd; 0: none."""
    nesterov: bool = False
    """Of sgd: look ahead along the momentum, which must not be 0."""
    betas: Annotated[tuple[BelowOne, BelowOne], Field(strict=False)] = (0.9, 0.999)
    """Of adamw and adam: how slowly the means of gradient and squared gradient move."""
    epsilon: Positive = 1e-8
    """Of adamw and adam: what is added to the root of the latter."""
    clip: Positive = 2.0
    """Largest gradient norm of each model."""
    ramp: Share = 0.2
    """Share of a session over which the learning rate rises from 0."""
    schedule: Annotated[RateSchedule, with_a_name(str | RateSchedule)] = RateSchedule()
    """How it goes on from there."""

    def foreign_keys(self) -> Iterator[ForeignKey]:
        """Yield the options that are not as by default and that neither this optimiser nor its
        schedule has.
        """
        for under, part in (("", self), ("schedule", self.schedule)):
            for key, owners in OWNERS[under or "optimiser"].items():
                # a file that was written whole has the default of every option
                default = type(part).model_fields[key].default
                if part.name not in owners and getattr(part, key) != default:
                    yield ForeignKey(f"{under}.{key}".lstrip("."), part.name, owners)

    @property
    def words(self) -> str:
        """Describe what is not as it is by default; nothing where all is."""
        by = ""
        if self.name == "sgd":
            by = f"sgd with {'Nesterov ' * self.nesterov}momentum {self.momentum:g}"
        elif self.name != "adamw" or (self.betas, self.epsilon) != ((0.9, 0.999), 1e-8):
            first, second = self.betas
            by = f"{self.name} with betas {first:g} and {second:g}, epsilon {self.epsilon:g}"
        return "; ".join(one for one in (by, self.schedule.words) if one)


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
    accumulate: Count = 1
    """Mini-batches whose gradients' mean is one gradient step; a model's last step of a session
    has those that are left."""
    label_smoothing: BelowOne = 0.0
    """Share of every label that is spread over all classes, in the cross-entropy."""
    focal: NonNegative = 0.0
    """Exponent gamma of the focal loss (Lin et al. 2017), in the place of the cross-entropy: a
    sample counts (1 - p)^gamma, p being the probability of its label; 0: the cross-entropy."""
    patience: Count | None = None
    """A session ends early when so many passes have lowered the validation loss of none of the
    models that train in it. Each model then leaves as it was after its best pass. With null a
    session never ends early, and models leave as they are."""
    precision: ArithmeticName = "fp32"
    """Arithmetic of forward and backward passes in sessions. ``tf32``: on CUDA, products and
    convolutions take 10 bits of their factors' mantissas; on a CPU the same as ``fp32``.
    ``bf16``: bfloat16 where PyTorch's autocast allows it; weights, losses and everything that
    travels or is measured stay fp32. For GPUs, and CPUs with instructions for it. ``fedskd-sim
    tune`` measures what is faster."""
    deterministic: bool = True
    """On CUDA, only kernels that give the same bytes each time on one type of card; false: faster
    ones where there are some. A CPU always computes so."""
    memory_format: LayoutName = "contiguous"
    """How models of images and volumes lie in memory. On a CPU ``channels_last`` was faster for
    most networks; those with a strided 1x1 convolution of fewer than 16 channels stay contiguous
    there, since PyTorch's library may corrupt memory. On a GPU it was slower for networks with
    GroupNorm, which has no kernel for it. ``auto``: on CUDA ``channels_last`` for networks without
    GroupNorm, everything else ``contiguous``. What travels is the same."""
    recorded_steps: bool = True
    """On CUDA, the steps of a session are recorded once for a pair of architectures, as CUDA
    graphs, and replayed; where that cannot be, the record says why. The same bytes as without, and
    small networks up to 11 times faster. A CPU takes no notice."""
    recorded_gib: Positive | None = None
    """GiB that recorded steps of a hospital may keep on its device; beyond that all give way. With
    null it is half of the card's memory, shared by the hospitals that compute on it."""
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

    @property
    def words(self) -> str:
        """Describe optimiser, loss and end of sessions, as far as they are not as by default, for
        records.
        """
        found = (
            self.optimiser.words,
            f"gradients of {self.accumulate} mini-batches" if self.accumulate > 1 else "",
            f"label smoothing {self.label_smoothing:g}" if self.label_smoothing else "",
            f"focal loss with gamma {self.focal:g}" if self.focal else "",
            f"sessions end after {self.patience} passes without a lower validation loss"
            if self.patience
            else "",
        )
        return "; ".join(one for one in found if one)

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
    """Simulation only, no real federation could do it: after every session the visitor is measured
    on the validation data of ALL hospitals; at home, the model that sets out next. Forgetting,
    backward transfer and dilution are computed from it."""
    probe_similarity: bool = False
    """Similarity matrices of visitor and resident before and after every stop, on the host's first
    16 validation samples, at batch, pixel and region level; and CKA between all final models. One
    file for each stop, in ``similarity/`` of the run folder; the page draws them."""
    pictures: bool = False
    """With ``probe_similarity``, for images: the pictures of those samples too, in ``pictures/``
    and on the page. They show patients: think before you pass the run folder on."""
    evaluate_on: Literal["test", "validation"] = "test"
    """What the evaluation round measures on. ``validation``: to choose settings without a look at
    the test data."""
    predictions: Annotated[Literal[False, "anonymous", "named"], KEPT] = "anonymous"
    """What every model that the evaluation round tests says of every patient of its host, in one
    file per hospital. ``anonymous``: a patient is a row of the hospital's own data. ``named``: an
    id of the source. ``false``: no file. It stays in the run folder; the report reads it."""
    keep_hops: NonNegative = 0.0
    """GiB in the run folder, for all hospitals together, in which sessions are kept as they were
    before and after. ``fedskd-sim verify RUN --replay N`` can execute them again. Where there is no
    room for all, it is drawn which are kept. 0: none. It holds models of all hospitals."""


class Audit(Part):
    """What ``fedskd-sim audit RUN`` needs of a run. Accuracies of a run with canaries are not the
    method's.
    """

    canaries: Annotated[int, Field(ge=0, le=100_000)] = 60
    """Samples made for each hospital, of which about half are trained on, by coins of the seed.
    They give a lower bound of epsilon; 0: members and outsiders alone, and nothing is changed."""
    kind: Literal["shuffled"] = "shuffled"
    """shuffled: training samples of the hospital with their entries in another order, and a label
    that is drawn."""


class Prediction(Part):
    """What a hospital uses in the end; it can be added to any algorithm."""

    model: Literal["reconciled", "last", "averaged", "mix"] = "reconciled"
    """``reconciled``: the home model of the algorithm. ``last``: its traveller as it came home.
    ``averaged``: the mean of the model's own snapshots, taken at home and sent to nobody before the
    end. ``mix``: halfway between ``last`` and ``averaged``."""
    averaging_weight: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest weight of the newest snapshot in the averaged weights. After i snapshots the weight
    is max(averaging_weight, 1 / (i + 1)). ``null``: 0.5 for models that circulate, which have two
    snapshots in a round, and 0.3 for others."""
    ensemble: bool = False
    """Every hospital keeps the finished models of all and averages their predicted probabilities:
    K-fold storage and inference, and the other hospitals' final weights stay with everybody."""
    logit_adjustment: Share = 0.0
    """Exponent of the correction for label skew: decide by p_c / (mean p_c on the own validation
    images)^logit_adjustment; 0: none."""

    @property
    def keeps_averaged(self) -> bool:
        """Return whether averaged weights are kept."""
        return self.model in ("averaged", "mix")

    def least_weight(self, *, circulating: bool) -> float:
        """Return the smallest weight of the newest snapshot, of a model that circulates or not."""
        return self.averaging_weight or (0.5 if circulating else 0.3)


class Target(Part):
    """What a whole run may spend of a hospital's privacy."""

    epsilon: Positive
    """Epsilon of all steps on the hospital's data together; the noise follows from it."""


class Privacy(Part):
    """How a hospital trains without giving away any one of its patients (differential privacy,
    DP-SGD of Abadi et al. 2016). A hospital's own keys override the scenario's; null there: none.
    """

    unit: Literal["patient", "sample"] = "patient"
    """Whose presence is hidden: a patient with all samples, where the data says whose they are, or
    a single sample."""
    clip: Positive = 1.0
    """Largest norm of what one unit adds to the gradient of a step."""
    noise: NonNegative | None = None
    """Standard deviation of the noise on the sum of a step, in units of ``clip``. 0: clipping
    alone, which makes attacks harder and guarantees nothing. null: see target."""
    target: Target | None = None
    """In place of noise: what the run may spend."""
    budget: Positive | None = None
    """With noise: the epsilon after which the hospital trains nothing more. null: none."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The chance with which the guarantee may fail. null: 0.1 over the number of units."""
    batch: Count | None = None
    """Units expected in a step, each drawn by a coin of its own. null: ``training.batch_size``."""
    spent: Literal["pass", "stop"] = "pass"
    """What happens when the budget is spent: pass, visitors go on untrained and their records say
    why; stop, the run ends with code 64."""
    key: Literal["secret", "scenario"] = "secret"
    """From what coins and noise follow. secret: the hospital draws a key that only its custody
    holds. scenario: the seed, so that all can repeat the run, which guarantees nothing."""

    @property
    def limit(self) -> float | None:
        """Epsilon that may be spent in all; None: nothing is said of it."""
        return self.target.epsilon if self.target else self.budget
