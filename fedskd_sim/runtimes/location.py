"""Where a run happens: a process of this machine, or a release in a cluster; ``place.json`` in
its run folder says which.
"""

from __future__ import annotations

import json
import os
import platform
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import Field, TypeAdapter, ValidationError

from fedskd_sim import clock
from fedskd_sim.errors import OutputNotWritable, RunUnreadable, Where
from fedskd_sim.records import NO_OTHER_KEYS, UnixSeconds
from fedskd_sim.records.files import no_run
from fedskd_sim.runtimes.folder import LOCK
from fedskd_sim.wholefiles import write_text

FILE = "place.json"


LAUNCHER_LOOK_S = 0.1


ABOUT_S = 2.0
"""By so much may two readings of the moment at which a process began differ: it is counted from a
clock that people set."""


Name = Annotated[str, Field(min_length=1)]


RUN = r"^([0-9a-f]{8})?$"


RunName = Annotated[str, Field(pattern=RUN)]
"""As `launch` and the chart draw it; empty where a run has none. It becomes part of paths."""


@dataclass(frozen=True, slots=True)
class Here:
    """A process: its number, when it began (UNIX seconds), and the machine whose number that is."""

    __pydantic_config__ = NO_OTHER_KEYS
    pid: Annotated[int, Field(gt=1, lt=1 << 31)]
    born: UnixSeconds
    machine: str
    runtime: Literal["processes"] = "processes"
    run: RunName = ""
    """The run's own name, by which its hospitals know what they have in custody."""
    data: str = ""
    """The folder with data files; empty for none."""
    boot: str = ""
    """Which boot of which kernel the process is of: it stays what it is where machines are
    renamed; empty in what earlier versions noted."""

    @classmethod
    def of_this_process(cls) -> Here:
        """Describe this process."""
        born = psutil.Process().create_time()
        return cls(os.getpid(), born, platform.node(), boot=_boot())

    @property
    def away(self) -> bool:
        """Return whether it is a process of another machine, of which nothing can be known here."""
        return self.machine != platform.node() and (not self.boot or self.boot != _boot())

    def process(self, folder: Path) -> psutil.Process | None:
        """Find it; None if it has ended, whoever has its number now, belongs to another machine, or
        is no launcher of the run in this folder, whatever the folder says.
        """
        try:
            found = psutil.Process(self.pid)
            same = (
                abs(found.create_time() - self.born) < ABOUT_S
                and found.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return None
        return found if same and not self.away and _holds(self.pid, folder / LOCK) else None

    def terminate(self, folder: Path, patience: float) -> bool:
        """Ask it to end, and tell whether it has within ``patience`` seconds; nobody else is ever
        signalled.

        Raises:
            OutputNotWritable: it is another user's.

        """
        process, deadline = self.process(folder), clock.now() + patience
        try:
            if process is not None:
                process.terminate()
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied as error:
            raise OutputNotWritable(
                f"process {self.pid} is another user's", fix="let that user stop it"
            ) from error
        while self.process(folder) and clock.now() < deadline:
            clock.sleep(LAUNCHER_LOOK_S)
        return self.process(folder) is None


def _boot() -> str:
    """Return what Linux calls this boot; '' where it cannot be known."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _holds(pid: int, lock: Path) -> bool:
    """Return whether a process has a run folder's lock open; nobody can tell it of another user's,
    which cannot be signalled either.
    """
    try:
        wanted = lock.lstat()
        opened = [*Path(f"/proc/{pid}/fd").iterdir()]
    except PermissionError:
        return True
    except OSError:
        return False
    for one in opened:
        with suppress(OSError):  # closed meanwhile
            if stat.S_ISREG(wanted.st_mode) and os.path.samestat(wanted, one.stat()):
                return True
    return False


@dataclass(frozen=True, slots=True)
class InCluster:
    """A release in a cluster; ``collected``: it has ended, and its results are in the folder."""

    __pydantic_config__ = NO_OTHER_KEYS
    release: Name
    namespace: Name
    context: str
    collected: bool = False
    runtime: Literal["kubernetes"] = "kubernetes"
    run: RunName = ""
    """The run's own name; empty where it was only joined here."""
    resumed: bool = False
    """It went on here with what it had left elsewhere or earlier, which is in the folder."""


RunLocation = Here | InCluster


_FORM: TypeAdapter[RunLocation] = TypeAdapter(RunLocation)


def note(folder: Path, place: RunLocation) -> None:
    """Note where a run happens, for `fedskd-sim status` and its kin; raises OutputNotWritable."""
    write_text(folder / FILE, json.dumps(asdict(place), indent=1) + "\n")


def read(folder: Path) -> RunLocation | None:
    """Read where the run of a folder happens; None where it was never noted.

    Raises:
        RunUnreadable: the folder is no run folder, or what it says of its place is damaged.

    """
    if not (folder / "scenario.yaml").is_file():
        raise no_run(folder)
    file = folder / FILE
    try:
        return _FORM.validate_json(file.read_bytes(), strict=True) if file.exists() else None
    except (OSError, ValidationError) as error:
        text = (
            "it does not say where the run is: neither a process with its machine and birth nor a "
            "release"
        )
        fix = "stop the run where it runs; remove this file to read what is in the folder"
        raise RunUnreadable(text, fix=fix, where=Where(str(file))) from error


def memory() -> tuple[int, int]:
    """Return the bytes of memory that this process and its children may use, and how many of them
    are free: the machine's, or those of the control group (version 2) that it is in, where that has
    fewer.
    """
    found = psutil.virtual_memory()
    total, free = found.total, found.available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        kinds = dict(
            line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines()
        )
        used -= int(kinds.get("inactive_file", 0))  # given back when something else needs it
    except (OSError, ValueError):
        return total, free
    return min(total, limit), max(0, min(free, limit - used))
