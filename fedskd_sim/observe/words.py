"""How names, durations and sizes are written wherever a run is shown."""

from __future__ import annotations

UNITS = ("bytes", "kB", "MB", "GB")


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


def amount(size: int) -> str:
    """Write a number of bytes in the largest unit, of thousands, that it has."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(UNITS) - 1:  # noqa: PLR2004 - as disks count
        value, unit = value / 1000, unit + 1
    return f"{value:.{min(unit, 1)}f} {UNITS[unit]}"
