"""The fork server: a process that imports PyTorch once, and from which all members are forked.

Sockets and keys lie in a folder of this user alone that no death leaves behind: a tiny process, the
keeper, makes it and waits at the end of a pipe. The launcher and every member hold the other end;
when the last of them has gone, however it went, the keeper removes the folder.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pipe, forkserver, process, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, cast

from fedskd_sim.errors import OutputNotWritable
from fedskd_sim.scenario import Ham10000, Hospital, MedMnist, Scenario

SMALL = ("roi-", "tab-")
SMALL_ON_SMALL_IMAGES = ("cnn-", "vit-tiny")
SMALL_IMAGES = 64
UNKNOWN = 255
"""What multiprocessing gives as the exit code of a process when the fork server is no longer there
to tell it."""
SINCE_S = 5.0


def modules_for(scenario: Scenario) -> list[str]:
    """Name what the fork server imports for a scenario.

    Shapes of small networks are found by computing (`fedskd_sim.learning.networks.models.quick`).
    Others are found with PyTorch's compiler, a second and 140 MB that hospitals had better share;
    where this guess is wrong, they import it themselves. Privacy needs it for gradients sample by
    sample, and takes another second for what accounts for them.
    """
    if not scenario.learns:
        return ["fedskd_sim.runtimes.entry"]
    private = any(hospital.privacy for hospital in scenario.hospitals)
    small = all(_is_small(scenario, hospital) for hospital in scenario.hospitals)
    return [
        *(["torch._dynamo"] if private or not small else []),
        *(["dp_accounting.pld.privacy_loss_distribution"] if private else []),
        "fedskd_sim.runtimes.preload",
    ]


def _is_small(scenario: Scenario, hospital: Hospital) -> bool:
    """Guess whether the shapes of a hospital's network are found by computing."""
    small = SMALL + SMALL_ON_SMALL_IMAGES * (_pixels(hospital.data) <= SMALL_IMAGES)
    return scenario.architecture(hospital.name).name.startswith(small)


def _pixels(data: object) -> int:
    """Guess height and width of images; those of an .npz have 28 unless its name ends in another
    number.
    """
    if isinstance(data, Ham10000 | MedMnist):
        found = re.search(r"_(\d+)(x\1)?\.npz$", data.file)
        return int(found[1]) if found else 28
    size: int = getattr(data, "image_size", getattr(data, "size", SMALL_IMAGES + 1))
    return size


class Undocumented:
    """All that the package takes of multiprocessing beyond what it documents, which the next Python
    may change; ``tests/unit/runtimes/test_forkserver.py`` tells which has.
    """

    def __init__(self) -> None:
        """Find this process's."""
        self._config: Any = process.current_process()._config  # type: ignore[attr-defined]  # noqa: SLF001 - the only way to say where
        self._server: Any = forkserver._forkserver  # noqa: SLF001 - nothing else knows its number
        self._helper: Any = resource_tracker._resource_tracker  # noqa: SLF001 - nothing else knows what it holds

    def keep_sockets_in(self, folder: Path) -> None:
        """Set where sockets are, instead of a folder of multiprocessing's own that a killed
        launcher would leave behind.
        """
        self._config["tempdir"] = str(folder)

    def number(self) -> int:
        """Return the number of the fork server's process, which runs."""
        found: int = self._server._forkserver_pid  # noqa: SLF001 - as above
        return found

    def let_go(self) -> None:
        """Close what keeps the fork server and the helper alive, and forget them."""
        for held in (self._server._forkserver_alive_fd, self._helper._fd):  # noqa: SLF001 - as above
            os.close(held)
        self._server._forkserver_alive_fd = self._helper._fd = None  # noqa: SLF001 - as above


@dataclass(frozen=True, slots=True)
class ForkServer:
    """The fork server of this process, as it was when it was asked for."""

    pid: int

    @classmethod
    def running(cls, preload: Sequence[str], folder: Path) -> ForkServer:
        """Start it, unless it runs already.

        Args:
            preload: the modules that it imports.
            folder: where its socket is.

        """
        parts = Undocumented()
        parts.keep_sockets_in(folder)
        multiprocessing.set_forkserver_preload([*preload])
        resource_tracker.ensure_running()  # it unblocks interrupts when it starts
        # inherited: an interrupt is the launcher's business alone
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return cls(parts.number())

    def death(self, patience: float = 0.0) -> int | None:
        """Return its exit code, -N for signal N, if it dies within ``patience`` seconds; None if it
        lives.

        `UNKNOWN` is the code of one that multiprocessing has replaced. Systems without process
        descriptors never tell.
        """
        if not hasattr(os, "pidfd_open"):
            return None
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:  # multiprocessing has already replaced it
            return UNKNOWN
        try:
            if not wait([descriptor], patience):
                return None
            found = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return UNKNOWN
        finally:
            os.close(descriptor)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def let_go() -> None:
    """Make the fork server, and the helper of multiprocessing, end when whoever started them does,
    and not wait for this process, which was forked from it and will fork nothing.
    """
    Undocumented().let_go()


KEEPER = """
trap '' HUP INT QUIT TERM PIPE
folder=$(mktemp -d "$1/fedskd-XXXXXXXX") && printf '%s\\n' "$folder" && read -r _
rm -rf -- "$folder"
"""
GONE_S = 5.0


@dataclass(frozen=True)
class PrivateFolder:
    """The folder; it stays as long as any process holds the lease."""

    path: Path
    lease: Connection
    keeper: subprocess.Popen[bytes]

    def close(self) -> None:
        """Return this process's lease, and wait until members that were stopped have gone and
        the folder with them.
        """
        self.lease.close()
        with suppress(subprocess.TimeoutExpired):
            self.keeper.wait(GONE_S)
        shutil.rmtree(self.path, ignore_errors=True)  # for a keeper that was killed itself


@cache
def private_folder() -> PrivateFolder:
    """Make this process's private folder, once; it is closed when the process ends.

    Raises:
        OutputNotWritable: the folder for temporary files takes none.

    """
    place = tempfile.gettempdir()
    end, lease = Pipe(duplex=False)
    with end:
        keeper = subprocess.Popen(  # noqa: S603 - the shell of POSIX, with the script above
            ["/bin/sh", "-c", KEEPER, "fedskd-keeper", place], stdin=end.fileno(),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
    with cast("IO[bytes]", keeper.stdout) as said:
        made = os.fsdecode(said.readline().rstrip(b"\n"))
    if not made:
        lease.close()
        keeper.wait()
        raise OutputNotWritable(
            f"no folder can be made in {place}",
            fix="make room there, or set TMPDIR to another folder",
        )
    folder = PrivateFolder(Path(made), lease, keeper)
    atexit.register(folder.close)
    return folder
