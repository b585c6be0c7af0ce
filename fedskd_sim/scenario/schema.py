"""The scenario itself, and equal work for every algorithm: sample-gradients per hospital, in passes
of one model over the hospital's training data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, JsonValue

from fedskd_sim.scenario.algorithms import FedSKD
from fedskd_sim.scenario.circulation import AlgorithmKeys, Schedule
from fedskd_sim.scenario.datasets import AnyKeys, Dataset, NoData
from fedskd_sim.scenario.faults import Fault, Link, OnLoss
from fedskd_sim.scenario.own import Algorithm, OwnAlgorithm
from fedskd_sim.scenario.part import (
    SIZE,
    Architecture,
    Count,
    Part,
    Seconds,
    SomeSeconds,
    with_a_name,
)
from fedskd_sim.scenario.training import (
    ArithmeticName,
    Audit,
    Instruments,
    LayoutName,
    Prediction,
    Privacy,
    Training,
)

NAME = r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$"
GATEWAY = r"^(https?://[^\s/]+(/\S*)?)?$"
DEVICE = r"^(auto|cpu|cuda(:[0-9]+)?)$"
PATTERNS = {
    NAME: "use lower-case letters, digits and inner dashes, at most 40 of them, as in 'north-1'",
    GATEWAY: "write http:// or https://, a host and a port, as in http://127.0.0.1:9091",
    DEVICE: "write cpu, cuda, cuda:N or auto",
    SIZE: "write a number and a unit (Ki, Mi, Gi, Ti, k, M, G or T), as in 2Gi",
}
"""What the patterns of this schema ask for, in words."""
MOST_TOLD = 6
CANARIES = "trained with canaries ({} for each hospital), not the method's accuracy"
"""Faults and links that are told wherever a run is shown; its page has all."""
Port = Annotated[int, Field(ge=0, le=65535)]


class Resources(Part):
    """What one hospital may use."""

    cpu: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of numerical work; part of the result's identity, because sums depend on it."""
    memory: Annotated[str, Field(pattern=SIZE)] = "2Gi"
    """Memory asked for in a cluster; local runs note their peak in the timings and do not enforce
    it."""
    gpu: Annotated[int, Field(ge=0, le=16)] = 0
    """Whole devices asked for in a cluster."""
    samples: Literal["memory", "disk"] = "memory"
    """Where samples from files lie while the hospital works: in memory, or in a file of the folder
    for temporary files (``TMPDIR``), of which the next mini-batch is read ahead. Results are the
    same."""


ON_A_CPU = {"tf32": "fp32", "auto": "contiguous"}
"""What these precisions and memory formats are on a CPU."""


class Hospital(Part):
    """A participant: a name, an architecture, private data."""

    name: Annotated[str, Field(pattern=NAME)]
    """Lower-case letters, digits and dashes, at most 40: it is address, metric label and host
    name."""
    architecture: Annotated[Architecture, with_a_name(str | Architecture)]
    """The architecture of this hospital's model."""
    data: Annotated[Dataset, AnyKeys()] = NoData()
    """Overrides keys of the top level's ``data``; another ``name`` than there begins afresh."""
    device: Annotated[str, Field(pattern=DEVICE)] = "cpu"
    """Where it computes: ``cpu``, ``cuda`` or ``cuda:N``. ``auto``: the first CUDA device that its
    process sees, or the CPU where there is none, so that one scenario serves both. The device is
    part of the result's identity."""
    resources: Resources = Resources()
    """What it may use."""
    held_out: bool = False
    """It never trains and sends no model: the finished models of the others are tested on its data,
    which none has ever seen."""
    privacy: Privacy | None = None
    """Overrides keys of the top level's ``privacy``; null: it has none."""
    precision: ArithmeticName | None = None
    """Arithmetic of sessions here, in place of ``training.precision``. A visitor computes in it
    too while it is here, and travels in fp32."""
    memory_format: LayoutName | None = None
    """How models lie in memory here, in place of ``training.memory_format``. What travels is the
    same."""

    @property
    def own_arithmetic(self) -> dict[str, str]:
        """What this hospital has in place of the same keys of ``training``."""
        given = {"precision": self.precision, "memory_format": self.memory_format}
        return {key: value for key, value in given.items() if value}

    def other_arithmetic(self, training: Training) -> dict[str, str]:
        """Return what of `own_arithmetic` makes its sessions other ones than ``training`` does."""
        known = ON_A_CPU if self.device == "cpu" else {}
        own = self.own_arithmetic.items()
        common = {key: getattr(training, key) for key, _ in own}
        return {
            key: value
            for key, value in own
            if known.get(value, value) != known.get(common[key], common[key])
        }

    def arithmetic_in_words(self, training: Training, *, grids: bool) -> str:
        """Describe `other_arithmetic` for records; ``grids``: models take images or volumes."""
        found = self.other_arithmetic(training)
        said = [
            f"training.{key} {value}" for key, value in found.items() if grids or key == "precision"
        ]
        return f"here with {' and '.join(said)}" if said else ""

    @property
    def privacy_is_secret(self) -> bool:
        """Return whether its sessions follow from a key that only its custody holds."""
        secret = self.privacy is not None and self.privacy.key == "secret"
        return secret and not self.held_out


class Network(Part):
    """The links between hospitals when they are processes of their own."""

    transport: Literal["ipc", "tcp"] = "ipc"
    """``ipc``: Unix sockets in a private folder. ``tcp``: loopback TCP with CURVE keys made by the
    launcher."""
    plaintext: bool = False
    """Say true to run tcp without encryption: whoever can read the traffic of this machine can then
    read the models."""
    port: Port = 0
    """First TCP port: the controller's; hospital number i listens on port + i. 0 takes any free
    ones."""
    inbox: Count = 2
    """Visitors that may wait at a hospital; more stay with their sender."""


class Metrics(Part):
    """The Prometheus end point of every hospital."""

    port: Port = 0
    """Hospital number i (from 1) serves /metrics on port + i; 0 takes any free ones."""
    linger: Seconds = 0.0
    """Seconds a finished hospital stays up, so that a last scrape sees its last values."""
    push: Annotated[str, Field(pattern=GATEWAY)] = ""
    """Address of a Pushgateway, as in ``http://127.0.0.1:9091``: every hospital pushes its last
    values there as its process ends. '' pushes nothing. A push that fails is logged and changes
    nothing."""


class Timeouts(Part):
    """Every wait has a deadline; seconds."""

    register_: Annotated[SomeSeconds, Field(alias="register")] = 60.0
    """Until all hospitals have registered with the controller."""
    hop: SomeSeconds = 600.0
    """Until the next visitor arrives: longer than the slowest session of the predecessor."""
    acknowledgement: SomeSeconds = 120.0
    """Until the next hospital confirms that it has a departed model safe."""
    retry: SomeSeconds = 10.0
    """Until an unconfirmed departure is sent again; doubles with each try."""
    goodbye: SomeSeconds = 5.0
    """So often a finished hospital asks if the run goes on; three times in vain, and it leaves."""
    stop: SomeSeconds = 5.0
    """Between asking processes to stop and killing them."""


class Custody(Part):
    """What every hospital keeps on disk, so that it survives its death and the run can be
    resumed; records do not depend on it.
    """

    enabled: bool = True
    """Say false to keep nothing: a run then dies with any of its hospitals."""
    folder: str = ""
    """Where, on this machine; the default is ``custody`` in the run folder."""
    keep: Count = 2
    """Good states of each hospital that stay, the newest first to be used."""
    restarts: Annotated[int, Field(ge=0, le=1000)] = 2
    """How often in a row, without a record in between, a hospital that was killed is started
    again."""


class HospitalChange(Part):
    """What a hospital has otherwise in a variant; its data and its place among those that train
    stay, or nothing could be paired.
    """

    architecture: Annotated[Architecture | None, with_a_name(str | Architecture | None)] = None
    """Another architecture of its model."""
    device: Annotated[str, Field(pattern=DEVICE)] | None = None
    """Where it computes."""
    resources: Resources | None = None
    """What it may use."""
    precision: ArithmeticName | None = None
    """Arithmetic of sessions there."""
    memory_format: LayoutName | None = None
    """How models lie in memory there."""

    def of(self, hospital: Hospital) -> Hospital:
        """Return the hospital as it is in the variant."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        changed = {name: part for name, part in given.items() if part is not None}
        return hospital.model_copy(update=changed)


class Variant(Part):
    """Another way to learn from the same data, for ``fedskd-sim compare``; what is left out is
    as in the scenario.
    """

    algorithm: Algorithm | None = None
    """Its rounds are set by the budget."""
    training: Training | None = None
    """Replaces the scenario's as a whole."""
    prediction: Prediction | None = None
    """Replaces the scenario's as a whole."""
    faults: tuple[Fault, ...] | None = None
    """Replaces the scenario's as a whole; []: undisturbed."""
    links: tuple[Link, ...] | None = None
    """Replaces the scenario's as a whole; []: undisturbed."""
    hospitals: dict[str, HospitalChange] | None = None
    """What hospitals have otherwise, by their names: architecture, device, resources, precision,
    memory_format."""
    order: tuple[str, ...] | None = None
    """The names of all hospitals in another order: that of the ring."""
    budget: Literal["total", "per_model", "single"] = "total"
    """``total``: the work of all hospitals' models together. ``per_model``: that divided by the
    number of hospitals. ``single``: every model gets all of it by itself, as if no other travelled,
    which is the match of an average of one architecture."""

    def of(self, hospitals: tuple[Hospital, ...]) -> tuple[Hospital, ...]:
        """Return the hospitals of a scenario as they are in this variant."""
        changes = self.hospitals or {}
        changed = {
            one.name: changes[one.name].of(one) if one.name in changes else one for one in hospitals
        }
        return tuple(changed[name] for name in self.order or changed)


class Scenario(Part):
    """Everything that decides what is learned."""

    name: Annotated[str, Field(pattern=NAME)]
    """Label of metrics and records."""
    description: str = ""
    """One sentence for people."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 1
    """All random draws derive from it."""
    data: Dataset = NoData()
    """Default data of every hospital."""
    code: tuple[str, ...] = ()
    """Python files, or folders of packages, of your own beside this file: every hospital imports
    them, for the architectures, readers, losses and algorithms that they offer."""
    hospitals: tuple[Hospital, ...]
    """The ring, in this order."""
    algorithm: Algorithm
    """How they learn from each other."""
    training: Training = Training()
    """How any model trains."""
    prediction: Prediction = Prediction()
    """What a hospital uses in the end."""
    instruments: Instruments = Instruments()
    """What is measured besides."""
    audit: Audit | None = None
    """What is kept, and planted, so that ``fedskd-sim audit`` can tell what the run reveals; null:
    nothing."""
    privacy: Privacy | None = None
    """Default privacy of every hospital's patients; null: none."""
    variants: dict[Annotated[str, Field(pattern=NAME)], Variant] = {}
    """What ``fedskd-sim compare`` can compare by these names; ``launch`` takes no notice."""
    grid: dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]] = {}
    """Values to try for keys of ``algorithm``, ``training`` and ``prediction``, written with dots:
    ``fedskd-sim compare --algorithms grid`` compares every combination on validation data;
    ``launch`` takes no notice."""
    network: Network = Network()
    """How they talk."""
    metrics: Metrics = Metrics()
    """How they are observed."""
    timeouts: Timeouts = Timeouts()
    """How long anything may take."""
    custody: Custody = Custody()
    """How they survive."""
    on_loss: Annotated[OnLoss, with_a_name(str | OnLoss)] = OnLoss()
    """What happens when one of them does not."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong on purpose."""
    links: tuple[Link, ...] = ()
    """What the network between hospitals does to messages; of several rules for a link the last one
    counts."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the scenario, without what was looked up in the one that is copied."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("members", "held_out", "names", "_by_name"):
            copied.__dict__.pop(name, None)
        return copied

    def hospital(self, name: str) -> Hospital:
        """Find a hospital by name; KeyError if there is none."""
        return self._by_name[name]

    def architecture(self, name: str) -> Architecture:
        """Return the architecture of a hospital's model: its own, or the one that the algorithm
        asks of all.
        """
        common = self.common_architecture
        return common or self._by_name[name].architecture

    def training_of(self, name: str) -> Training:
        """Return how models train at a hospital: ``training``, with the hospital's own precision
        and memory format. KeyError if there is none of that name.
        """
        own = self._by_name[name].own_arithmetic
        return self.training.model_copy(update=own) if own else self.training

    @cached_property
    def members(self) -> tuple[str, ...]:
        """The names of the hospitals that train, in ring order."""
        return tuple(hospital.name for hospital in self.hospitals if not hospital.held_out)

    @property
    def learns(self) -> bool:
        """Whether anything is learned: a placebo needs neither data nor PyTorch."""
        return self.algorithm.learns

    @property
    def pools(self) -> bool:
        """Whether one process has the data of all hospitals, as a reference."""
        return self.algorithm.pools

    @property
    def averages(self) -> bool:
        """Whether all hospitals train one model, whose weights are averaged."""
        return self.algorithm.averages

    @property
    def schedule(self) -> Schedule:
        """Who visits whom when: as the algorithm says, or all at once."""
        found: Schedule = getattr(self.algorithm, "schedule", Schedule())
        return found

    @property
    def circulating(self) -> FedSKD | None:
        """The FedSKD that circulates as the algorithm does, if that names one."""
        found: FedSKD | None = getattr(self.algorithm, "circulating", None)
        return found

    @property
    def common_architecture(self) -> Architecture | None:
        """The one of the model that all train, where the algorithm names it."""
        if not self.averages:
            return None
        found: Architecture | None = getattr(self.algorithm, "architecture", None)
        return found

    @property
    def faults_in_words(self) -> str:
        """All faults in one line; nothing where there are none."""
        return "; ".join(fault.words for fault in self.faults)

    @property
    def links_in_words(self) -> str:
        """All rules for links in one line; nothing where there are none."""
        return "; ".join(link.words for link in self.links)

    @property
    def disturbed(self) -> str:
        """Describe what disturbs a run on purpose, the first of it; nothing where nothing does."""
        planted = self.audit.canaries if self.audit else 0
        words = [CANARIES.format(planted)] * bool(planted)
        words += [fault.words for fault in self.faults]
        words += [f"links: {link.words}" for link in self.links]
        if not words:
            return ""
        more = len(words) - MOST_TOLD
        some = "; ".join(words[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
        return f"disturbed on purpose: {some}"

    @cached_property
    def held_out(self) -> tuple[str, ...]:
        """The names of the others."""
        return tuple(hospital.name for hospital in self.hospitals if hospital.held_out)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all hospitals in the order of the scenario."""
        return tuple(hospital.name for hospital in self.hospitals)

    @cached_property
    def _by_name(self) -> dict[str, Hospital]:
        return {hospital.name: hospital for hospital in self.hospitals}


class Planned(NamedTuple):
    """A scenario cut to a budget, and the passes per hospital that it really takes."""

    scenario: Scenario
    passes: float


def passes(scenario: Scenario, samples: Sequence[int] = ()) -> float:
    """Count the work of a scenario, warm-up and all rounds: sample-gradients per hospital, in
    passes over its training data.

    >>> from fedskd_sim.scenario import load, scenarios
    >>> scenario = load(scenarios()["quickstart"]).scenario
    >>> scenario.training.warmup_epochs, scenario.training.epochs, scenario.algorithm.rounds
    (4, 2, 2)
    >>> passes(scenario)
    36.0

    Args:
        scenario: what is counted.
        samples: the training samples of every hospital that trains. Without them every pass counts
            as a whole one, which is wrong where ``training.batches`` cuts it short.

    """
    begun, per_round = _work(scenario, samples)
    return begun + scenario.algorithm.rounds * per_round


def at_budget(
    scenario: Scenario,
    algorithm: AlgorithmKeys | OwnAlgorithm,
    budget: float,
    samples: Sequence[int] = (),
) -> Planned:
    """Return a scenario another algorithm, with the number of rounds (at least 1) whose work comes
    nearest to a budget.

    >>> from fedskd_sim.scenario import Local, load, scenarios
    >>> scenario = load(scenarios()["quickstart"]).scenario
    >>> planned = at_budget(scenario, Local(name="local"), passes(scenario))
    >>> planned.scenario.algorithm.rounds, planned.passes
    (16, 36.0)

    Args:
        scenario: hospitals, data and training.
        algorithm: its ``rounds`` are replaced.
        budget: passes per hospital, as from `passes` with the same ``samples``.
        samples: as for `passes`.

    """
    begun, per_round = _work(scenario.model_copy(update={"algorithm": algorithm}), samples)
    rounds = max(1, round((budget - begun) / per_round)) if per_round else algorithm.rounds
    planned = scenario.model_copy(
        update={"algorithm": algorithm.model_copy(update={"rounds": rounds})}
    )
    return Planned(planned, passes(planned, samples))


def _work(scenario: Scenario, samples: Sequence[int]) -> tuple[float, float]:
    """Return the work of the warm-up and that of a round; where data is pooled, a pass is one over
    everybody's, in the warm-up too.
    """
    training, algorithm, size = scenario.training, scenario.algorithm, len(scenario.members)
    part = _part(scenario, samples) if samples else 1.0
    own = float(size) if scenario.pools else 1.0
    begun = training.warmup_epochs * own if algorithm.warms_up else 0.0
    return begun * part, training.epochs * algorithm.work(size) * part


def _part(scenario: Scenario, samples: Sequence[int]) -> float:
    """Compute which part of the training data a pass takes, over all hospitals."""
    training = scenario.training
    passed = [sum(samples)] if scenario.pools else samples
    taken = sum(sum(training.batch_sizes(count)[: training.batches]) for count in passed)
    return taken / sum(samples)
