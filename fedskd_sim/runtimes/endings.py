"""How members of a run of processes ended, in words: who, where, why, and what to do about it."""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from fedskd_sim.errors import (
    FedskdError,
    ForkServerDied,
    HospitalCrashed,
    OutputNotWritable,
    SocketPathTooLong,
)
from fedskd_sim.exits import rebuilt
from fedskd_sim.member.crash import MEMORY, PRINTED
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.runtimes.deaths import cause, oom_kills
from fedskd_sim.runtimes.folder import look_at
from fedskd_sim.runtimes.forkserver import UNKNOWN

LONGEST_FOLDER = 70


@dataclass(frozen=True)
class Endings:
    """Knows the run folder, and how many processes the kernel had killed for lack of memory
    before the launch.
    """

    folder: Path
    killed_before: int = field(default_factory=lambda: oom_kills() or 0)

    def crash(self, name: str, code: int, where: str) -> FedskdError:
        """Say of whom, where and why, and point to a file only if there is something in it."""
        errors = self.folder / "logs" / f"{name}.err"
        said = (
            errors.read_text(encoding="utf-8", errors="replace").strip() if errors.is_file() else ""
        )
        place = "before the start" if name == CONTROLLER else where or "while it started"
        why, fix = self.why(code)
        words = said.splitlines()[-1][:200] if said else ""
        if code == OutputNotWritable.exit_code and "no space" not in words:
            words = "no space left where it writes, or no permission"
        text = ": ".join(part for part in (f"{name!r} died {why} {place}", words) if part)
        fix = fix or look_at(self.folder, name)
        known = rebuilt(code, text, fix=fix)
        found = HospitalCrashed(text, fix=fix) if type(known) is FedskdError else known
        found.culprit = name
        return found

    def with_file(self, error: FedskdError | None) -> FedskdError | None:
        """Let an error that points to what a member has printed name the file, which that member
        did not know.
        """
        if error and error.fix == PRINTED:
            error.fix = look_at(self.folder, error.culprit) or PRINTED
        return error

    def why(self, code: int) -> tuple[str, str]:
        """Say how a process ended, and what to do about it where the kernel has counted a kill
        for lack of memory.
        """
        counted = (oom_kills() or 0) - self.killed_before
        if code == -signal.SIGKILL and counted > 0:
            return (
                f"{cause(code)}, for lack of memory,",
                f"its cgroup counts {counted} such kills since the launch: {MEMORY}",
            )
        return cause(code), ""

    def server(self, code: int | None) -> FedskdError:
        """Say how the fork server ended."""
        why, fix = ("unseen", "") if code in (None, UNKNOWN) else self.why(code or 0)
        text = (
            "the fork server, the process that starts the hospitals and learns how they end, died "
            f"{why}"
        )
        return ForkServerDied(
            f"{text}; how the hospitals ended is not known", fix=fix or "start the run again"
        )


def check_temporary_folder() -> None:
    """Refuse a folder for temporary files in which Unix sockets cannot have names; the fork
    server needs one too.
    """
    try:
        home = tempfile.gettempdir()
    except FileNotFoundError as error:
        text = (
            "no folder for temporary files can be written; no space left, or no permission: "
            f"{error.strerror}"
        )
        raise OutputNotWritable(
            text, fix="make room, or set TMPDIR to a folder that can be written"
        ) from error
    if len(os.fsencode(home)) > LONGEST_FOLDER:
        text = f"{home} is too long a path for Unix sockets, {LONGEST_FOLDER} bytes are allowed"
        raise SocketPathTooLong(text, fix="set TMPDIR to a shorter path")
