"""Hop records: the only result of a run; every table and picture is computed from them.

A run folder holds, for every hospital NAME:

=======================  ======================================================================
records/NAME.jsonl       one record per stop; the same bytes for the same scenario, wherever it ran
samples/NAME.jsonl       what was read of the hospital's source, used and left out, by class
timings/NAME.jsonl       when each session, evaluation and transfer began and ended
weights/NAME.safetensors the home model at the end of the run
metrics/NAME.prom        the last exposition of its Prometheus metrics
predictions/NAME.npz     what the models tested there said of every patient
similarity/NAME.*.npz    with ``instruments.probe_similarity``: who was like whom at every stop
pictures/NAME.npz        with ``instruments.pictures``: the samples on which that was probed
logs/NAME.jsonl          one line per event
hops/NAME/               sessions that can be executed again (`fedskd_sim.custody.archive`)
=======================  ======================================================================

Timings differ from run to run. `fedskd_sim.records.ledger` writes the first three,
`fedskd_sim.records.files` reads them; `fedskd_sim.results.predictions` reads predictions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, TextIO

from pydantic import ConfigDict, Field, FiniteFloat

SCHEMA: Literal[1] = 1
Whole = Annotated[int, Field(ge=0, lt=1 << 62)]
Ordinal = Annotated[int, Field(ge=0, lt=1 << 31)]
"""A round or a hop."""
UnixSeconds = Annotated[float, Field(ge=0, lt=1e11)]
"""UNIX seconds."""
NO_OTHER_KEYS = ConfigDict(extra="forbid")
RecordKind = Literal[
    "warm_up", "alone", "visit", "homecoming", "reduce", "gather", "evaluation", "ensemble"
]
"""What a stop was; ``alone``: the host's own model trained without a visitor, ``ensemble``: all
finished models asked together."""
PrivateNumber = Literal["units", "rate", "noise", "clip", "queries", "epsilon"]
StepOutcome = Literal["trained", "rolled_back", "passed", "evaluated"]


class Measure(NamedTuple):
    """A measurement that adds up: a sum and the weight it was summed over, never an average of
    averages.
    """

    sum: float
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def plus(self, other: Measure) -> Measure:
        """Pool two measurements of the same kind."""
        return Measure(self.sum + other.sum, self.weight + other.weight)

    @property
    def mean(self) -> float:
        """The pooled value; NaN over nothing."""
        return self.sum / self.weight if self.weight else float("nan")


NOTHING = Measure(0.0, 0.0)
PROBE, LEAVING = PROBES = "probe/", "leaving/"
"""What measures at other hospitals begin with: of a visitor, and of a model that sets out next."""


@dataclass(frozen=True, slots=True)
class Record:
    """One stop of one model.

    ``measures`` has, where they apply: ``accuracy``, ``balanced_accuracy``, ``auc`` of the visiting
    model (on the host's validation data after a session, on its test data in the evaluation round),
    the same with ``resident_`` in front, ``loss``/``resident_loss`` (cross-entropy per sample, or
    what ``training`` puts in its place), ``passes`` and ``best_pass``/``resident_best_pass`` (of
    sessions that may end early),
    ``similarity_batch``, ``_pixel``, ``_region`` (unweighted distances per step), and ``drift``
    (relative Euclidean parameter change of the session). A homecoming also has ``returned_``
    measures (the traveller as it came home, before its session) and, where another model than the
    home's sets out next, ``leaving_`` measures of that one. ``forwards`` counts samples that a
    model only taught on, the visitor's own frozen past too. With ``instruments.changes``:
    ``representation_drift``, ``churn`` and, at a homecoming, ``net_drift`` (of the whole round);
    with ``instruments.probe``: ``probe/NAME``, balanced accuracy on the validation data of hospital
    NAME, of the visitor after its session, and at home ``leaving/NAME``, the same of the model that
    sets out next. Test measures may have
    ``balanced_accuracy_adjusted``, and where samples have several labels ``auc/LABEL`` and
    ``threshold/LABEL``; an ensemble has ``models`` and ``kept_bytes``.
    """

    __pydantic_config__ = NO_OTHER_KEYS
    scenario: str
    seed: int
    kind: RecordKind
    round: Ordinal
    hop: Ordinal
    host: str
    model: str
    architecture: str
    outcome: StepOutcome
    reason: str = ""
    samples: Whole = 0
    steps: Whole = 0
    bytes: Whole = 0
    digest_in: str = ""
    digest_out: str = ""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    schema: Literal[1] = SCHEMA
    without: Mapping[str, Ordinal] = field(default_factory=dict)
    """Hospitals left out by then, with the round in which their model retires (0: never)."""
    back: Mapping[str, Ordinal] = field(default_factory=dict)
    """Of those left out for a while, the round from which on they are back."""
    private: Mapping[PrivateNumber, int | float | None] = field(default_factory=dict)
    """Of a session of a private hospital, by name: its ``units``, the ``rate`` at which a step
    draws them, ``noise`` and ``clip``; the ``queries`` that it has answered so far, this session
    included, and the ``epsilon`` that they have spent. None: without noise there is no bound."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Hospitals left out in this round."""
        return tuple(name for name in self.without if self.round < self.back.get(name, math.inf))


@dataclass(frozen=True, slots=True)
class Timing:
    """When something of a stop happened, in UNIX seconds; ``peak_bytes`` is the process's
    largest resident memory so far, ``device_bytes`` the most that it has taken of its card's,
    ``attempts`` how often a model was sent; 0: not known, or none. ``training``: seconds of a
    session in mini-batches.
    """

    __pydantic_config__ = NO_OTHER_KEYS
    what: Literal["resumed", "warm_up", "session", "evaluation", "transfer"]
    host: str
    model: str
    round: Ordinal
    hop: Ordinal
    start: UnixSeconds
    end: UnixSeconds
    bytes: Whole = 0
    to: str = ""
    peak_bytes: Whole = 0
    attempts: Whole = 0
    device_bytes: Whole = 0
    training: Annotated[FiniteFloat, Field(ge=0)] = 0.0

    @property
    def trained_for(self) -> float:
        """Seconds of a session that grow with its batches: all, where it has not said."""
        return self.training or self.end - self.start


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """What a hospital found in its source, how much of it each split uses, and what it leaves out
    for which reason; all by class.

    A class without a name is that of samples without a label. ``found`` is the sum of all others.
    """

    __pydantic_config__ = NO_OTHER_KEYS
    host: str
    source: str
    found: Mapping[str, Whole]
    used: Mapping[str, Mapping[str, Whole]]
    left_out: Mapping[str, Mapping[str, Whole]]


_WRITER = json.JSONEncoder(separators=(",", ":"))
UNSAID = ("without", "back", "private", "training")
"""What a line leaves out where it is empty."""
FOLDERS: Mapping[type[Record | Timing | SampleCounts], str] = {
    Record: "records",
    Timing: "timings",
    SampleCounts: "samples",
}


def to_line(entry: Record | Timing | SampleCounts) -> str:
    """Write an entry as one line of JSON without the newline; floats round-trip exactly."""
    told = {  # asdict copies, slowly
        name: value
        for name in entry.__slots__
        if (value := getattr(entry, name)) or name not in UNSAID
    }
    return _WRITER.encode(told)


def at_once(stream: TextIO) -> None:
    """Flush a file, for whoever reads along."""
    stream.flush()
