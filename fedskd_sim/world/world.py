"""All members of a run in one thread and in simulated time.

With perfect links and no faults it is the memory runtime, the reference of what a run computes.
With `Weather` it loses, repeats, delays and reorders messages and kills hospitals, and restarts
them from what they had in custody.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from fedskd_sim.errors import FedskdError, HospitalCrashed
from fedskd_sim.member.controller import LOOK_S, Controller
from fedskd_sim.member.schedule import FOR_EVER
from fedskd_sim.messages import CONTROLLER, FromController, Start, ToController, Traveller, size
from fedskd_sim.protocol.controller import CONSEQUENCES, OTHERS_SPEAK_S
from fedskd_sim.protocol.effects import Effect
from fedskd_sim.ring.routes import NOBODY, LostHospitals
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.world.node import IsPast, Killed, Node

RESTART_S = 5.0
ROOM = 1000
Take = Callable[[Node], None]
ScheduledCall = tuple[float, int, Callable[[], Any], IsPast | None]
"""When something will happen, the how manieth it is, what, and whether it is past."""


class Weather:
    """What happens to messages and hospitals; in this one, nothing."""

    persists = False
    """Whether hospitals keep custody, which they need to come back."""
    away: float | None = None
    """How many seconds who dies of it stays away; None: as long as a restart takes."""

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - the signature of weather that is not fair
        """Yield the delay in seconds of every copy of a message that arrives."""
        yield 0.0

    def words(self, sender: str) -> Iterator[float]:  # noqa: ARG002 - as above
        """Yield the delay in seconds of every copy of a word to the controller that arrives."""
        yield 0.0

    def parts(self, sender: str, to: str, at: float) -> bool:  # noqa: ARG002 - as above
        """Return whether nothing passes from one member to another at a moment."""
        return False

    def kills(self, name: str, effect: Effect) -> bool:  # noqa: ARG002 - as above
        """Return whether a hospital dies before an effect."""
        return False

    def disk(self) -> float:
        """Return the seconds that a disk takes for what is to be kept; 0: none at all."""
        return 0.0


@dataclass
class World:
    """The members, and what will happen, in the order of time."""

    weather: Weather = field(default_factory=Weather)
    seconds: float = 0.0
    """The present moment."""
    nodes: dict[str, Node] = field(default_factory=dict)
    errors: list[tuple[str, FedskdError]] = field(default_factory=list)
    """Who failed, in order, with what."""
    story: Callable[[float, str, str, Any], None] | None = None
    """Is told of every message that arrives: when, from whom, to whom, what."""
    watch: Callable[[], None] | None = None
    """Is called after everything that happens."""
    controller: Controller | None = None
    """It must speak through `send`."""
    sound: Callable[[str, memoryview], bool] | None = None
    """Tells whether a tensor's numbers may arrive; None: all may."""
    links: Shaping[Any] | None = None
    """What the scenario's links do to messages, before the weather does; None: nothing."""
    _agenda: list[ScheduledCall] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)
    _room: int = ROOM
    """Length of the agenda at which it is looked through for what nobody needs any more."""
    _lasting: int = 0

    def add(self, node: Node) -> None:
        """Start a hospital's life."""
        self.nodes[node.name] = node
        self.later(node, node.faults.schedule.late, node.begin)

    def run(self) -> None:
        """Play until all have ended or nothing is left to happen.

        Raises:
            HospitalCrashed: a hospital has died and cannot come back.

        """
        if self.controller and self.controller.watches:
            self._look()
        while self._agenda and not self.over:
            self.seconds, _, happen, _ = heapq.heappop(self._agenda)
            happen()
            if self.watch:
                self.watch()

    def now(self) -> float:
        """Return the present moment."""
        return self.seconds

    @property
    def lost(self) -> LostHospitals:
        """Return the hospitals without which the ring goes on."""
        if self.controller is None:
            return NOBODY
        state = self.controller.state
        return {name: state.lost[name] for name in sorted(state.away)}

    @property
    def over(self) -> bool:
        """Return whether all hospitals have ended."""
        return self._lasting >= len(self.nodes)

    def later(
        self, node: Node, delay: float, happen: Callable[[], None], past: IsPast | None = None
    ) -> None:
        """Do something to a hospital if it has not died by then; it may be forgotten
        from when on ``past`` says so.
        """
        self._at(delay, partial(self._lives, node, node.life, happen), past)

    def carry(self, sender: str, to: str, what: Any, take: Take) -> None:
        """Carry a message to a hospital: as often and as late as its link and the weather say."""
        line = self.links.line(sender, to) if self.links else None
        if line is None:
            self._carry(0.0, sender, to, what, take)
            return
        now = self.seconds
        weight = size(what.weights) if isinstance(what, Traveller) else None
        for passage, (said, taken) in line.carry(now, (what, take), weight):
            if passage.flip is not None:
                taken = partial(_refuse, sender, said)  # noqa: PLW2901 - its digest is not right
            self._carry(passage.ends - now, sender, to, said, taken)

    def tell(self, message: ToController) -> None:
        """Carry a word to the controller: as often and as late as its link and the weather say."""
        line = self.links.line(message.hospital, CONTROLLER) if self.links else None
        if line is None:
            self._tell(0.0, message)
            return
        for passage, said in line.carry(self.seconds, message):
            self._tell(passage.ends - self.seconds, said)

    def send(self, to: str, message: FromController) -> None:
        """Carry the controller's word to a hospital."""
        if isinstance(message, Start) and self.links:
            self.links.begin(self.seconds)
        self.carry(CONTROLLER, to, message, lambda node: node.hear(message))

    def receive(self, timeout: float) -> ToController:
        """Never be asked: words are handed to the controller as they come."""
        raise NotImplementedError(timeout)

    def fails(self, name: str, error: FedskdError) -> None:
        """Note that a hospital has failed; if it has waited in vain since the run ended with an
        error of which no word has reached it, that is no error of its own.
        """
        end = self.controller.state.ended if self.controller else None
        if end and end.code and error.exit_code in CONSEQUENCES:
            error.second_hand = True
        self.errors.append((name, error))

    def kills(self, name: str, effect: Effect) -> bool:
        """Return whether a hospital dies before an effect."""
        return self.weather.kills(name, effect)

    @property
    def away(self) -> float | None:
        """How long who dies of the weather stays away."""
        return self.weather.away

    @property
    def persists(self) -> bool:
        """Whether hospitals keep custody."""
        return self.weather.persists

    def disk(self) -> float:
        """Return the seconds that a disk takes."""
        return self.weather.disk()

    def _carry(self, after: float, sender: str, to: str, what: Any, take: Take) -> None:
        if self.weather.parts(sender, to, self.seconds):
            return
        for delay in self.weather.copies(sender, to):
            self._at(after + delay, partial(self._arrives, sender, to, what, take))

    def _tell(self, after: float, message: ToController) -> None:
        if self.weather.parts(message.hospital, CONTROLLER, self.seconds):
            return
        for delay in self.weather.words(message.hospital):
            self._at(after + delay, partial(self._tell_controller, message))

    def _at(self, delay: float, happen: Callable[[], Any], past: IsPast | None = None) -> None:
        heapq.heappush(self._agenda, (self.seconds + delay, next(self._order), happen, past))
        if len(self._agenda) > self._room:
            self._forget()

    def _forget(self) -> None:
        """Drop what nobody needs any more: each stop sets two timers that are long, and rarely
        needed. What is left keeps its order.
        """
        self._agenda = [item for item in self._agenda if not (item[3] and item[3]())]
        heapq.heapify(self._agenda)
        self._room = ROOM + 2 * len(self._agenda)

    def _tell_controller(self, message: ToController) -> None:
        if self.controller:
            suspected = self.controller.state.suspected
            self.controller.step(message)
            if self.controller.state.suspected and not suspected:
                self._at(OTHERS_SPEAK_S, self.controller.conclude)

    def _look(self) -> None:
        """Make the controller look for who is silent, again and again."""
        if self.controller and self.controller.state.ended is None:
            self.controller.look()
            self.controller.give_up()
            self._at(LOOK_S, self._look)

    def _arrives(self, sender: str, to: str, what: Any, take: Take) -> None:
        node = self.nodes[to]
        if self.story:
            self.story(self.seconds, sender, to, what)
        if isinstance(what, Traveller) and not self._sound(what):
            node.reporter.report_refusal(sender, f"{what.hop}: numbers that are not finite")
            return
        self._lives(node, node.life, partial(take, node))

    def _sound(self, model: Traveller) -> bool:
        return self.sound is None or all(
            self.sound(buffer.dtype, memoryview(buffer.data)) for buffer in model.weights.values()
        )

    def _lives(self, node: Node, life: int, happen: Callable[[], None]) -> None:
        if not node.up or node.life != life or node.ended:
            return
        if node.asleep > self.seconds:
            if node.asleep != FOR_EVER:
                again = partial(self._lives, node, life, happen)
                self._at(node.asleep - self.seconds, again)
            return
        try:
            happen()
        except Killed as death:
            self._dies(node, death.away)
        self._lasting += node.ended

    def _dies(self, node: Node, away: float | None) -> None:
        if away == FOR_EVER and self.controller and self.controller.watches:
            node.die()
            node.gone = True
            self._lasting += 1
            return
        if not self.persists or away == FOR_EVER:
            death = HospitalCrashed(f"{node.name!r} died", fix="see its log")
            death.culprit = node.name
            raise death from None
        node.die()
        self._at(RESTART_S if away is None else away, partial(self._revive, node))

    def _revive(self, node: Node) -> None:
        node.revive()
        self._lives(node, node.life, node.begin)


def _refuse(sender: str, what: Traveller, node: Node) -> None:
    """Refuse a model of which a byte was changed on the way."""
    node.reporter.report_refusal(sender, f"{what.hop}: its weights changed on the way")
