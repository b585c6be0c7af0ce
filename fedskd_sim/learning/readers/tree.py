"""The files of a data folder, behind symbolic links too."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(folder: Path, *endings: str) -> list[Path]:
    """List the files in any folders below one, in order: the same list wherever they lie.

    Links to folders are followed, each folder once; hidden files are left out.

    >>> from pathlib import Path
    >>> files_below(Path("no such folder"), ".jpg", ".png")
    []

    Args:
        folder: where to begin; one that is not there has none.
        endings: what names end with, as they are written; nothing for all files.

    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # noqa: PTH114, PTH118 - faster than Path for tens of thousands
        found += [
            Path(place, name)
            for name in files
            if name.endswith(endings or "") and not name.startswith(".")
        ]
    return sorted(found)
