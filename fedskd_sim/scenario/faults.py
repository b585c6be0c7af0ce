"""What goes wrong on purpose, the same in real and in simulated time: what strikes hospitals where
and when, what the network between them does to messages and what that asks, and what a run does
when a hospital is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from fedskd_sim.scenario.part import SIZE, Count, Part, Positive, Seconds, Share, SomeSeconds

FaultKind = Literal[
    "kill", "restart", "stop", "leave", "late", "slow", "stall", "abort", "full_disk", "poison"
]
COMES_BACK = ("kill", "restart")
"""What a hospital comes back from, with what it has in custody."""
FOR_EVER = ("leave", "stall", "abort")


class Fault(Part):
    """Something that goes wrong once at a hospital.

    It comes before the step of a round and hop, or so many seconds after the hospital came up.
    Where neither is said, it comes at a hop drawn from the seed.
    """

    hospital: str
    """Where."""
    what: FaultKind
    """``kill``: its process dies, and is started again as ``custody.restarts`` permits.
    ``restart``: the same, and it stays away for ``lasts`` seconds. ``stop``: it stands still as by
    SIGSTOP, for ``lasts`` seconds or for ever. ``leave``: it dies for good. ``late``: it comes up
    ``lasts`` seconds after the others. ``slow``: from then on its steps take ``factor`` times as
    long, for ``lasts`` seconds or to the end. ``stall``: it keeps its visitor for ever and answers
    otherwise. ``abort``: it ends the run with an error. ``full_disk``: it cannot write.
    ``poison``: the next model that leaves it has weights ``factor`` times as large; without
    ``factor`` they are not a number."""
    round: Count | None = None
    """The round, from 1; the one behind the last is the evaluation."""
    hop: Count | None = None
    """The hop of that round which it hosts; null: its first step of the round."""
    after: Seconds | None = None
    """Seconds since it came up, in place of round and hop."""
    lasts: SomeSeconds | None = None
    """How many seconds it lasts."""
    factor: Positive | None = None
    """How many times as slow, or as large."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Another one draws another hop, where neither round nor time is said."""

    @property
    def words(self) -> str:
        """Describe it in a few words: ``north: slow, factor 10, round 2 hop 1, for 30 s``."""
        place = f"round {self.round}" + (f" hop {self.hop}" if self.hop else "")
        if self.round is None:
            place = "" if self.after is None else f"{self.after:g} s after it came up"
        if self.what != "late":
            place = place or f"at a hop drawn from seed {self.seed}"
        factor = "" if self.factor is None else f"factor {self.factor:g}"
        lasts = "" if self.lasts is None else f"for {self.lasts:g} s"
        said = (self.what.replace("_", " "), factor, place, lasts)
        return f"{self.hospital}: {', '.join(word for word in said if word)}"

    @property
    def for_ever(self) -> bool:
        """Return whether the hospital never goes on from it."""
        return self.what in FOR_EVER or (self.what == "stop" and self.lasts is None)


BEATS = 4
"""Signs of life in the time after which a hospital without one is lost."""
MOST_BEAT_S = 2.5


class OnLoss(Part):
    """What happens when a hospital dies for good, or gives no sign of life."""

    name: Literal["wait", "skip", "abort"] = "wait"
    """``wait``: it is started again as ``custody.restarts`` permits and waited for as ``timeouts``
    say, then the run ends with an error. ``skip``: the same, but after ``after`` seconds without a
    sign of life the ring goes on without it, until it is back at the beginning of a round.
    ``abort``: nobody is started again; a hospital that fails, or is silent for ``after`` seconds,
    ends the run at once."""
    after: SomeSeconds = 60.0
    """Seconds without a sign of life after which a hospital is lost."""
    model: Literal["travels", "retires"] = "travels"
    """With ``skip``, what becomes of the model whose home is lost. ``travels``: it travels on among
    the others and is tested in the end. ``retires``: its stops are left out from the next round
    on."""

    @property
    def heals(self) -> bool:
        """Whether the ring goes on without a hospital that is lost."""
        return self.name == "skip"

    @property
    def beat(self) -> float:
        """Seconds between two signs of life; 0 where nobody watches for them."""
        return 0.0 if self.name == "wait" else min(self.after / BEATS, MOST_BEAT_S)


NotAll = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[
    str,
    Field(pattern=SIZE),
    BeforeValidator(
        lambda value: str(value) if type(value) in (int, float) else value,
        json_schema_input_type=int | str,
    ),
]
UNITS: Mapping[str, int] = MappingProxyType(
    {unit: 1000**power for power, unit in enumerate(("", "k", "M", "G", "T"))}
    | {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)}
)


def size_of(text: str) -> int:
    """Read a size: ``2M`` is two million, ``2Mi`` 2^21."""
    digits = text.rstrip("KMGTik")
    return int(digits) * UNITS[text[len(digits) :]]


class Outage(Part):
    """A time in which nothing passes a link."""

    begin: Seconds
    """Seconds since the run's start, which is when the controller has all hospitals."""
    lasts: SomeSeconds
    """How many seconds."""
    every: Positive | None = None
    """It comes again after so many seconds, counted from its begin; null: once."""

    @property
    def words(self) -> str:
        """Describe it in a few words: ``cut at 30 s for 5 s``."""
        again = "" if self.every is None else f", again every {self.every:g} s"
        return f"cut at {self.begin:g} s for {self.lasts:g} s{again}"

    def meets(self, begin: float, end: float) -> bool:
        """Return whether any of it lies between two moments, both included."""
        first = self.begin
        if self.every and begin >= first + self.lasts:
            first += self.every * (floor((begin - first - self.lasts) / self.every) + 1)
        return first <= end and begin < first + self.lasts


class Conditions(NamedTuple):
    """What a link does to messages, every value decided; see `Link`."""

    delay: float = 0.0
    jitter: float = 0.0
    bandwidth: str = ""
    loss: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    partition: tuple[Outage, ...] = ()
    seed: int = 0

    @property
    def rate(self) -> float:
        """Bytes per second; 0: as many as the machine manages."""
        return float(size_of(self.bandwidth)) if self.bandwidth else 0.0

    @property
    def fails(self) -> float:
        """The chance that a model, or the answer to it, does not arrive as it left."""
        return 1 - (1 - self.loss) ** 2 * (1 - self.corrupt)

    @property
    def words(self) -> str:
        """Describe it in a few words: ``delay 0.05 s, 125M bytes/s, loss 5 %``."""
        told = {"delay": self.delay, "jitter": self.jitter}
        said = [f"{name} {seconds:g} s" for name, seconds in told.items() if seconds]
        said += [f"{self.bandwidth} bytes/s"] if self.bandwidth else []
        shares = {
            "loss": self.loss, "repeat": self.repeat, "reorder": self.reorder,
            "corrupt": self.corrupt,
        }  # fmt: skip
        said += [f"{name} {100 * share:g} %" for name, share in shares.items() if share]
        said += [outage.words for outage in self.partition]
        return ", ".join(said) or "undisturbed"


PRESETS: Mapping[str, Conditions] = MappingProxyType(
    {
        "lan": Conditions(delay=0.001, bandwidth="125M"),
        "wan-100ms": Conditions(delay=0.05, jitter=0.005, bandwidth="12500k"),
        "vpn-daily-drop": Conditions(
            delay=0.02,
            jitter=0.005,
            bandwidth="12500k",
            partition=(Outage(begin=3600.0, lasts=30.0, every=86400.0),),
        ),
    }
)
"""lan: 1 Gbit/s; wan-100ms: 100 ms there and back, 100 Mbit/s; vpn-daily-drop: a tunnel that is
down for half a minute once a day, first after an hour."""


CONTROLLER = "controller"


class Link(Part):
    """What the network does to all that hospitals say to each other over some links, as it leaves.

    Without ``from``, ``to`` and ``between`` the rule is for every link between hospitals. Where one
    of them names the ``controller``, it is for words between hospitals and the controller; without
    such a rule they pass undisturbed. Of several rules for a link the last one counts, by itself.
    """

    from_: Annotated[str | None, Field(alias="from")] = None
    """Links from this hospital, or from the controller."""
    to: str | None = None
    """Links to this hospital, or to the controller."""
    between: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] | None = None
    """Two hospitals, or a hospital and the controller: both links between them."""
    preset: Literal["lan", "wan-100ms", "vpn-daily-drop"] | None = None
    """Where values that are not given come from; with null they are 0. ``lan``: delay 0.001,
    bandwidth 125M. ``wan-100ms``: delay 0.05, jitter 0.005, bandwidth 12500k. ``vpn-daily-drop``:
    delay 0.02, jitter 0.005, bandwidth 12500k, partition ``{begin: 3600, lasts: 30, every:
    86400}``."""
    delay: Seconds | None = None
    """Seconds from leaving to arriving."""
    jitter: Seconds | None = None
    """The delay is up to so many seconds shorter or longer; nothing overtakes by that."""
    bandwidth: Rate | None = None
    """Bytes per second, or a size such as 2M or 512Ki: one message after the other."""
    loss: NotAll | None = None
    """Share of messages, whole models or words, that never arrive. Of words from and to the
    controller none may get lost, be held back or be cut off with ``on_loss`` wait: some of them are
    said only once."""
    repeat: Share | None = None
    """Share that arrives twice."""
    reorder: Share | None = None
    """Share that is held back until the next message of the link has passed."""
    corrupt: NotAll | None = None
    """Share of models of which one byte is another one when they arrive."""
    partition: tuple[Outage, ...] | None = None
    """Times in which nothing passes: what is under way then is lost."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Another one draws other losses."""

    @property
    def conditions(self) -> Conditions:
        """The values that are given, and else those of the preset."""
        given: dict[str, Any] = {
            name: value for name in Conditions._fields if (value := getattr(self, name)) is not None
        }
        return (PRESETS[self.preset] if self.preset else Conditions())._replace(**given)

    @property
    def words(self) -> str:
        """Describe it in a few words: ``north to south: wan-100ms, delay 0.05 s``."""
        where = f"between {' and '.join(self.between)}" if self.between else ""
        if self.from_ or self.to:
            ends = (f"from {self.from_}" if self.from_ else "", f"to {self.to}" if self.to else "")
            where = " ".join(end for end in ends if end)
        said = (self.preset or "", self.conditions.words)
        return f"{where or 'all links'}: {', '.join(word for word in said if word)}"

    @property
    def of_controller(self) -> bool:
        """Return whether the rule is for words between hospitals and the controller."""
        return CONTROLLER in (self.from_, self.to, *(self.between or ()))

    def covers(self, sender: str, to: str) -> bool:
        """Return whether the rule is for a link."""
        if self.between:
            return {sender, to} == {*self.between}
        if CONTROLLER in (sender, to) and not self.of_controller:
            return False
        return self.from_ in (None, sender) and self.to in (None, to)


def rule_of(links: Iterable[Link], sender: str, to: str) -> Link | None:
    """Return the rule that counts for a link: the last one that is for it."""
    found = [rule for rule in links if rule.covers(sender, to)]
    return found[-1] if found else None
