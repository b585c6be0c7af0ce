"""What the network between hospitals does to messages: rules for links, and what each asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from fedskd_sim.scenario.part import SIZE, Part, Positive, Seconds, Share, SomeSeconds

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
        """Say it in a few words: ``cut at 30 s for 5 s``."""
        again = "" if self.every is None else f", again every {self.every:g} s"
        return f"cut at {self.begin:g} s for {self.lasts:g} s{again}"

    def meets(self, begin: float, end: float) -> bool:
        """Tell whether any of it lies between two moments, both included."""
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
        """Say it in a few words: ``delay 0.05 s, 125M bytes/s, loss 5 %``."""
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


class Link(Part):
    """What the network does to all that hospitals say to each other over some links, as it leaves.

    Without ``from``, ``to`` and ``between`` the rule is for every link. Of several rules for a link
    the last one counts, by itself. The controller's words pass undisturbed.
    """

    from_: Annotated[str | None, Field(alias="from")] = None
    """Links from this hospital."""
    to: str | None = None
    """Links to this hospital."""
    between: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] | None = None
    """Two hospitals: both links between them."""
    preset: Literal["lan", "wan-100ms", "vpn-daily-drop"] | None = None
    """Where values that are not given come from; null: 0. lan: delay 0.001, bandwidth 125M;
    wan-100ms: delay 0.05, jitter 0.005, bandwidth 12500k; vpn-daily-drop: delay 0.02, jitter 0.005,
    bandwidth 12500k, partition {begin: 3600, lasts: 30, every: 86400}."""
    delay: Seconds | None = None
    """Seconds from leaving to arriving."""
    jitter: Seconds | None = None
    """The delay is up to so many seconds shorter or longer; nothing overtakes by that."""
    bandwidth: Rate | None = None
    """Bytes per second, or a size such as 2M or 512Ki: one message after the other."""
    loss: NotAll | None = None
    """Share of messages, whole models or words, that never arrive."""
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
        """Say it in a few words: ``north to south: wan-100ms, delay 0.05 s``."""
        where = f"between {' and '.join(self.between)}" if self.between else ""
        if self.from_ or self.to:
            ends = (f"from {self.from_}" if self.from_ else "", f"to {self.to}" if self.to else "")
            where = " ".join(end for end in ends if end)
        said = (self.preset or "", self.conditions.words)
        return f"{where or 'all links'}: {', '.join(word for word in said if word)}"

    def covers(self, sender: str, to: str) -> bool:
        """Tell whether the rule is for a link."""
        if self.between:
            return {sender, to} == {*self.between}
        return self.from_ in (None, sender) and self.to in (None, to)


def rule_of(links: Iterable[Link], sender: str, to: str) -> Link | None:
    """Give the rule that counts for a link: the last one that is for it."""
    found = [rule for rule in links if rule.covers(sender, to)]
    return found[-1] if found else None
