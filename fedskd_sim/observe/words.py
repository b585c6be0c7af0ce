"""How names, durations and sizes are written wherever a run is shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

UNITS = ("bytes", "kB", "MB", "GB", "TB")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What moves, colours or renames a terminal, breaks its lines or turns text around; line feeds and
tabs are text."""


def escape_controls(text: str) -> str:
    r"""Write control characters as Python escapes them: ``\\x1b`` for ESC.

    >>> print(escape_controls("red: \x1b[31m"))
    red: \x1b[31m

    """
    return CONTROLS.sub(lambda one: one.group().encode("unicode_escape").decode("ascii"), text)


def short(name: str, length: int) -> str:
    """Cut a name in its middle, since hospitals of one kind differ at the end."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def short_path(path: Path) -> str:
    """Show a path relative to here where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


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


def amount(size: float) -> str:
    """Write a number of bytes with three digits, in the largest unit, of thousands, that it has."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(UNITS) - 1:  # noqa: PLR2004 - three digits at most
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {UNITS[unit]}"


def counted(number: int, what: str) -> str:
    """Write how many there are of something: ``1 round``, ``2 rounds``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def legible(text: str) -> str:
    """Write bytes of a path that are no UTF-8, which Python holds as halves of characters, as they
    are escaped: files of a run are UTF-8, and who reads them refuses halves.
    """
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
