"""The controller's ear in a cluster: what hospitals say, against what their pods show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from fedskd_sim.kubernetes import run_controller
from fedskd_sim.messages import Done, Failed, Message, Progress
from fedskd_sim.transport import NothingReceived


@dataclass
class Clock:
    """A clock that goes on only where somebody sleeps."""

    time: float = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class Words:
    """A hub that has some words waiting, or a pod tracker that comes to its conclusions after a
    while.
    """

    waiting: list[Message]
    clock: Clock = field(default_factory=Clock)
    delay: float = 0.0
    released: float = 0.0

    def receive(self, timeout: float) -> Message:
        if not self.waiting:
            self.clock.sleep(timeout)
            raise NothingReceived(timeout)
        return self.waiting.pop(0)

    def queued(self) -> bool:
        return self.clock.now() < self.released

    def conclusion(self) -> Message | None:
        return self.waiting.pop(0) if self.waiting and self.clock.now() >= self.delay else None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock of the test's own into the controller."""
    made = Clock()
    monkeypatch.setattr(run_controller, "clock", made)
    return made


@pytest.fixture
def hear(clock: Clock) -> Any:
    """Say something to the controller while a conclusion is on its way."""

    def attend(said: Message, concluded: list[Message]) -> Message:
        return run_controller.PodAwareHub(
            Words([said]), Words(concluded, clock, delay=clock.now() + 1)
        ).receive(5)

    return attend


@pytest.mark.parametrize("code", [40, 45])
def test_a_dead_pod_is_the_cause_of_a_time_out(code: int, hear: Any) -> None:
    """A hospital that waited in vain is told of first; the crash that its pod's state shows a
    moment later is what counts.
    """
    crash = Failed(1, "east", 41, "its container ended with exit code 70")
    assert hear(Failed(1, "south", code, "waited"), [crash]) == crash


def test_a_time_out_alone_stands(hear: Any, clock: Clock) -> None:
    """Where no pod has died, the time-out is passed on after a moment."""
    late = Failed(1, "south", 40, "waited")
    assert hear(late, []) == late
    assert (
        run_controller.OWN_WORD_S <= clock.now() < run_controller.OWN_WORD_S + run_controller.LOOK_S
    )
    assert hear(late, [Done(1, "east")]) == late


def test_other_words_are_passed_on_at_once(hear: Any, clock: Clock) -> None:
    """Neither progress nor another error waits for the pods."""
    for word in (Progress(1, "south", "east", 1, 1, 0.5), Failed(1, "south", 43, "not a number")):
        assert hear(word, []) == word
    assert clock.now() == 0


def test_waiting_in_a_queue_is_no_part_of_a_time_out(clock: Clock) -> None:
    """Patience is over as long after the queue's word as without a queue; the controller's own
    time stands still meanwhile, so that nobody is lost for it.
    """
    pod_tracker = Words([], clock, released=100.0)
    attentive = run_controller.PodAwareHub(Words([], clock), pod_tracker)
    with pytest.raises(NothingReceived):
        attentive.receive(7)
    assert clock.now() == pytest.approx(107, abs=2 * run_controller.LOOK_S)
    assert attentive.time() == pytest.approx(7, abs=2 * run_controller.LOOK_S)
    with pytest.raises(NothingReceived):
        attentive.receive(20 - attentive.time())
    assert clock.now() == pytest.approx(120, abs=2 * run_controller.LOOK_S)
