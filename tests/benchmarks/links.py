"""Links that a scenario disturbs, on this machine's loopback: what was asked for, and what came.

Two processes with links as hospitals have them (TCP without encryption). Delays are from handing a
message over to its arrival, rates from the first of several models to the last, shares of many
words. A large model's rate counts its delay, too: from handing it over to having it whole, its
digest checked.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

from fedskd_sim import clock
from fedskd_sim.messages import (
    CONTROLLER,
    Answer,
    Buffer,
    HopId,
    Ready,
    Start,
    TensorSpec,
    Traveller,
    allocate_plain,
)
from fedskd_sim.runtimes.life import keep_freed_memory
from fedskd_sim.scenario import Scenario
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.transport.zeromq import Hub, Identity, Incoming, Links, Location, Passwords, Shaped
from tests.benchmarks.table import Table

MB = 1_000_000
REPEATS = 5
WORDS = 4000
MESSAGES = 40
AFTER_S = 1.0
"""What has not come so long after the last is lost."""
LARGE = 200 * MB
FAR = {"preset": "wan-100ms", "bandwidth": "100M"}


def table_of(size: int) -> dict[str, TensorSpec]:
    """Describe a model of so many bytes."""
    parts = -(-size // (50 * MB))
    return {f"w{number}": TensorSpec("uint8", (size // parts,)) for number in range(parts)}


def scenario_with(rule: dict[str, Any]) -> Scenario:
    """Describe two hospitals with a link."""
    hospitals = [{"name": name, "architecture": "buffer"} for name in "ab"]
    values = {"name": "links", "hospitals": hospitals, "algorithm": {"name": "placebo"}}
    return Scenario.model_validate(values | {"links": [rule]}, strict=False)


@dataclass
class Times:
    """Notes when something comes."""

    came: list[float] = field(default_factory=list)

    def announced(self, hop: HopId, sender: str) -> bool:  # noqa: ARG002 - as a receiver has it
        """Take every model."""
        return True

    def on_model(self, traveller: Traveller, sender: str) -> None:  # noqa: ARG002 - as above
        """Note a model."""
        self.came.append(clock.now())

    def on_answer(self, answer: Answer, by: str) -> None:  # noqa: ARG002 - as above
        """Note a word."""
        self.came.append(clock.now())


def links_of(
    name: str, hub: str, keys: Identity, size: int, rule: dict[str, Any] | None = None
) -> Links:
    """Open the links of a hospital."""
    incoming = Incoming({"a": (table_of(size),)}, allocate_plain, 2)
    shaped = Shaped(name, Shaping(scenario_with(rule))) if rule else None
    return Links(Location(name, "tcp://127.0.0.1:*", hub, keys), incoming, shaped)


def receiver(pipe: Connection, hub: str, keys: Identity, size: int) -> None:
    """Be the hospital that messages go to, until so many have come or nothing comes any more."""
    keep_freed_memory()
    times: Any = Times()
    with closing(links_of("b", hub, keys, size)) as links:
        pipe.send(links.address)
        wanted, last = 0, clock.now()
        while not wanted or (len(times.came) < wanted and clock.now() < last + AFTER_S):
            if pipe.poll():
                wanted, last = pipe.recv()
            links.attend(0.05, times)
            last = max([last, *times.came[-1:]])
    pipe.send(times.came)


@contextmanager
def sender(rule: dict[str, Any], size: int) -> Iterator[tuple[Links, Connection]]:
    """Open a link from here to a process of its own."""
    keys = Passwords.for_members((CONTROLLER, "a", "b"))
    with closing(Hub("tcp://127.0.0.1:*", keys[CONTROLLER])) as hub:
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=receiver, args=(there, hub.address, keys["b"], size))
        process.start()
        with closing(links_of("a", hub.address, keys["a"], size, rule)) as links:
            links.open(Start(1, {"b": here.recv()}, {"b": keys["b"].public}))
            yield links, here
        process.join()


def sent(
    rule: dict[str, Any], size: int, count: int, apart: float = 0.0
) -> tuple[list[float], list[float]]:
    """Send models, or words where they have no size, so many seconds apart; gives when they left
    and when they came.
    """
    nobody: Any = Times()
    weights = {name: Buffer(*one, bytes(one.shape[0])) for name, one in table_of(size).items()}
    left: list[float] = []
    with sender(rule, size) as (links, pipe):
        links.call("b", Ready(HopId("run", 1, "a", 0, 0)))  # connects
        until = clock.now() + AFTER_S
        while clock.now() < until:
            links.attend(0.05, nobody)
        for number in range(count):
            hop = HopId("run", 1, "a", number, 1)
            left.append(clock.now())
            if size:
                links.send("b", Traveller(hop, "a", "buffer", "", weights))
            else:
                links.call("b", Ready(hop))
            links.attend(0, nobody)
            while clock.now() < left[-1] + apart:
                links.attend(max(0.0, left[-1] + apart - clock.now()), nobody)
        takes = size * count / 1e6 + 1  # at a megabyte per second
        pipe.send((count + 1, clock.now() + takes))
        while not pipe.poll():
            links.attend(0.02, nobody)
        came = pipe.recv()
    return left, came


def delays(delay: float) -> list[float]:
    """Measure delays of small models, in per cent of what was asked."""
    left, came = sent({"delay": delay}, 1000, MESSAGES, 2 * delay)
    return [
        (there - here) / delay * 100 for here, there in zip(left, came[-MESSAGES:], strict=True)
    ]


def rate(bandwidth: int, size: int) -> list[float]:
    """Measure the rate of models one after the other, in per cent of what was asked."""
    _, came = sent({"bandwidth": bandwidth}, size, REPEATS)
    came = came[-REPEATS:]
    return [size / (two - one) / bandwidth * 100 for one, two in pairwise(came)]


def share(loss: float) -> list[float]:
    """Measure the share of words that are lost, under several seeds, in per cent of what was
    asked.
    """
    found = []
    for seed in range(REPEATS):
        _, came = sent({"loss": loss, "delay": 0.001, "seed": seed}, 0, WORDS, 0.0005)
        found.append((WORDS + 1 - len(came)) / (WORDS + 1) / loss * 100)
    return found


def far() -> list[float]:
    """Measure the share of the bandwidth that a large model reaches from afar, in per cent."""
    found = []
    for _ in range(REPEATS):
        left, came = sent(FAR, LARGE, 1)
        found.append(LARGE / (came[-1] - left[0]) / (100 * MB) * 100)
    return found


CASES: dict[str, Callable[[], list[float]]] = {
    "delay of 10 ms": partial(delays, 0.01),
    "delay of 50 ms": partial(delays, 0.05),
    "delay of 200 ms": partial(delays, 0.2),
    "1 MB/s, models of 2 MB": partial(rate, MB, 2 * MB),
    "10 MB/s, models of 10 MB": partial(rate, 10 * MB, 10 * MB),
    "100 MB/s, models of 100 MB": partial(rate, 100 * MB, 100 * MB),
    "loss of 10 %, 4000 words under 5 seeds": partial(share, 0.1),
    "loss of 30 %, 4000 words under 5 seeds": partial(share, 0.3),
    "200 MB over wan-100ms at 100 MB/s": far,
}


def main() -> list[Table]:
    """Measure all in turn."""
    found = {name: case() for name, case in CASES.items()}
    return [Table("links: what was measured against what was asked", "%", found)]
