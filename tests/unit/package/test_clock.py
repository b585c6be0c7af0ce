"""The clock: what it promises to those who measure and to those who read logs."""

from __future__ import annotations

import time

import pytest
import zmq

from fedskd_sim import clock
from fedskd_sim.transport.zeromq.sockets import LONGEST_POLL_MS, Inbox


def test_unix_time_does_not_jump_with_the_systems_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who sets the system's clock back by a day changes no time in a log."""
    before = clock.unix()
    monkeypatch.setattr(time, "time", lambda: before - 86400)
    assert before <= clock.unix() < before + 3600
    assert clock.stamp() >= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before))


def test_no_seconds_are_left_after_a_deadline() -> None:
    """A deadline that has passed leaves 0 seconds, never fewer; one to come leaves at most the
    distance to it.
    """
    assert clock.seconds_left(clock.now() - 1) == 0.0
    assert 0.0 < clock.seconds_left(clock.now() + 3600) <= 3600


def test_a_wait_that_no_poll_can_count_is_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller waits for twice ``timeouts.hop`` and more, which may be months: each poll has
    a number of milliseconds that the system can count, and what comes in a later one is received.
    """
    polls: list[int] = []
    inbox, message = object.__new__(Inbox), "a message"
    there = [False] * 3

    class Socket:
        def poll(self, milliseconds: int) -> bool:
            polls.append(milliseconds)
            there[:] = there[1:]
            return there == [True]

    def take(_: Inbox) -> str:
        if there != [True]:
            raise zmq.Again
        return message

    inbox.socket = Socket()  # type: ignore[assignment]
    monkeypatch.setattr(Inbox, "_next", take)
    assert inbox.receive() is None
    assert inbox.receive(LONGEST_POLL_MS + 7) is None
    there[:] = [False, False, True]
    assert inbox.receive(5 * LONGEST_POLL_MS) == message
    assert polls == [LONGEST_POLL_MS, 7, LONGEST_POLL_MS, LONGEST_POLL_MS]
    assert LONGEST_POLL_MS < 2**31
