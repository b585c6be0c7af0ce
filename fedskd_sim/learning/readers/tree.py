"""The files of a data folder, behind symbolic links too."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(folder: Path, *endings: str) -> list[Path]:
    """Return the files in a folder and in all folders below it, sorted by path. Links to folders
    are followed, each folder once. Hidden files are left out.

    >>> from pathlib import Path
    >>> files_below(Path("no such folder"), ".jpg", ".png")
    []

    Args:
        folder: where to begin; if it is not there, the list is empty.
        endings: return only files whose names end so, as written; without any all files.

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
