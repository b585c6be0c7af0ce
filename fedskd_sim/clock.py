"""The one clock of the package; no other module reads time.

Whatever is waited for, measured or compared is counted in monotonic seconds. UNIX time stands in
logs and timings for people to read; the clocks of two machines agree as well as their owners see to
it, so nothing that matters should compare them.
"""

from __future__ import annotations

import time

_BEGIN = time.time() - time.monotonic()
"""UNIX time at which the monotonic clock stood at 0, as read once; processes forked later share
it."""


def now() -> float:
    """Return monotonic seconds since some moment of this machine's past."""
    return time.monotonic()


def unix() -> float:
    """Return UNIX seconds that never jump: they go on with the monotonic clock, wherever the
    system's clock is set to.
    """
    return _BEGIN + time.monotonic()


def computed() -> float:
    """Return the seconds that this thread has computed so far."""
    return time.thread_time()


def computed_by_all() -> float:
    """Return the seconds that all threads of this process together have computed so far."""
    return time.process_time()


def seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline on the monotonic clock; 0 when it has passed."""
    return max(0.0, deadline - time.monotonic())


def sleep(seconds: float) -> None:
    """Do nothing for so many seconds."""
    time.sleep(seconds)


def stamp(moment: float | None = None) -> str:
    """Write a moment (UNIX seconds), or the present one, as ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix() if moment is None else moment))


def compact() -> str:
    """Write the present moment in local time for the name of a file: ``20260131-235959``."""
    return time.strftime("%Y%m%d-%H%M%S", time.localtime(unix()))


def time_of_day(moment: float) -> str:
    """Write a moment (UNIX seconds) as hours and minutes in local time; with the day where that is
    another than today.
    """
    told, today = time.localtime(moment), time.localtime(unix())
    return time.strftime("%H:%M" if told[:3] == today[:3] else "%a %d %b %H:%M", told)
