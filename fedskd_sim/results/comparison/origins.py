"""With which code and data the runs of a comparison were computed, as digests: results of another
program, of an architecture or a reader that was edited meanwhile, or of other data, are not put
beside others without a word.

Files behind a scenario are read whole once. After that their names, sizes and times of change are
looked at, and they are read again only if any of these is another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from fedskd_sim.errors import CustodyForeign, FedskdError
from fedskd_sim.learning.readers import places, reading
from fedskd_sim.learning.readers.tree import files_below
from fedskd_sim.learning.sources import sources
from fedskd_sim.scenario import OwnCode, Scenario

DATA = "data "
"""What names of data begin with, among those of what a run is computed with."""
PARTS = f"{DATA}of each hospital by itself"
GONE = "missing"
IMAGES = (".jpg", ".jpeg", ".png")
ENDINGS = (*IMAGES, ".tif", ".tiff", ".dcm", ".dicom")
ENDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ham10000-images": IMAGES,
        "derm7pt": (*IMAGES, ".csv"),
        "abide-rois": (".1d",),
        "image-table": ENDINGS,
        "image-folders": ENDINGS,
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
    own: Callable[[Any, Path | None], str]
    """Gives the digest of what a reader gives that tells of no files, such as one of one's own. It
    is asked once for each."""
    _known: dict[str, str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def of(self, scenario: Scenario) -> dict[str, str]:
        """Return a digest for each set of files that hospitals read, by its name."""
        sets = {
            f"{DATA}{hospital.data.file}": hospital.data
            for hospital in scenario.hospitals
            if hasattr(hospital.data, "file")
        }
        found = (places.part_of(self.folder, name) for name in scenario.names)
        held = sorted(file for one in found if one for file in one.iterdir() if file.is_file())
        with self._lock:
            if held:
                return {PARTS: self._digest_files(PARTS, held[0].parents[1], held)}
            return {name: self._digest(name, dataset) for name, dataset in sets.items()}

    def _digest(self, name: str, dataset: Any) -> str:
        with suppress(FedskdError, OSError):  # the run says it better
            if "file" in type(dataset).model_fields or dataset.name in ENDS:
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
    if dataset.name == "image-folders":
        root = places.folder_of(dataset.name, folder) / dataset.images
        return root, [one for one in files_below(root) if one.suffix.lower() in ENDINGS]
    file = places.find(dataset.file, folder)
    if dataset.name not in ENDS:
        return file.parent, [file]
    root = file.parent.parent if dataset.name == "derm7pt" else file.parent
    ends, below = ENDS[dataset.name], getattr(dataset, "images", "")
    return root, sorted(
        {file, *(one for one in files_below(root / below) if one.name.lower().endswith(ends))}
    )


def _look(root: Path, files: list[Path]) -> str:
    """Return the digest of where files are, how large, and when they were changed."""
    whole = sha256(f"{root.resolve()}\n".encode(errors="surrogatepass"))
    for file in files:
        found = os.stat(file)  # noqa: PTH116 - faster for tens of thousands
        line = f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n"
        whole.update(line.encode(errors="surrogatepass"))
    return whole.hexdigest()[:LENGTH]


def _read(root: Path, files: list[Path]) -> str:
    """Return the digest of files, each with its name below the root."""
    whole = sha256()
    with ThreadPoolExecutor(THREADS) as pool:
        for file, found in zip(files, pool.map(_digest_of, files), strict=True):
            name = str(file.relative_to(root)).encode(errors="surrogatepass")
            whole.update(name + b"\0" + found)
    return whole.hexdigest()[:LENGTH]


def _digest_of(file: Path) -> bytes:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").digest()


Code = Mapping[str, str]
"""Digests of code and data, by what they are; see `fedskd_sim.learning.devices`, and
`fedskd_sim.results.comparison.origins` for names that begin with `DATA`."""
RunKey = tuple[str, int]
"""The label and the seed of a run."""
FIX = (
    "remove these runs to have them computed again, give another --out, or add --anyway to compare "
    "them all the same"
)


def now(scenario: Scenario, data: DataDigests, code: OwnCode | None = None) -> Code:
    """Tell the code and data that a run would be computed with here."""
    if not scenario.learns:
        return {}
    return sources(scenario, code=code) | data.of(scenario)


def digests(folder: Path | None, memory: Path) -> DataDigests:
    """Look after the data of a folder; arguments as those of `DataDigests`."""
    return DataDigests(folder, memory, reading.digest)


def keep(run: Path, code: Code) -> None:
    """Write down with which code and data a run is computed, beside its folder."""
    file_of(run).write_text(json.dumps(code, indent=1) + "\n", encoding="utf-8")


def kept(run: Path) -> Code | None:
    """Read what `keep` wrote; None where nothing was kept, or no more than remains of it."""
    try:
        found = json.loads(file_of(run).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return {str(name): str(value) for name, value in found.items()} if found else None


def refuse_other(found: Sequence[tuple[RunKey, Code | None, Code]]) -> None:
    """Refuse finished runs of other code or data.

    Args:
        found: of every finished run which it is, with which code and data it was computed, None
            if that is not known, and with which it would be now.

    Raises:
        CustodyForeign: names the first, and what differs.

    """
    others = [(run, words) for run, before, here in found if (words := _changed(before, here))]
    if others:
        (label, seed), first = others[0]
        what = _kinds({name for _, changed in others for name in changed})
        text = (
            f"{len(others)} of {len(found)} finished runs were computed with other {what}, the "
            f"first {label}, seed {seed}: {', '.join(first.values())}"
        )
        raise CustodyForeign(text, fix=FIX)


def _changed(before: Code | None, here: Code) -> dict[str, str]:
    """Say in words, by name, what is other than before. Of data that were not looked at before,
    as by earlier versions, nothing is known.
    """
    if before is None:
        return {}
    changed = {
        name: f"{name} was {before.get(name, 'unknown')} and is {value}"
        for name, value in here.items()
        if before.get(name) != value and (name in before or not name.startswith(DATA))
    }
    return changed or ({} if before.keys() <= here.keys() else {"": "it had more"})


def _kinds(names: Iterable[str]) -> str:
    """Say whether names are those of code, of data, or of both."""
    return " and ".join(sorted({"data" if name.startswith(DATA) else "code" for name in names}))


def remarks(found: Mapping[RunKey, Code | None]) -> Iterator[str]:
    """Say which of the runs that are compared were computed with different code or data, and of
    how many that is not known.
    """
    users: dict[str, dict[str, list[RunKey]]] = {}
    for run, code in found.items():
        for name, value in (code or {}).items():
            users.setdefault(name, {}).setdefault(value, []).append(run)
    for name, values in users.items():
        if len(values) > 1:
            each = "; ".join(f"{value}: {_list(runs)}" for value, runs in values.items())
            yield f"Runs of different {_kinds({name})} are compared. The {name} was {each}."
        blank = [run for run, code in found.items() if code is not None and name not in code]
        if blank and name.startswith(DATA):
            yield f"Nothing says with which {name} {_list(blank)} were computed."
    unknown = [run for run, code in found.items() if code is None]
    if unknown:
        yield f"Nothing says with which code {_list(unknown)} were computed."


def _list(runs: Sequence[RunKey]) -> str:
    seeds: dict[str, list[str]] = {}
    for label, seed in runs:
        seeds.setdefault(label, []).append(str(seed))
    return ", ".join(f"{label} (seed {', '.join(found)})" for label, found in seeds.items())


def file_of(run: Path) -> Path:
    """Return where `keep` writes."""
    return run.with_name(f"{run.name}.code.json")
