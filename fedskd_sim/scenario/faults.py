"""What goes wrong on purpose, where and when: the same schedule in real and in simulated time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, Part, Positive, Seconds, SomeSeconds

FaultKind = Literal[
    "kill", "restart", "stop", "leave", "late", "slow", "stall", "abort", "full_disk", "poison"
]
COMES_BACK = ("kill", "restart")
"""What a hospital comes back from, with what it has in custody."""
FOR_EVER = ("leave", "stall", "abort")


class Fault(Part):
    """Something that goes wrong once at a hospital: before the step of a round and hop, so many
    seconds after it came up, or, where neither is said, at a hop drawn from the seed.
    """

    hospital: str
    """Where."""
    what: FaultKind
    """kill: its process dies, and is started again as ``custody.restarts`` permits; restart: the
    same, and it stays away for ``lasts`` seconds; stop: it stands still as by SIGSTOP, for
    ``lasts`` seconds or for ever; leave: it dies for good; late: it comes up ``lasts`` seconds
    after the others; slow: from then on its steps take ``factor`` times as long, for ``lasts``
    seconds or to the end; stall: it keeps its visitor for ever and answers otherwise; abort: it
    ends the run with an error; full_disk: it cannot write; poison: the next model that leaves it
    has weights that are ``factor`` times what they were, or without it not a number."""
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
        """Say it in a few words: ``north: slow, factor 10, round 2 hop 1, for 30 s``."""
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
        """Tell whether the hospital never goes on from it."""
        return self.what in FOR_EVER or (self.what == "stop" and self.lasts is None)
