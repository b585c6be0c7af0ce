"""The clock: what it promises to those who measure and to those who read logs."""

from __future__ import annotations

import time

import pytest

from fedskd_sim import clock


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
