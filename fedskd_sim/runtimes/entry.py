"""Where a member's process begins, forked from the fork server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection

from fedskd_sim.errors import FedskdError
from fedskd_sim.runtimes.deaths import own_words
from fedskd_sim.runtimes.folder import look_at
from fedskd_sim.runtimes.life import run_hospital
from fedskd_sim.runtimes.member import MemberOrder, run_controller


def be_hospital(order: MemberOrder, lease: Connection) -> None:  # noqa: ARG001 - held as long as this process lives
    """Be a hospital; the lease keeps the folder of the run's sockets."""
    _be(order, run_hospital)


def be_controller(order: MemberOrder, lease: Connection, announce: Connection) -> None:  # noqa: ARG001 - as above
    """Be the controller, and announce its address once it listens."""
    _be(order, partial(run_controller, announce=announce.send))


def _be(order: MemberOrder, work: Callable[[MemberOrder], None]) -> None:
    _enter(order)
    try:
        with own_words(order, partial(look_at, order.folder, order.name)):
            work(order)
    except FedskdError as error:
        with suppress(OSError):
            print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - into the process's own error file
        sys.exit(error.exit_code)


def _enter(order: MemberOrder) -> None:
    """Open the process's own error file, and make it end when the launcher dies."""
    descriptor = os.open(
        order.folder / "logs" / f"{order.name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
    )
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
