"""The thread that owns a hospital's links and its machine, so that no link ever waits for training.

Steps are carried out by the thread that made the mailbox: `next_task` gives them, `release` and
`finish` hand back what came of them. Timers are on a monotonic clock. When the machine is over, the
thread closes its own sockets and ends.
"""

from __future__ import annotations

import heapq
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from threading import Thread

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.base import LearnerState
from fedskd_sim.member.crash import PRINTED, crash, whereabouts
from fedskd_sim.member.keeper import Keeper, KeptPast
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.shell import Shell, Task
from fedskd_sim.messages import (
    Answer,
    Epoch,
    FromController,
    HopId,
    Ready,
    Register,
    Start,
    ToController,
    Traveller,
    Weights,
)
from fedskd_sim.protocol.events import (
    Begun,
    Broke,
    Knocked,
    Repeated,
    StepFinished,
    Timer,
    answered,
    heard,
)
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import State
from fedskd_sim.records import Record
from fedskd_sim.transport.zeromq import Links

IDLE_S = 1.0
CLOSE_S = 10.0


@dataclass
class Mailbox:
    """A real hospital's way to the others: it hands what its links receive to the `Shell`, and
    sends what the shell's machine decides.

    It is what the shell finds outside (`Outside`) and what the links report to (`Receiver`); in
    simulated time `fedskd_sim.world.node.Node` stands here.
    """

    machine: HospitalMachine
    links: Links
    reporter: Reporter
    register_as: Register
    keeper: Keeper | None = None
    """Keeps what a next life needs."""
    past: KeptPast | None = None
    """What this life goes on from."""
    again: bool = False
    """This is not the hospital's first life."""
    rejoins: bool = False
    """... and the run went on meanwhile: the others are where they were."""
    _tasks: SimpleQueue[Task | FedskdError | None] = field(default_factory=SimpleQueue)
    _results: SimpleQueue[Callable[[], None]] = field(default_factory=SimpleQueue)
    _timers: list[tuple[float, int, Timer]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)
    _over: bool = False
    _left: bool = False
    """It stops without a word."""

    def __post_init__(self) -> None:
        """Make the shell; `start` lets it run."""
        self.shell = Shell(self.machine, self, self.reporter)
        if self.past:
            self.shell.state, self.shell.models = self.past.state, dict(self.past.models)
            self.shell.numbers = max(self.past.models, default=0)
        if self.keeper:
            self.keeper.begin(self.fail)
        self._thread = Thread(target=self._run, name="mailbox", daemon=True)

    def start(self) -> None:
        """Register, and attend to the links from now on."""
        self._thread.start()

    def next_task(self) -> Task | None:
        """Wait for the next step to carry out; None when the run has ended well.

        Raises:
            FedskdError: the run cannot go on.

        """
        task = self._tasks.get()
        if isinstance(task, FedskdError):
            raise task
        return task

    def release(self, index: int, weights: Weights, digest: str) -> None:
        """Send a step's weights on to the next hospital."""
        self._hand_in(lambda: self.shell.release(index, weights, digest))

    def finish(
        self, index: int, record: Record | None, learner: LearnerState | None = None
    ) -> None:
        """Hand in a step's record, and what the learner is now, where that is kept."""
        self._hand_in(lambda: self._finish(index, record, learner))

    def fail(self, error: FedskdError) -> None:
        """Report that this hospital cannot go on."""
        self._hand_in(lambda: self.shell.handle(Broke(error)))

    def leave(self) -> None:
        """Stop without a word; what was to be kept still is."""
        self._over = self._left = True
        self._hand_in(lambda: None)

    def close(self) -> None:
        """Wait for the thread to end; what it holds open then is closed by itself."""
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        elif not self._over:
            self.links.close()

    def _hand_in(self, what: Callable[[], None]) -> None:
        self._results.put(what)
        if self._thread.is_alive():
            self.links.wake()

    def _finish(self, index: int, record: Record | None, learner: LearnerState | None) -> None:
        if self.keeper and learner:
            self.keeper.learner = learner
        self.shell.handle(StepFinished(index, record))

    def _begin(self) -> None:
        self.shell.handle(Begun(self.again))
        book = self.past.book if self.past and self.rejoins else None
        # else the others have new keys too
        if book and book.keys.get(self.machine.name, "") == self.register_as.public_key:
            self.on_word(book)

    def _run(self) -> None:
        try:
            self._begin()
            while not self._over:
                self.links.attend(self._idle(), self)
                self._take_results()
                self._ring_timers()
        except Exception as error:  # noqa: BLE001 - whatever ends this thread must end the hospital, and be said
            self._break(error)
        finally:
            self._over = True
            if self.keeper:
                self.keeper.close()
            with closing(self.links):
                if not self._left:
                    self.links.say_goodbye()

    def _break(self, error: Exception) -> None:
        """End with what broke here, and tell the controller if that can still be done."""
        failed = error if isinstance(error, FedskdError) else self._crash(error)
        self._tasks.put(failed)
        with suppress(Exception):  # what broke may be just what it would be told with
            self.shell.handle(Broke(failed))

    def _crash(self, error: Exception) -> FedskdError:
        """Make an error of an exception that nobody foresaw, which is printed in full."""
        with suppress(OSError):  # a full disk takes no words
            traceback.print_exception(error)
        step = self.machine.program.at(self.shell.state.cursor)
        return crash(self.machine.name, whereabouts(step) if step else "", error, PRINTED)

    def _idle(self) -> float:
        return min(IDLE_S, clock.seconds_left(self._timers[0][0])) if self._timers else IDLE_S

    def _take_results(self) -> None:
        while not self._over:
            try:
                self._results.get_nowait()()
            except Empty:
                return

    def _ring_timers(self) -> None:
        while self._timers and self._timers[0][0] <= clock.now() and not self._over:
            self.shell.handle(heapq.heappop(self._timers)[2])

    # what the shell asks for

    def register(self) -> None:
        """Register with the controller: this hospital is up."""
        self.links.tell(self.register_as)

    def tell(self, word: ToController) -> None:
        """Send a word to the controller."""
        self.links.tell(word)

    def reply(self, to: str, answer: Answer) -> None:
        """Answer the sender of a model."""
        self.links.reply(to, answer)

    def call(self, to: str, word: Ready) -> None:
        """Call the host before this one: a model is waited for."""
        self.links.call(to, word)

    def send(self, to: str, traveller: Traveller) -> None:
        """Hand a model over to its next host."""
        self.links.send(to, traveller)

    def work(self, task: Task) -> None:
        """Have a step carried out."""
        self._tasks.put(task)

    def wait(self, seconds: float, timer: Timer) -> None:
        """Set a timer."""
        heapq.heappush(self._timers, (clock.now() + seconds, next(self._order), timer))

    def persist(self, state: State, record: Record | None, ticket: int) -> None:  # noqa: ARG002 - the reporter has written the record
        """Keep the state beside the work; where nothing is kept, memory has to do."""
        if self.keeper is None:
            self.shell.on_persisted(ticket)
            return
        self.keeper.keep(
            state, self.shell.models, lambda: self._hand_in(lambda: self.shell.on_persisted(ticket))
        )

    def over(self, error: FedskdError | None) -> None:
        """End."""
        self._over = True
        self._tasks.put(error)

    # what the links tell

    def announced(self, hop: HopId, sender: str) -> bool:
        """Return whether to take in the weights of a model; so many may be on their way at once as
        may wait, and the next one.
        """
        state = self.shell.state
        verdict = self.machine.judge(state, hop, sender)
        crowded = self.links.arriving >= self.machine.terms.inbox and not self.machine.needs(
            state, hop
        )
        if verdict.reason or verdict.later or (verdict.take and crowded):
            self.shell.handle(Knocked(hop, sender, crowded))
            return False
        return verdict.take

    def on_model(self, traveller: Traveller, sender: str) -> None:
        """Take a model in."""
        self.shell.arrive(traveller, sender)

    def on_repeat(self, hop: HopId, sender: str, digest: str) -> None:
        """Compare a model that has come again with the one that came first."""
        if self.machine.judge(self.shell.state, hop, sender).repeat:
            self.shell.handle(Repeated(hop, sender, digest))

    def on_answer(self, answer: Answer, by: str) -> None:
        """Hand an answer to the machine."""
        self.shell.handle(answered(answer, by))

    def on_word(self, word: FromController) -> None:
        """Hand the controller's word to the machine."""
        if not isinstance(word, Epoch) and word.epoch != self.machine.topology.epoch:
            self.reporter.report_refusal(
                "controller", f"{type(word).__name__} of epoch {word.epoch}"
            )
            return
        if isinstance(word, Start):
            if self.keeper:
                self.keeper.book = word
            self.links.open(word)
        self.shell.handle(heard(word))
        if isinstance(word, Epoch):
            routes = self.shell.state.routes(self.machine.topology)
            self.links.let_go([*filter(routes.left_out, word.lost)])

    def on_refusal(self, sender: str, reason: str) -> None:
        """Count and log what no member would send."""
        self.reporter.report_refusal(sender, reason)
