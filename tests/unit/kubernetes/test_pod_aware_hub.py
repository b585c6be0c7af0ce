"""The controller's ear in a cluster: what hospitals say, against what their pods show."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fedskd_sim.kubernetes import pod_tracker, run_controller
from fedskd_sim.kubernetes.pod_tracker import PodTracker
from fedskd_sim.kubernetes.run_controller import PodAwareHub
from fedskd_sim.messages import Done, Failed, Message, Progress
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes.supervisor import OWN_WORD_S, Finding, PodSaw, Rules
from fedskd_sim.transport import NothingReceived

CRASH = Finding("failed", "its container ended with exit code 70", 70)


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
    """A hub that has some words waiting, and beside which a pod is seen so after a while."""

    waiting: list[Message]
    clock: Clock
    tracker: PodTracker
    seen: list[tuple[float, Finding]] = field(default_factory=list)

    def receive(self, timeout: float) -> Message:
        while self.seen and self.clock.now() >= self.seen[0][0]:
            self.tracker._hand_in(PodSaw("east", self.seen.pop(0)[1], "e"))
        if not self.waiting:
            self.clock.sleep(timeout)
            raise NothingReceived(timeout)
        return self.waiting.pop(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock of the test's own into the controller and its look at pods."""
    made = Clock()
    for module in (run_controller, pod_tracker):
        monkeypatch.setattr(module, "clock", made)
    return made


@pytest.fixture
def hub(clock: Clock) -> Callable[..., PodAwareHub]:
    """Say something to the controller, while a pod becomes what it is a second later."""

    def attend(*said: Message, pod: Finding | None = None) -> PodAwareHub:
        tracker = PodTracker(Rules(("south", "east")), EventLog(io.StringIO()))
        tracker.began({"east": "e", "south": "s"})
        seen = [(clock.now() + 1, pod)] if pod else []
        return PodAwareHub(Words([*said], clock, tracker, seen), tracker)  # type: ignore[arg-type]

    return attend


@pytest.mark.parametrize("code", [40, 45])
def test_a_dead_pod_is_the_cause_of_a_time_out(code: int, hub: Callable[..., PodAwareHub]) -> None:
    """A hospital that waited in vain is told of first; the crash that its pod's state shows a
    moment later is what counts, and all that is told.
    """
    attentive = hub(Failed(1, "south", code, "waited"), pod=CRASH)
    assert attentive.receive(9) == Failed(1, "east", 41, CRASH.text)
    with pytest.raises(NothingReceived):
        attentive.receive(9)


def test_a_time_out_alone_stands(hub: Callable[..., PodAwareHub], clock: Clock) -> None:
    """Where no pod has died, the time-out is passed on after a moment; a hospital that is done is
    told of meanwhile.
    """
    late = Failed(1, "south", 40, "waited")
    assert hub(late).receive(9) == late
    assert OWN_WORD_S <= clock.now() < OWN_WORD_S + run_controller.LOOK_S
    attentive = hub(late, pod=Finding("succeeded", code=0))
    assert [attentive.receive(9) for _ in range(2)] == [Done(1, "east"), late]


def test_other_words_are_passed_on_at_once(hub: Callable[..., PodAwareHub], clock: Clock) -> None:
    """Neither progress nor another error waits for the pods, nor for a word that does."""
    late = Failed(1, "south", 40, "waited")
    for word in (Progress(1, "south", "east", 1, 1, 0.5), Failed(1, "south", 43, "not a number")):
        assert hub(word).receive(9) == word
        assert hub(late, word).receive(9) == word
    assert clock.now() == 0


def test_waiting_in_a_queue_is_no_part_of_a_time_out(
    hub: Callable[..., PodAwareHub], clock: Clock
) -> None:
    """Patience is over as long after the queue's word as without a queue; the controller's own
    time stands still meanwhile, so that nobody is lost for it.
    """
    attentive = hub()
    attentive.pod_tracker._hand_in(PodSaw("east", Finding("queued"), "e"))
    attentive.hub.seen = [(100.0, Finding("running"))]  # type: ignore[attr-defined]
    with pytest.raises(NothingReceived):
        attentive.receive(7)
    assert clock.now() == pytest.approx(107, abs=2 * run_controller.LOOK_S)
    assert attentive.time() == pytest.approx(7, abs=2 * run_controller.LOOK_S)
    with pytest.raises(NothingReceived):
        attentive.receive(20 - attentive.time())
    assert clock.now() == pytest.approx(120, abs=2 * run_controller.LOOK_S)
