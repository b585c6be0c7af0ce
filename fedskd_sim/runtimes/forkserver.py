"""The fork server: a process that imports PyTorch once, and from which all members are forked."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing import forkserver, process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

UNKNOWN = 255
"""What multiprocessing gives as the exit code of a process when the fork server is no longer there
to tell it."""
SINCE_S = 1.0


@dataclass(frozen=True, slots=True)
class ForkServer:
    """The fork server of this process, as it was when it was asked for."""

    pid: int

    @classmethod
    def running(cls, preload: str, folder: Path) -> ForkServer:
        """Start it, unless it runs already.

        Args:
            preload: the module that it imports.
            folder: where its socket is, instead of a folder of multiprocessing's own that a killed
                launcher would leave behind.

        """
        config: Any = process.current_process()._config  # type: ignore[attr-defined]  # noqa: SLF001 - the only way to say where
        config["tempdir"] = str(folder)
        multiprocessing.set_forkserver_preload([preload])
        resource_tracker.ensure_running()  # it unblocks interrupts when it starts
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGINT}
        )  # inherited: an interrupt is the launcher's business alone
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        server: Any = forkserver._forkserver  # noqa: SLF001 - nothing else knows its number
        return cls(server._forkserver_pid)  # noqa: SLF001

    def death(self, patience: float = 0.0) -> int | None:
        """Give its exit code, -N for signal N, if it dies within ``patience`` seconds; None if it
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
