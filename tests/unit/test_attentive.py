"""The controller's ear in a cluster: what hospitals say, against what their pods show."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from fedskd_sim.transport.base import NothingReceived

from fedskd_sim.messages import Done, Failed, Message, Progress
from fedskd_sim.runtimes.kubernetes import conductor


@dataclass
class Words:
    """A hub that has some words waiting, or a roster that comes to its conclusions after a while."""

    waiting: list[Message]
    delay: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    def receive(self, timeout: float) -> Message:
        if not self.waiting:
            raise NothingReceived(timeout)
        return self.waiting.pop(0)

    def conclusion(self) -> Message | None:
        ready = time.monotonic() - self._begun >= self.delay
        return self.waiting.pop(0) if self.waiting and ready else None


@pytest.fixture
def hear(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say something to the controller while a conclusion is on its way."""
    monkeypatch.setattr(conductor, "OWN_WORD_S", 0.5)

    def attend(said: Message, concluded: list[Message]) -> Message:
        return conductor.Attentive(Words([said]), Words(concluded, 0.1)).receive(1)

    return attend


@pytest.mark.parametrize("code", [40, 45])
def test_a_dead_pod_is_the_cause_of_a_time_out(code: int, hear: Any) -> None:
    """A hospital that waited in vain is told of first; the crash that its pod's state shows a moment later is what counts."""
    crash = Failed("east", 41, "its container ended with exit code 70")
    assert hear(Failed("south", code, "waited"), [crash]) == crash


def test_a_time_out_alone_stands(hear: Any) -> None:
    """Where no pod has died, the time-out is passed on after a moment."""
    late = Failed("south", 40, "waited")
    assert hear(late, []) == late
    assert hear(late, [Done("east")]) == late


def test_other_words_are_passed_on_at_once(hear: Any) -> None:
    """Neither progress nor another error waits for the pods."""
    begun = time.monotonic()
    for word in (Progress("south", "east", 1, 1, 0.5), Failed("south", 43, "not a number")):
        assert hear(word, []) == word
    assert time.monotonic() - begun < 0.2
