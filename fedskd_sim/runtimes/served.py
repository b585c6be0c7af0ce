"""What of a hospital's folder is served to whoever may come for it, and what is taken into it: of a
run folder its results and what it goes on from, of a data folder its part of the data.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import file_digest, sha256
from pathlib import Path, PurePath
from typing import BinaryIO, NamedTuple

from fedskd_sim.custody.archive import FOLDER as HOPS
from fedskd_sim.errors import RunUnreadable
from fedskd_sim.learning.readers.places import PART_FILES
from fedskd_sim.runtimes.folder import CUSTODY
from fedskd_sim.runtimes.member import MARKS, STARTED
from fedskd_sim.wholefiles import DRAFT, PRIVATE_FOLDER, settle

BOOKS = ("records", "samples", "timings")
SECRET = ("weights", "predictions", "similarity", "pictures", "audit")
RESULTS = (*BOOKS, "logs", *SECRET, "metrics")
PRIVATE_KINDS = (CUSTODY, HOPS, *SECRET)
"""What shows weights, patients, or what was predicted of whom, is its owner's alone."""
PLACED = "placed"
"""The file that says that everything has been brought."""
BROUGHT = ".brought"
"""The folder for what has not come whole yet."""
BLOCK_BYTES = 1 << 20


class ServedFile(NamedTuple):
    """A file that is served."""

    name: str
    """Its path in the run folder."""
    size: int
    """Bytes, to the end of the last whole line of a file that is still written to."""
    sha256: str


def list_results(folder: Path, hospital: str) -> list[PurePath]:
    """List the files of a run folder with what a hospital has recorded, learned and logged."""
    found = [path for kind in RESULTS for path in (folder / kind).glob(f"{hospital}.*")]
    found += (folder / HOPS / hospital).rglob("*")
    whole = (path for path in sorted(found) if path.is_file() and path.suffix != DRAFT)
    names = (path.relative_to(folder) for path in whole)
    return [name for name in names if owned_by(name.parts, hospital)]


def list_part(folder: Path, _: str) -> list[PurePath]:
    """List the files of a data folder with a hospital's part of the data."""
    return [PurePath(name) for name in PART_FILES if (folder / name).is_file()]


def list_kept(folder: Path, hospital: str) -> list[PurePath]:
    """List the files of a run folder from which a hospital goes on: its custody and its books.

    Raises:
        RunUnreadable: there is nothing in custody.

    """
    custody = folder / CUSTODY / hospital
    if not any(custody.glob("commit-*")):
        text = f"there is nothing from which {hospital!r} could go on in {custody}"
        raise RunUnreadable(text, fix="launch the scenario again")
    names = [f"{CUSTODY}/{hospital}{suffix}" for suffix in (MARKS, STARTED)]
    names = [*(f"{kind}/{hospital}.jsonl" for kind in BOOKS), *names]
    found = [*custody.rglob("*"), *(folder / name for name in names)]
    return [path.relative_to(folder) for path in found if path.is_file()]


def offer(folder: Path, name: PurePath) -> ServedFile:
    """Measure a file of a run folder as it is now; raises OSError."""
    with (folder / name).open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
        if name.suffix == ".jsonl" and size:
            whole = _end_of_last_line(stream, size)
            if whole < size:
                stream.seek(0)
                size, digest = whole, sha256(stream.read(whole)).hexdigest()
    return ServedFile(str(name), size, digest)


def _end_of_last_line(stream: BinaryIO, size: int) -> int:
    """Return how many bytes of a file its whole lines have."""
    while size:
        begin = max(0, size - BLOCK_BYTES)
        stream.seek(begin)
        found = stream.read(size - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        size = begin
    return 0


def owned_by(parts: tuple[str, ...], owner: str) -> bool:
    """Return whether a file is a hospital's: of its custody or kept sessions, or named after it."""
    if parts[:1] == (CUSTODY,):
        return parts[1:2] == (owner,) or parts[1:] in ((owner + MARKS,), (owner + STARTED,))
    if parts[:1] == (HOPS,):
        return parts[1:2] == (owner,)
    return len(parts) == 2 and parts[0] in RESULTS and parts[1].split(".")[0] == owner  # noqa: PLR2004


def _of_part(parts: tuple[str, ...], _: str) -> bool:
    return len(parts) == 1 and parts[0] in PART_FILES


def move(source: Path, target: Path) -> list[Path]:
    """Put files that came into a run folder, each as a whole, and remove where they were.

    Returns:
        Their names in the run folder.

    """
    for before in (target / CUSTODY / new.name for new in source.glob(f"{CUSTODY}/*")):
        # what an earlier life kept is older, and would be in the way
        shutil.rmtree(before, ignore_errors=True)
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for name in names:
        mode = PRIVATE_FOLDER if name.parts[0] in PRIVATE_KINDS else 0o777
        for parent in reversed(name.parents):
            (target / parent).mkdir(mode, exist_ok=True)
        (source / name).replace(target / name)
    for place in {target / parent for name in names for parent in name.parents}:
        settle(place)
    shutil.rmtree(source, ignore_errors=True)
    return names


def _place_kept(folder: Path) -> None:
    """Put what a hospital goes on from in its place, once: after that the hospital is at work with
    it.
    """
    if not (folder / PLACED).exists():
        move(folder / BROUGHT, folder)
        (folder / PLACED).touch()


def _take_kept(folder: Path, hospital: str) -> None:
    """Remove what a hospital goes on from, which is elsewhere now."""
    (folder / PLACED).unlink(missing_ok=True)
    shutil.rmtree(folder / CUSTODY / hospital, ignore_errors=True)


def _take_part(folder: Path, _: str) -> None:
    """Remove a part of the data, so that there is room for another."""
    for name in reversed(PART_FILES):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / BROUGHT, ignore_errors=True)


def _place_part(folder: Path) -> None:
    """Put a part of the data in the place of an earlier one, of which nothing is left; the file
    without which there is no part comes last.
    """
    for name in reversed(PART_FILES):
        (folder / name).unlink(missing_ok=True)
    for name in PART_FILES:
        if (folder / BROUGHT / name).exists():
            (folder / BROUGHT / name).replace(folder / name)
    shutil.rmtree(folder / BROUGHT)
    settle(folder)


class Served(NamedTuple):
    """What is served of a folder, and taken into it."""

    listed: Callable[[Path, str], list[PurePath]]
    """Lists what whoever comes is to fetch, given the folder and its hospital."""
    owned: Callable[[tuple[str, ...], str], bool]
    """Says of a file, by the parts of its name, whether it is the hospital's."""
    place: Callable[[Path], None]
    """Puts what was brought in its place in the folder."""
    take: Callable[[Path, str], None]
    """Removes what is the hospital's there."""


RUN_FOLDER = Served(list_results, owned_by, _place_kept, _take_kept)
DATA_FOLDER = Served(list_part, _of_part, _place_part, _take_part)


def lies_inside(name: str) -> bool:
    """Return whether the path of a file stays inside the folder that it is taken into."""
    path = PurePath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
