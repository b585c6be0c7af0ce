"""Which data the runs of a comparison read: a digest of the files behind a scenario, so that data
which were changed between two runs are not taken for a difference of methods.

Files are read whole once. After that their names, sizes and times of change are looked at, and they
are read again only if any of these is another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.readers import npz, tree
from fedskd_sim.scenario import OwnData, Scenario

DATA = "data "
"""What names of data begin with, among those of what a run is computed with."""
GONE = "missing"
IMAGES = (".jpg", ".jpeg", ".png")
ENDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ham10000-images": IMAGES,
        "derm7pt": (*IMAGES, ".csv"),
        "abide-rois": (".1d",),
        "nifti": (".nii", ".nii.gz", ".hdr", ".img", ".img.gz"),
    }
)
"""What the files below the table end with that are read besides it, in small letters."""
THREADS = 8
LENGTH = 16


@dataclass
class DataDigests:
    """The digests of all data, as they are when asked."""

    folder: Path | None
    """Where the files are; None looks at the environment."""
    memory: Path
    """A file that keeps what was found, with sizes and times of change, for the next comparison;
    what is wrong with it only costs time."""
    own: Callable[[OwnData, Path | None], str]
    """Gives the digest of what a reader of one's own gives. It is asked once for each, since such
    a reader tells of no files."""
    _known: dict[str, str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def of(self, scenario: Scenario) -> dict[str, str]:
        """Give a digest for each set of files that hospitals read, by its name."""
        sets = {
            f"{DATA}{hospital.data.file}": hospital.data
            for hospital in scenario.hospitals
            if hasattr(hospital.data, "file")
        }
        with self._lock:
            return {name: self._digest(name, dataset) for name, dataset in sets.items()}

    def _digest(self, name: str, dataset: Any) -> str:
        with suppress(FedskdError, OSError):  # the run says it better
            if not isinstance(dataset, OwnData):
                return self._digest_files(name, *_files(dataset, self.folder))
            if name not in self._known:
                self._known[name] = self.own(dataset, self.folder)
            return self._known[name]
        return GONE

    def _digest_files(self, name: str, root: Path, files: list[Path]) -> str:
        seen, kept = _look(root, files), self._kept()
        match kept.get(name):
            case {"seen": str(before), "digest": str(digest)} if before == seen:
                return digest
        found = _read(root, files)
        text = json.dumps({**kept, name: {"seen": seen, "digest": found}}, indent=1) + "\n"
        with suppress(OSError):
            self.memory.write_text(text, encoding="utf-8")
        return found

    def _kept(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            found = json.loads(self.memory.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        return {}


def _files(dataset: Any, folder: Path | None) -> tuple[Path, list[Path]]:
    """List the files of a data set, in order, and the folder that their names begin at; raises
    DataMissing.
    """
    file = npz.find(dataset.file, folder)
    if dataset.name not in ENDS:
        return file.parent, [file]
    root = file.parent.parent if dataset.name == "derm7pt" else file.parent
    return root, sorted({file, *_below(root, ENDS[dataset.name])})


def _below(root: Path, ends: tuple[str, ...]) -> Iterator[Path]:
    for place, files in tree.below(root):
        yield from (
            Path(place, name)
            for name in files
            if name.lower().endswith(ends) and not name.startswith(".")
        )


def _look(root: Path, files: list[Path]) -> str:
    """Give the digest of where files are, how large, and when they were changed."""
    whole = sha256(f"{root.resolve()}\n".encode(errors="surrogatepass"))
    for file in files:
        found = os.stat(file)  # noqa: PTH116 - faster for tens of thousands
        line = f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n"
        whole.update(line.encode(errors="surrogatepass"))
    return whole.hexdigest()[:LENGTH]


def _read(root: Path, files: list[Path]) -> str:
    """Give the digest of files, each with its name below the root."""
    whole = sha256()
    with ThreadPoolExecutor(THREADS) as pool:
        for file, found in zip(files, pool.map(_digest_of, files), strict=True):
            name = str(file.relative_to(root)).encode(errors="surrogatepass")
            whole.update(name + b"\0" + found)
    return whole.hexdigest()[:LENGTH]


def _digest_of(file: Path) -> bytes:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").digest()
