"""What installed packages offer by entry points. Looking takes a while, so it is remembered for as
long as nothing is installed, removed or put on the path: a folder that changes has another time.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

Installed = tuple[tuple[str, int], ...]


def offers(group: str, name: str = "") -> list[EntryPoint]:
    """List the entry points of a group, or those of one name, usable or not."""
    return [one for one in _offers(group, _installed()) if name in ("", one.name)]


def offered_here(group: str, name: str) -> EntryPoint | None:
    """Return what this program itself offers under a name, whatever others do; None for nothing."""
    here = f"{__package__.partition('.')[0]}."
    return next((one for one in offers(group, name) if one.value.startswith(here)), None)


@lru_cache(maxsize=16)
def _offers(group: str, installed: Installed) -> tuple[EntryPoint, ...]:  # noqa: ARG001 - it is what the answer holds for
    return tuple(entry_points(group=group))


def _installed() -> Installed:
    """Return the folders in which packages may be, with the times of their last change."""
    found = []
    for place in sys.path:
        with suppress(OSError):
            found.append((place, os.stat(place or ".").st_mtime_ns))  # noqa: PTH116 - of many, often
    return tuple(found)
