"""How names and durations are written wherever a run is shown."""

from __future__ import annotations


def short(name: str, length: int) -> str:
    """Cut a name in its middle, since hospitals of one kind differ at the end."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def duration(seconds: float) -> str:
    """Write a duration with its two largest units."""
    whole = round(max(0.0, seconds))
    for size, name, below, under in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // below} {under}"
    return f"{max(0.0, seconds):.1f} s"
