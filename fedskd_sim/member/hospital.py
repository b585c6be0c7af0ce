"""A hospital at work: the thread that trains takes one step after the other from its mailbox and hands back what came of it."""

from __future__ import annotations

import traceback

from fedskd_sim.errors import FedskdError, HospitalCrashed
from fedskd_sim.member.faults import fate, suffer
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.shell import Task
from fedskd_sim.member.work import Arrival, Worker


def take_part(mailbox: Mailbox, worker: Worker) -> None:
    """Take part in a run from registration to the end.

    Raises:
        FedskdError: the run cannot go on; the controller has been told.

    """
    mailbox.start()
    try:
        while (task := mailbox.next_task()) is not None:
            carry_out(mailbox, worker, task)
    except SystemExit:
        mailbox.fail(HospitalCrashed(f"{worker.name!r} was told to stop", fix="see who stopped it"))
        raise


def carry_out(mailbox: Mailbox, worker: Worker, task: Task) -> None:
    """Carry out one step; an error is the hospital's own word, whatever its class."""
    try:
        arrival = None if task.weights is None else Arrival(task.weights, task.digest)
        worker.make_ready(task.following if task.step.action in ("depart", "host") else None)
        suffer(fate(worker.scenario, worker.name, task.step.stop))
        record = worker.carry_out(task.step, arrival, lambda weights, mark: mailbox.release(task.index, weights, mark))
    except FedskdError as error:
        mailbox.fail(error)
    except Exception as error:  # noqa: BLE001 - a user's architecture may raise anything, and the others must hear of it
        mailbox.fail(_translated(error, worker.name, task))
    else:
        mailbox.finish(task.index, record)


def _translated(error: Exception, name: str, task: Task) -> FedskdError:
    stop, last = task.step.stop, traceback.extract_tb(error.__traceback__)[-1]
    place = f"round {task.step.round}" + (f" hop {stop.hop} with the model of {stop.model!r}" if stop else "")
    text = f"{name!r} died in {task.step.action}, {place}: {type(error).__name__}: {error} ({last.name}, line {last.lineno})"
    return HospitalCrashed(text, fix=f"look at {last.filename}:{last.lineno}")
