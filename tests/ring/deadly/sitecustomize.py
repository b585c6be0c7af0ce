"""Deaths by appointment. With this folder on PYTHONPATH a hospital is killed, finds its disk full
or waits at a named point of its work.

``DEATHS`` names a JSON file: a list of ``[hospital, point, number, how]``. The hospital meets its
fate when it comes to the point for the ``number``-th time in one life; ``how`` is "kill", "full" or
"wait": until the file ``DEATHS.go`` stands beside the list, however long a test takes.
Who is killed in training has a commit made just before, as an arrival may.
Each entry is met once in a run: then the empty file ``DEATHS.INDEX`` stands beside the list. A full
disk ends the launch, wherever the others are: full disks are met in the order of the list, each in
a launch of its own, at its number or later.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from importlib.machinery import PathFinder
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

ROOM = 50_000
"""Bytes to which a file can grow on a disk that is full: enough for words, not for a model."""
LOOK_S = 0.02
life = SimpleNamespace(name="", came=Counter(), mailbox=None)


def due(plan: Path, index: int, how: str, beyond: int) -> bool:
    """Say whether a fate is met, by how far its point was passed in this life."""
    if how != "full" or not index:
        return beyond == 0
    before = Path(f"{plan}.{index - 1}")
    return beyond >= 0 and before.exists() and before.read_text() != str(os.getppid())


def reached(*points: str) -> None:
    """Come to points; never return from the one at which this life ends."""
    for point in points:
        life.came[point] += 1
        plan = Path(os.environ["DEATHS"])
        for index, (name, where, number, how) in enumerate(json.loads(plan.read_text())):
            done = Path(f"{plan}.{index}")
            if (name, where) != (life.name, point) or done.exists():
                continue
            if due(plan, index, how, life.came[point] - number):
                done.write_text(str(os.getppid()))
                if how == "full":
                    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM))
                elif how == "wait":
                    while not Path(f"{plan}.go").exists():
                        time.sleep(LOOK_S)
                else:
                    if point == "during_training":
                        commit()
                    os.kill(os.getpid(), signal.SIGKILL)
            break  # who is named twice at one point has a life for each


def commit() -> None:
    """Let the hospital keep what it is now, as any arrival would; return when it is on the disk."""
    safe, mailbox = Event(), life.mailbox
    keep, shell = mailbox.keeper.keep, mailbox.shell
    mailbox._hand_in(lambda: keep(shell.state, shell.models, safe.set))
    safe.wait()


def wrap(owner: Any, method: str, before: Any = lambda *_: (), after: Any = lambda *_: ()) -> None:
    """Let a call come to the points that ``before`` and ``after`` give for its arguments."""
    original = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        reached(*before(*args))
        result = original(*args, **kwargs)
        reached(*after(*args))
        return result

    setattr(owner, method, wrapped)


def in_life(module: Any) -> None:
    """Learn which hospital this is."""
    original = module.run_hospital

    def run_hospital(order: Any) -> None:
        life.name = order.name
        original(order)

    module.run_hospital = run_hospital


def in_shell(module: Any) -> None:
    """Stop at what the machine asks for."""
    soon = {"Join": "before_registration", "Leave": "goodbye"}
    late = {"Send": "after_send", "Ack": "after_acknowledgement"}

    def kind(effect: Any) -> str:
        return type(effect.answer if type(effect).__name__ == "Reply" else effect).__name__

    def chosen(names: dict[str, str]) -> Any:
        return lambda _, effect: (names[kind(effect)],) if kind(effect) in names else ()

    wrap(module.Shell, "_carry_out", chosen(soon), chosen(late))


def in_mailbox(module: Any) -> None:
    """Stop at what arrives and what leaves."""
    start = module.Mailbox.start

    def started(self: Any) -> None:
        life.mailbox = self
        start(self)

    module.Mailbox.start = started
    wrap(module.Mailbox, "announced", after=lambda *_: ("receiving",))
    wrap(module.Mailbox, "on_model", before=lambda *_: ("received_not_delivered",))
    wrap(module.Mailbox, "release", before=lambda *_: ("during_visit",))


def in_work(module: Any) -> None:
    """Stop at the steps of a program."""
    early = {
        "depart": "departing",
        "home": "evaluation",
        "ensemble": "ensemble",
        "evaluation": "evaluation",
        "gather": "gathering",
    }
    early |= {"homecoming": "homecoming", "reduce": "reducing"}

    def begins(_: Any, step: Any, *__: Any) -> tuple[str, ...]:
        name = step.stop.kind if step.stop else step.action
        return (early[name],) if name in early else ()

    wrap(
        module.Worker,
        "carry_out",
        begins,
        lambda _, step, *__: ("warm_up",) if step.action == "warm_up" else (),
    )
    wrap(
        module.Worker,
        "_record",
        lambda _, stop, *__: ("reconcile",) if stop.kind == "homecoming" and stop.round else (),
    )


def in_session(module: Any) -> None:
    """Stop between two gradient steps."""
    wrap(module, "take", after=lambda *_: ("during_training",))


def in_private(module: Any) -> None:
    """Stop between two private steps."""
    wrap(module, "clipped_sum", after=lambda *_: ("during_training",))


def in_store(module: Any) -> None:
    """Stop around commits."""
    wrap(module.Store, "write", lambda *_: ("before_save",), lambda *_: ("after_save",))


def in_ledger(module: Any) -> None:
    """Stop in the middle of a record."""
    original = module.Ledger.add

    def add(self: Any, entry: Any) -> None:
        if type(entry).__name__ == "Record":
            file = self._files[type(entry)]
            place = file.tell()
            file.write('{"scenario":"to')
            file.flush()
            reached("torn_record")
            os.truncate(file.name, place)
            file.seek(place)
        original(self, entry)

    module.Ledger.add = add


CHANGED = {
    "fedskd_sim.runtimes.life": in_life,
    "fedskd_sim.member.shell": in_shell,
    "fedskd_sim.member.mailbox": in_mailbox,
    "fedskd_sim.member.work": in_work,
    "fedskd_sim.learning.sessions.steps": in_session,
    "fedskd_sim.learning.sessions.private": in_private,
    "fedskd_sim.custody.store": in_store,
    "fedskd_sim.records.ledger": in_ledger,
}


class Finder:
    """Changes modules as they are imported."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """Find a module, to be changed once it is there."""
        if name not in CHANGED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            CHANGED[name](module)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("DEATHS"):
    sys.meta_path.insert(0, Finder)
