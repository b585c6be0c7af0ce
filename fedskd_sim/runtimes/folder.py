"""The run folder: made before anything starts, so that a bad place costs nothing; held by one
process; and its logs as one story, read once however often somebody looks.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from heapq import merge
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, count, islice
from pathlib import Path
from threading import Event as Flag
from typing import TextIO

from fedskd_sim import __version__, clock
from fedskd_sim.errors import OutputNotEmpty, OutputNotWritable, RunUnreadable
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Logged
from fedskd_sim.records.files import whole_lines
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.scenario.own import FILE, FOLDER, PACKED, as_text
from fedskd_sim.wholefiles import write_text

ANOTHER = "give another --out, or remove what is in it"
CUSTODY = "custody"
LOCK = ".lock"
"""In a run folder: whoever writes into it, or launched what does, has it open."""
INFORMATION = ".dist-info"
"""How the folder ends in which an installed library is described."""
LOOK_S = 0.5
AGAIN_S = 0.1
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pyzmq",
    "msgpack",
    "xxhash",
    "safetensors",
    "prometheus-client",
)


@dataclass
class Tail:
    """Reads the complete new lines of a log file; of those without the bytes ``only`` nothing but
    their length.
    """

    path: Path
    position: int = 0
    only: bytes = b""

    def events(self) -> Iterator[Logged]:
        """Yield what has been logged since the last call; a line that nobody would log is passed
        over.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            for line in whole_lines(stream):
                self.position += len(line)
                if self.only in line and (logged := events.read(line)):
                    yield logged


def make(loaded: Loaded, where: Path | None, runtime: str) -> Path:
    """Make a run folder with the scenario as it was read and the environment.

    Args:
        loaded: the scenario.
        where: the folder to use; None makes ``runs/NAME-DATE-TIME-ID`` here, and with a number
            behind it where this process has made that in the same second.
        runtime: name of the runtime, for the record.

    Raises:
        OutputNotEmpty: the folder holds something.
        OutputNotWritable: it cannot be made or written.

    """
    if where is not None:
        return _make(loaded, where, runtime)
    name = f"{loaded.scenario.name}-{clock.compact()}-{os.getpid()}"
    for ending in chain([""], map("-{}".format, count(2))):
        with suppress(OutputNotEmpty):
            return _make(loaded, Path("runs") / f"{name}{ending}", runtime)
    raise RuntimeError(name)  # never: numbers do not end


def _make(loaded: Loaded, folder: Path, runtime: str) -> Path:
    """Make a folder that nobody else has made; raises as `make`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputNotEmpty(f"{folder} is not empty", fix=ANOTHER)
        with (folder / "scenario.yaml").open("x", encoding="utf-8") as stream:  # of two, one has it
            stream.write(loaded.document.text)
        if loaded.code or loaded.document.answers:
            (folder / FILE).write_text(as_text(loaded.document.answers, loaded.code), "utf-8")
        if loaded.code:
            loaded.code.write(folder / FOLDER)
            if runtime == "kubernetes":
                (folder / PACKED).write_text(loaded.code.packed(), "utf-8")
        subfolders(folder)
        (folder / "environment.json").write_text(
            json.dumps(environment(runtime), indent=1) + "\n", encoding="utf-8"
        )
    except FileExistsError as error:
        if not folder.is_dir():
            raise OutputNotWritable(f"{folder} is no folder", fix="give another --out") from error
        raise OutputNotEmpty(f"{folder} is not empty", fix=ANOTHER) from error
    except OSError as error:
        fix = "give an --out that you may write to"
        raise OutputNotWritable(f"{folder} cannot be written: {error.strerror}", fix=fix) from error
    return folder.resolve()


def subfolders(folder: Path) -> None:
    """Make the folders of a run folder that are not there."""
    for name in ("records", "samples", "timings", "logs", "weights", "metrics"):
        (folder / name).mkdir(exist_ok=True)


def set_logs_aside(folder: Path) -> None:
    """Make room for logs that are read anew: what is there is kept behind what was set aside
    before, in ``NAME.before``.
    """
    for file in sorted(folder.glob("logs/*.jsonl")):
        with file.with_suffix(".before").open("ab") as stream:
            stream.write(file.read_bytes())
        file.unlink()


def check_ordinary(folder: Path) -> None:
    """Refuse to write into a run folder with anything but files and folders in it: somebody may
    have given it to you, and what is behind a link is not the run's.

    Raises:
        RunUnreadable: there is a link, a pipe or the like.

    """
    for place, inner, files in os.walk(folder):
        for one in sorted(Path(place, name) for name in (*inner, *files)):
            with suppress(FileNotFoundError):  # another process has removed it meanwhile
                mode = one.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    what = "a link" if stat.S_ISLNK(mode) else "no file"
                    fix = (
                        "put a file or folder in its place: nothing in a run folder leads elsewhere"
                    )
                    raise RunUnreadable(f"{one} is {what}", fix=fix)


@contextmanager
def hold_lock(folder: Path, tries: int = 1) -> Iterator[None]:
    """Be the only process that writes into a run folder, or launched what does; the lock ends with
    the process, however it ends.

    Args:
        folder: the run folder.
        tries: how often to ask for it, a tenth of a second apart.

    Raises:
        OutputNotWritable: another process has it, or the folder cannot be written.
        RunUnreadable: as `check_ordinary` does.

    """
    check_ordinary(folder)
    try:
        lock = (folder / LOCK).open("w", encoding="utf-8")
    except OSError as error:
        fix = "give a run folder that you may write to"
        raise OutputNotWritable(f"{folder} cannot be written: {error.strerror}", fix=fix) from error
    with lock:
        while not _locked(lock):
            tries -= 1
            if tries < 1:
                fix = "wait until that process has ended, or stop it"
                raise OutputNotWritable(f"another process follows the run into {folder}", fix=fix)
            Flag().wait(AGAIN_S)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system knows no locks: custody has its own
        return True
    return True


def usable_cores() -> int:
    """Return how many processors this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def environment(runtime: str) -> dict[str, str]:
    """Describe what the run ran on."""
    found = {"fedskd_sim": __version__, "runtime": runtime, "started": clock.stamp()}
    found |= {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": _processor(),
    }
    found["cores"] = str(usable_cores())
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    if lock := lock_met(lock_for_this_python(), sys.path):
        found["lock"] = lock
    return found


def lock_for_this_python() -> Path:
    """Return the lock for this Python and system, whether there is one or not: in the package where
    it is installed, in the project where it is developed.
    """
    major, minor = sys.version_info[:2]
    name = f"python{major}.{minor}-{sys.platform}-{platform.machine()}.txt"
    package = Path(__file__).resolve().parent.parent
    places = (package / "locks" / name, package.parent / "locks" / name)
    return next((file for file in places if file.is_file()), places[0])


def lock_met(lock: Path, places: Iterable[str]) -> str:
    """Return a lock's name and the beginning of its SHA-256 if all that it names is installed in
    its very versions, whatever there is besides; else, or without a lock, an empty text.

    Names of folders tell versions: to read what each library says of itself takes ten times longer.

    Args:
        lock: the file, in pip's format.
        places: where libraries may be; of two of one name the first counts.

    """
    try:
        text = lock.read_bytes()
    except OSError:
        return ""
    found = dict[str, str]()
    for place in places:
        with suppress(OSError):  # an archive, or nothing at all
            for file in os.listdir(place or "."):  # noqa: PTH208 - a path for each takes longer
                if file.endswith(INFORMATION):
                    name, _, number = file.removesuffix(INFORMATION).partition("-")
                    found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), number)
    wanted = re.findall(r"^([a-z0-9-]+)==(\S+)", text.decode(), re.MULTILINE)
    met = wanted and all(found.get(name) == number for name, number in wanted)
    return f"{lock.stem}, sha256 {sha256(text).hexdigest()[:12]}" if met else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def look_at(folder: Path, member: str) -> str:
    """Point to what a member has printed, else to its log; to none that is not there or empty."""
    files = (folder / "logs" / f"{member}.{suffix}" for suffix in ("err", "jsonl"))
    return next((f"see {file}" for file in files if file.is_file() and file.stat().st_size), "")


def follow_lines(file: Path, going: Callable[[], bool]) -> Iterator[str]:
    """Yield the whole lines of a file, and those that are added, until there can be no more."""
    rest = ""
    while not file.is_file() and going():
        clock.sleep(LOOK_S)
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace") as stream:
        last = False
        while True:
            while more := stream.readline():
                rest += more
                if rest.endswith("\n"):
                    yield rest[:-1]
                    rest = ""
            if last:
                return
            last = not going()  # then one more look: what was written before its end
            clock.sleep(0.0 if last else LOOK_S)


def custody_of(scenario: Scenario, run: str, folder: Path) -> Path:
    """Return where the hospitals of a run keep what survives them."""
    return (
        Path(scenario.custody.folder).expanduser() / run
        if scenario.custody.folder
        else folder / CUSTODY
    )


def write_targets(folder: Path, run: str, addresses: Iterable[str]) -> None:
    """Write a file for Prometheus' file_sd_configs: one target per hospital."""
    targets = [{"targets": sorted(addresses), "labels": {"run": run}}]
    write_text(folder / "metrics" / "targets.json", json.dumps(targets, indent=1) + "\n")


MOST_OPEN = 500
"""Files that are read at a time: systems allow 1,024 in all."""
BLOCK = 50
"""Lines for which a file is opened, where there are more files."""


class Logs:
    """The logs of all members of a run."""

    def __init__(self, folder: Path) -> None:
        """Take the run's folder; nothing is read yet."""
        self._folder = folder
        self._tails: dict[Path, Tail] = {}

    def news(self) -> Iterator[Logged]:
        """Yield what has been logged since the last call, in the order of time; side by side, so
        that the logs of a long run need no memory.
        """
        for file in sorted(self._folder.glob("logs/*.jsonl")):
            self._tails.setdefault(file, Tail(file))
        tails = [*self._tails.values()]
        told = map(_in_blocks, tails) if len(tails) > MOST_OPEN else [one.events() for one in tails]
        return merge(*told, key=lambda logged: logged.time)


def _in_blocks(tail: Tail) -> Iterator[Logged]:
    """Yield the same as a tail, which has no file open in between."""
    while block := [*islice(tail.events(), BLOCK)]:
        yield from block
