"""What is true of a run at every instant: a `Watcher` looks at its world after every event, and
raises `Broken` at the first one behind which a law does not hold.

The laws are about what hospitals hold: the state at work, which dies with them, and the one in
custody. A *tour* is the way of one model in one round, from its departure (hop 0) to its last hop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fedskd_sim.messages import HopId
from fedskd_sim.protocol.events import Model
from fedskd_sim.protocol.state import State
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Program
from fedskd_sim.world.node import InMemoryCustody, Node
from fedskd_sim.world.world import World

Tour = tuple[str, int]
"""Whose model, in which round."""


class Broken(AssertionError):
    """A law does not hold."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(f"{law}: {text}")
        self.law, self.text = law, text


class Seat(NamedTuple):
    """A step of a tour: which hospital's, and its index in that one's program."""

    host: str
    index: int


class Seen(NamedTuple):
    """What a hospital has: of one that is down only custody is left."""

    life: int
    up: bool
    state: State
    custody: InMemoryCustody

    @classmethod
    def of(cls, node: Node) -> Seen:
        state = node.shell.state if node.up else node.custody.state
        return cls(node.life, node.up, state, node.custody)


@dataclass
class Watcher:
    """Looks at a world after every event; ``wanted`` has the undisturbed run's records, by
    hospital.
    """

    world: World
    wanted: Mapping[str, tuple[Record, ...]]
    events: int = 0
    disturbed: float = 0.0
    """The last moment at which a hospital was away or stood still."""
    finished: float = 0.0
    """When the last hospital was done with its program."""
    _fronts: dict[Tour, int] = field(default_factory=dict)
    """The first step of every tour that is not over in custody."""

    def __post_init__(self) -> None:
        nodes = list(self.world.nodes.values())
        self._ring, self._inbox = nodes[0].machine.topology, nodes[0].machine.terms.inbox
        self._programs: dict[str, Program] = {node.name: node.machine.program for node in nodes}
        self._tours = dict(self._seats())
        self._fronts = dict.fromkeys(self._tours, 0)
        self._digests = {
            (one.model, one.round, one.hop): one.digest_in
            for records in self.wanted.values()
            for one in records
            if one.hop
        }
        self._recorded = {
            name: [
                self._programs[name].index_of_record(one.model, one.round, one.hop)
                for one in records
            ]
            for name, records in self.wanted.items()
        }
        self._seen = {node.name: Seen.of(node) for node in nodes}
        self.disturbed = max(node.faults.schedule.late for node in nodes)
        self.world.watch = self.look

    def look(self) -> None:
        """Compare what is with what was before the event.

        Raises:
            Broken: a law does not hold.

        """
        self.events += 1
        kept = False
        for name, node in self.world.nodes.items():
            was, now = self._seen[name], Seen.of(node)
            if not (now.up and was.up) or node.asleep > self.world.seconds:
                asleep = node.asleep if node.asleep != float("inf") else 0.0
                self.disturbed = max(self.disturbed, self.world.seconds, asleep)
            if now.state is was.state and now.custody is was.custody and now.life == was.life:
                continue
            self._seen[name] = now
            if now.state.done and not was.state.done:
                self.finished = self.world.seconds
            self._progress(name, was, now)
            self._visitors(name, was, now)
            self._departures(name, was, now)
            if now.custody is not was.custody:
                self._records(name, was.custody, now.custody)
                kept = True
        if kept:
            self._nothing_lost()

    def _seats(self) -> Iterator[tuple[Tour, list[Seat]]]:
        """List the steps of every tour."""
        for name in self._ring.hospitals:
            program = self._programs[name]
            for index in range(len(program)):
                step = program.at(index)
                if step is None or step.action != "depart":
                    continue
                seats = [Seat(name, index)]
                for hop in self._ring.hops(step.round):
                    host = self._ring.stop(name, step.round, hop).host
                    place = self._programs[host].position(name, step.round, hop)
                    assert place is not None
                    seats.append(Seat(host, place))
                yield (name, step.round), seats

    def _seat(self, hop: HopId, back: int = 0) -> Seat:
        return self._tours[hop.model, hop.round][hop.hop - back]

    def _progress(self, name: str, was: Seen, now: Seen) -> None:
        """A cursor only grows, and a new life goes on from custody."""
        before, after, kept = was.state.cursor, now.state.cursor, now.custody.state.cursor
        if after < kept:
            text = f"{name} is at step {after}, its custody at {kept}"
            raise Broken("nobody is behind his custody", text)
        if now.up and not was.up and after != kept:
            text = f"{name} came back at step {after}, its custody is at {kept}"
            raise Broken("a life begins where custody ends", text)
        if now.life == was.life and after < before:
            raise Broken("cursors only grow", f"{name} went from step {before} to {after}")

    def _visitors(self, name: str, was: Seen, now: Seen) -> None:
        """A model comes in once, unharmed, has one owner, and stays until its step is over."""
        for state in (now.state, now.custody.state):
            for hop, model in state.waiting.items():
                seat = self._seat(hop)
                if seat.host != name or seat.index < state.cursor:
                    text = f"{name} at step {state.cursor} took {hop} in, of {seat}"
                    raise Broken("nothing comes in twice", text)
                self._unharmed(name, hop, model)
        self._room(name, now.state)
        if now.life == was.life and now.up:
            for hop, model in was.state.waiting.items():
                over = self._seat(hop).index < now.state.cursor
                if not over and now.state.waiting.get(hop) != model:
                    raise Broken("a visitor stays", f"{hop} is gone from {name}, or another one")
        for hop in now.state.waiting:
            if hop not in was.state.waiting or now.life != was.life:
                self._one_owner(name, hop)

    def _room(self, name: str, state: State) -> None:
        """Besides the model at work, or needed next, no more wait than the scenario says."""
        needed = self._programs[name].following(state.cursor - 1)
        place = needed and (needed.model, needed.round, needed.hop)
        others = [hop for hop in state.waiting if (hop.model, hop.round, hop.hop) != place]
        if len(others) > self._inbox:
            raise Broken("an inbox has its size", f"{name} at step {state.cursor} has {others}")

    def _one_owner(self, name: str, hop: HopId) -> None:
        """Of two hospitals that have a model the earlier one has passed it on, and is at the end
        of its session; or it has died, and repeats what it forgot.
        """
        for other in self._seen:
            for there in self._seen[other].state.waiting:
                if there.model != hop.model or other == name:
                    continue
                if self._ring.pattern != "circulation" and there.round != hop.round:
                    continue
                here_first = (hop.round, hop.hop) < (there.round, there.hop)
                first, copy = (name, hop) if here_first else (other, there)
                life, _, state, _ = self._seen[first]
                passed_on = state.released and state.cursor == self._seat(copy).index
                if not passed_on and not life:
                    text = f"{name} has {hop}, {other} has {there}"
                    raise Broken("a model has one owner", text)

    def _departures(self, name: str, was: Seen, now: Seen) -> None:
        """What leaves has been made, and is kept until its receiver has it in custody."""
        for hop, departure in now.state.outbox.items():
            if hop in was.state.outbox:
                continue
            self._unharmed(name, hop, departure.model)
            seat, cursor = self._seat(hop, 1), now.state.cursor
            made = cursor > seat.index or (cursor == seat.index and now.state.released)
            if seat.host != name or not (made or now.life):
                raise Broken("what leaves has been made", f"{name} at step {cursor} sent {hop}")
        if now.life != was.life or not now.up:
            return
        for hop in was.state.outbox.keys() - now.state.outbox.keys():
            if not self._has(hop):
                text = f"{name} has let go of {hop}, which {self._seat(hop).host} may forget"
                raise Broken("safe, then acknowledged", text)

    def _has(self, hop: HopId) -> bool:
        """Tell whether the host of a hop has the model in custody, or had it long enough."""
        seat = self._seat(hop)
        kept = self._seen[seat.host].custody.state
        return hop in kept.waiting or kept.cursor > seat.index

    def _unharmed(self, name: str, hop: HopId, model: Model) -> None:
        wanted = self._digests.get((hop.model, hop.round, hop.hop))
        if model.digest and wanted and model.digest != wanted:
            raise Broken("models are those of the undisturbed run", f"{hop} at {name}")

    def _records(self, name: str, was: InMemoryCustody, now: InMemoryCustody) -> None:
        """Custody only grows, and has a record of every step before its cursor, each once."""
        if now.state.cursor < was.state.cursor:
            text = f"{name}'s went from step {was.state.cursor} to {now.state.cursor}"
            raise Broken("custody only grows", text)
        if len(now.records) == len(was.records) and now.state.cursor == was.state.cursor:
            return
        due = sum(index < now.state.cursor for index in self._recorded[name] if index is not None)
        if now.records != self.wanted[name][:due]:
            text = f"{name} at step {now.state.cursor} has {len(now.records)}, not the first {due}"
            raise Broken("records belong to the commit", text)

    def _nothing_lost(self) -> None:
        """Whatever dies now, each model is still there: where a tour's last step in custody sent
        it from, or where it goes.
        """
        for tour, seats in self._tours.items():
            front = self._fronts[tour]
            while front < len(seats) and self._kept(seats[front]) > seats[front].index:
                front += 1
            self._fronts[tour] = front
            if not 0 < front < len(seats):
                continue
            sender, host = (self._seen[seats[one].host].custody for one in (front - 1, front))
            held = [*sender.state.outbox, *host.state.waiting]
            if not any((hop.model, hop.round, hop.hop) == (*tour, front) for hop in held):
                text = f"{tour[0]}'s, round {tour[1]} hop {front}, is in nobody's custody"
                raise Broken("no model is lost", text)

    def _kept(self, seat: Seat) -> int:
        return self._seen[seat.host].custody.state.cursor
