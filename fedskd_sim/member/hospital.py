"""A hospital at work: the thread that trains takes one step after the other from its mailbox and
hands back what came of it.
"""

from __future__ import annotations

import traceback
from contextlib import suppress

from fedskd_sim.errors import FedskdError
from fedskd_sim.member.crash import PRINTED, crash, whereabouts
from fedskd_sim.member.faults import FaultInjector
from fedskd_sim.member.keeper import Freezer
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.shell import Task
from fedskd_sim.member.work import Arrival, Worker
from fedskd_sim.messages import Weights


def take_part(mailbox: Mailbox, worker: Worker, faults: FaultInjector | None = None) -> None:
    """Take part in a run from registration to the end.

    Whoever stops this hospital before knows whether another life follows: nobody is told that it
    has failed.

    Raises:
        FedskdError: the run cannot go on; the controller has been told.

    """
    mailbox.start()
    freeze = mailbox.keeper.freeze if mailbox.keeper else None
    try:
        while (task := mailbox.next_task()) is not None:
            carry_out(mailbox, worker, task, freeze, faults)
    except SystemExit:
        mailbox.leave()
        raise
    except FedskdError as error:
        error.told = True
        raise


def carry_out(
    mailbox: Mailbox,
    worker: Worker,
    task: Task,
    freeze: Freezer | None = None,
    faults: FaultInjector | None = None,
) -> None:
    """Carry out one step; an error is the hospital's own word, whatever its class."""
    try:
        arrival = None if task.weights is None else Arrival(task.weights, task.digest)
        worker.make_ready(task.following if task.step.action in ("depart", "host") else None)
        if faults:
            faults.before(task.step)

        def release(weights: Weights, mark: str) -> None:
            if faults:
                faults.drag()
            mailbox.release(task.index, weights, mark)

        record = worker.carry_out(task.step, arrival, release)
        if faults:
            faults.drag()
        kept = freeze(worker.learner.state()) if freeze else None
    except FedskdError as error:
        mailbox.fail(error)
    except Exception as error:  # noqa: BLE001 - a user's architecture may raise anything, and the others must hear of it
        with suppress(OSError):  # a full disk takes no words
            traceback.print_exception(error)
        mailbox.fail(crash(worker.name, whereabouts(task.step), error, PRINTED))
    else:
        mailbox.finish(task.index, record, kept)
