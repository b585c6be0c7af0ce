"""What this program lets a process do that is forked from the fork server, which has read PyTorch
once for all of them: carry out one of its own commands, or answer a question, so that the launcher
need not import PyTorch.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fedskd_sim import clock
from fedskd_sim.errors import HospitalCrashed
from fedskd_sim.runtimes.deaths import cause, check_temporary_folder
from fedskd_sim.runtimes.forkserver import ForkServer, let_go, modules_for, private_folder
from fedskd_sim.scenario import Scenario

Result = TypeVar("Result")


class QuestionAnswer(NamedTuple):
    """What is said on the way to an answer."""

    words: str


class CallerState(NamedTuple):
    """What relative paths and variables mean where a question is asked; the fork server may have
    begun elsewhere.
    """

    folder: Path
    environment: Mapping[str, str]


def ask(
    question: Callable[..., Result], *arguments: Any, tell: Callable[[str], None] | None = None
) -> Result:
    """Call a function in a process of its own, in this folder and environment, and give what it
    gives.

    Args:
        question: a function of a module; it, its arguments and its result can go from process to
            process.
        arguments: its arguments.
        tell: is told here what the question, which takes a ``tell`` of its own, says meanwhile.

    Raises:
        FedskdError: what the function raises, or that its process has died.

    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    place = CallerState(Path.cwd(), dict(os.environ))
    given = (theirs, place, question, arguments, tell is not None)
    process = multiprocessing.get_context("forkserver").Process(
        target=_answer, args=given, name="question", daemon=True
    )
    with ours:
        with theirs:
            _start(process)
        try:
            found = _hear(ours, tell)
        except BaseException:
            process.terminate()  # nobody waits for the answer any more
            raise
        finally:
            process.join()
    if found is None:
        text = f"the process that checks models and data died {cause(process.exitcode or 0)}"
        fix = "see what it has written above; give it more memory, or use fewer samples"
        raise HospitalCrashed(text, fix=fix)
    answer, error = found
    if error is not None:
        raise error
    return answer  # type: ignore[no-any-return]  # what the question gives


def _start(process: ForkServerProcess) -> None:
    try:
        process.start()
    except (OSError, EOFError) as failed:
        text = f"the process that checks models and data cannot be started: {failed}"
        fix = "start again; see that this user may run Python, with processes and memory left"
        raise HospitalCrashed(text, fix=fix) from failed


def _hear(ours: Connection, tell: Callable[[str], None] | None) -> Any:
    """Wait for the answer, and hand on what is said until then; None if the process has died."""
    try:
        while isinstance(found := ours.recv(), QuestionAnswer):
            if tell:
                tell(found.words)
    except EOFError:
        return None
    return found


def _answer(
    to: Connection,
    place: CallerState,
    question: Callable[..., Any],
    arguments: tuple[Any, ...],
    tells: bool,  # noqa: FBT001 - processes are given their arguments by position
) -> None:
    def tell(words: str) -> None:
        with suppress(OSError):
            to.send(QuestionAnswer(words))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the launcher's business
    os.chdir(place.folder)
    os.environ.clear()
    os.environ.update(place.environment)
    found: tuple[Any, Exception | None]
    try:
        found = question(*arguments, **({"tell": tell} if tells else {})), None
    except Exception as error:  # noqa: BLE001 - it is raised where the question was asked
        found = None, error
    with suppress(OSError):  # a launcher that has gone meanwhile asks no more
        to.send(found)


ALSO = (
    "fedskd_sim.cli.launch",
    "fedskd_sim.operate.execution",
    "fedskd_sim.runtimes.memory",
    "fedskd_sim.custody.verify",
    "fedskd_sim.results.report",
)
"""What a launch imports besides."""
AT_A_TIME = 65_536
"""Bytes of a command's words that are read, and of its last words that are kept."""


def prepare(scenario: Scenario, more: Mapping[str, str]) -> None:
    """Start the fork server, unless it runs already; call it before commands begin.

    Args:
        scenario: what commands launch, or its like: what they import is imported beforehand.
        more: variables that the server finds besides this process's: OpenMP, once loaded, keeps the
            number of threads that it has found.

    Raises:
        SocketPathTooLong: it cannot listen in the folder for temporary files.
        OutputNotWritable: nothing can be made in that folder.

    """
    check_temporary_folder()
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        ForkServer.running([*ALSO, *modules_for(scenario)], private_folder().path)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass
class Command:
    """A command at work, in a session of its own: an interrupt of this one does not reach it."""

    process: ForkServerProcess
    _errors: Connection
    _said: bytes = b""

    @classmethod
    def begin(
        cls, arguments: Sequence[str], environment: Mapping[str, str], held: Sequence[int] = ()
    ) -> Command:
        """Carry out ``fedskd-sim ARGUMENTS`` here; what it prints is lost.

        Args:
            arguments: what would be typed.
            environment: all variables that it finds.
            held: file descriptors that it holds open as long as it lives, whoever else closes them.

        Raises:
            OSError, EOFError: the fork server has just died.

        """
        ours, theirs = os.pipe()
        kept = [Connection(os.dup(one)) for one in held]
        with Connection(theirs, readable=False) as errors:
            reader = Connection(ours, writable=False)
            given = (tuple(arguments), CallerState(Path.cwd(), dict(environment)), errors, kept)
            process = multiprocessing.get_context("forkserver").Process(
                target=_carry_out, args=given, name="command", daemon=False
            )
            try:
                process.start()
            except BaseException:
                reader.close()
                raise
            finally:
                for one in kept:
                    one.close()
        return cls(process, reader)

    def ended(self, seconds: float) -> bool:
        """Wait up to so many seconds for the end, and tell whether it has come."""
        deadline = clock.now() + seconds
        while wait([self._errors], clock.seconds_left(deadline)):
            said = os.read(self._errors.fileno(), AT_A_TIME)
            if not said:
                self._errors.close()
                self.process.join()
                return True
            self._said = (self._said + said)[-AT_A_TIME:]
        return False

    @property
    def words(self) -> str:
        """Return what it has written to standard error, or the end of it."""
        return self._said.decode(errors="replace")


def _carry_out(
    arguments: tuple[str, ...], place: CallerState, errors: Connection, _held: list[Connection]
) -> None:
    let_go()
    os.setsid()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(errors.fileno(), 2)
    os.close(nowhere)
    errors.close()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.chdir(place.folder)
    os.environ.clear()
    os.environ.update(place.environment)
    sys.argv = ["fedskd-sim", *arguments]
    runpy.run_module("fedskd_sim", run_name="__main__")
