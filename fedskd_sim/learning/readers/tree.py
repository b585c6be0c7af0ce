"""The files of a data folder, behind symbolic links too."""

from __future__ import annotations

import os
from pathlib import Path

from fedskd_sim.errors import DataCorrupt

RECOVERED = "lost+found"
"""At the top of a disk, and open to its administrator only."""


def files_below(folder: Path, *endings: str) -> list[Path]:
    """Return the files in a folder and in all folders below it, sorted by path. Links to folders
    are followed, each folder once. Hidden files, and what is in hidden folders, are left out.

    >>> from pathlib import Path
    >>> files_below(Path("no such folder"), ".jpg", ".png")
    []

    Args:
        folder: where to begin; if it is not there, the list is empty.
        endings: return only files whose names end so, as written; without any all files.

    Raises:
        DataCorrupt: a folder cannot be opened, whose files would be left out unnoticed.

    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, inner, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = [name for name in inner if not name.startswith(".") and name != RECOVERED]
        inner.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # noqa: PTH114, PTH118 - faster than Path for tens of thousands
        found += [
            Path(place, name)
            for name in files
            if name.endswith(endings or "") and not name.startswith(".")
        ]
    return sorted(found)


def _refuse(error: OSError) -> None:
    """Refuse a folder that is there and cannot be opened."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        text = f"the folder {error.filename} cannot be read: {error.strerror}"
        raise DataCorrupt(text, fix="make it readable") from error
