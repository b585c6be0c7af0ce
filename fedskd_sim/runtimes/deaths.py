"""How members of a run ended, in words: who, where in the run, why, and what to do about it."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedskd_sim.errors import (
    FedskdError,
    ForkServerDied,
    HospitalCrashed,
    OutputNotWritable,
    SocketPathTooLong,
)
from fedskd_sim.exits import all_errors, meaning, rebuilt
from fedskd_sim.member.crash import MEMORY, PRINTED, crash
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events
from fedskd_sim.runtimes.folder import Tail, look_at
from fedskd_sim.runtimes.forkserver import UNKNOWN
from fedskd_sim.runtimes.member import MemberOrder, log_error
from fedskd_sim.runtimes.supervisor import Lost


class Terminated(SystemExit):
    """A polite signal has asked this process to end."""


def cause(code: int) -> str:
    """Return how a process ended: by which signal, if the exit code is negative, or with which code
    and what that means.
    """
    if code < 0:
        names = {sign.value: f" ({sign.name})" for sign in signal.Signals}
        return f"by signal {-code}{names.get(-code, '')}"
    meanings = {
        error.exit_code: meaning(error) for error in all_errors() if not error.__subclasses__()
    }
    return f"with exit code {code}" + (
        f" ({meanings[code].rstrip('.')})" if code in meanings else ""
    )


def oom_kills(root: Path = Path("/")) -> int | None:
    """Count the processes that the kernel has killed for lack of memory in this one's cgroup; None
    where it does not count.

    Reads ``memory.events`` of cgroup v2 or ``memory.oom_control`` of v1; in a container the own
    cgroup may be seen as the root.
    """
    with suppress(OSError, ValueError, KeyError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            top, name = (
                ("sys/fs/cgroup", "memory.events")
                if not controllers
                else ("sys/fs/cgroup/memory", "memory.oom_control")
            )
            for file in (root / top / path.lstrip("/") / name, root / top / name):
                if file.is_file():
                    counts = dict(
                        entry.split() for entry in file.read_text(encoding="utf-8").splitlines()
                    )
                    return int(counts["oom_kill"])
    return None


@contextmanager
def own_words(
    order: MemberOrder, fix: Callable[[], str], let: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Tell in a member's own log, and by its exit code, what ended it, even where nobody
    foresaw it.

    An exception in any of its threads ends the whole process: a member that has lost one can only
    keep others waiting.

    Args:
        order: whose work is done inside.
        fix: is asked what to look at, once the traceback has been printed.
        let: exceptions that are no failures here.

    Raises:
        FedskdError: as raised inside, or made of whatever else was raised.

    """

    def end(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None:
            os._exit(_describe_death(order, failed.exc_value, fix).exit_code)

    before, threading.excepthook = threading.excepthook, end
    try:
        yield
    except BaseException as error:
        if isinstance(error, (FedskdError, *let)):
            raise
        raise _describe_death(order, error, fix) from error
    finally:
        threading.excepthook = before


def _describe_death(
    order: MemberOrder, error: BaseException, fix: Callable[[], str]
) -> FedskdError:
    with suppress(OSError):
        traceback.print_exception(error)
    known = [
        events.place(logged.what)
        for logged in Tail(order.folder / "logs" / f"{order.name}.jsonl").events()
    ]
    death = crash(order.name, next((where for where in reversed(known) if where), ""), error, fix())
    bound = {} if order.name == CONTROLLER else {"hospital": order.name}
    # a full disk takes no words: the exit code has to do
    with (
        suppress(OSError, ValueError),
        order.log(**bound) as log,
    ):
        log_error(log, death)
    return death


LONGEST_FOLDER = 70


@dataclass(frozen=True)
class Endings:
    """Knows the run folder, and how many processes the kernel had killed for lack of memory
    before the launch.
    """

    folder: Path
    killed_before: int = field(default_factory=lambda: oom_kills() or 0)

    def crash(self, lost: Lost) -> FedskdError:
        """Return an error that says who died, where and why, and point to a file only if there is
        something in it.
        """
        name, code, where = lost
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
        """Name the file in an error that points to what a member has printed, which that member
        did not know.
        """
        if error and error.fix == PRINTED:
            error.fix = look_at(self.folder, error.culprit) or PRINTED
        return error

    def why(self, code: int) -> tuple[str, str]:
        """Return how a process ended, and what to do about it where the kernel has counted a kill
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
        """Return how the fork server ended."""
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
