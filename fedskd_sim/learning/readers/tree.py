"""The files of a data folder, behind symbolic links too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def below(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below one, itself first, with the names of its files in order; each
    once, whatever links there are.
    """
    seen: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # noqa: PTH114, PTH118 - as below
        yield place, sorted(files)


def ending(folder: Path, *ends: str) -> list[Path]:
    """List the files below a folder whose names end so, in order; hidden ones apart."""
    return sorted(
        Path(place, file)
        for place, files in below(folder)
        for file in files
        if file.endswith(ends) and not file.startswith(".")
    )
