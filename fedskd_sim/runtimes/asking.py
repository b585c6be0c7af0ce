"""Questions whose answer takes PyTorch: a process forked from the fork server answers, so that
the launcher need not import it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fedskd_sim.errors import HospitalCrashed
from fedskd_sim.runtimes.deaths import cause

Result = TypeVar("Result")


class Told(NamedTuple):
    """What is said on the way to an answer."""

    words: str


class Surroundings(NamedTuple):
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
    place = Surroundings(Path.cwd(), dict(os.environ))
    given = (theirs, place, question, arguments, tell is not None)
    process = multiprocessing.get_context("forkserver").Process(
        target=_answer, args=given, name="question", daemon=True
    )
    process.start()
    theirs.close()
    with ours:
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


def _hear(ours: Connection, tell: Callable[[str], None] | None) -> Any:
    """Wait for the answer, and hand on what is said until then; None if the process has died."""
    try:
        while isinstance(found := ours.recv(), Told):
            if tell:
                tell(found.words)
    except EOFError:
        return None
    return found


def _answer(
    to: Connection,
    place: Surroundings,
    question: Callable[..., Any],
    arguments: tuple[Any, ...],
    tells: bool,  # noqa: FBT001 - processes are given their arguments by position
) -> None:
    def tell(words: str) -> None:
        with suppress(OSError):
            to.send(Told(words))

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
