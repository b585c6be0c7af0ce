"""Commits beside the work: whoever has something to keep hands it over and goes on; it hears
when the disk has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Condition, Thread
from typing import Any, NamedTuple

from fedskd_sim.custody.store import Commit, Store
from fedskd_sim.errors import FedskdError, HospitalCrashed
from fedskd_sim.messages import Weights, digest, freeze, lasting
from fedskd_sim.wholefiles import settle


class Held(NamedTuple):
    """Weights with their digest, where that is known: then they are not looked at if the disk
    has them.
    """

    weights: Weights
    digest: str = ""


class Snapshot(NamedTuple):
    """What is to be kept; see `fedskd_sim.custody.store.Commit`, which has digests in place of
    the weights.
    """

    identity: Mapping[str, str]
    machine: Mapping[str, Any]
    numbers: Mapping[str, Any]
    learner: Mapping[str, Weights]
    models: Mapping[str, Held]
    records: int
    lines: int


class Writer:
    """Writes the newest of what it was given: one that comes while another is written replaces
    those that wait.

    ``commit`` may be called by several threads and never waits for the disk. What may change is
    taken at once: buffers that are not ``bytes`` are hashed and, unless the disk has them, copied
    before it returns. Weights all of ``bytes`` are looked at once only, as long as every snapshot
    has the same object.
    """

    def __init__(self, store: Store, records: Path, failed: Callable[[FedskdError], None]) -> None:
        """Start the thread that writes.

        Args:
            store: is this thread's from now on.
            records: the hospital's records, which are made safe before the commit that counts them.
            failed: is told by that thread what could not be written; later commits are tried all
                the same.

        """
        self._store, self._records, self._failed = store, records, failed
        self._turn = Condition()
        self._newest: Commit | None = None
        self._needed: frozenset[str] = frozenset()
        self._waiting: list[Callable[[], None]] = []
        self._copies: dict[str, Weights] = {}
        self._known: dict[int, Held] = {}
        self._counted = 0
        self._closing = False
        self._thread = Thread(target=self._run, name="custody", daemon=True)
        self._thread.start()

    def commit(self, snapshot: Snapshot, then: Callable[[], None]) -> Commit:
        """Keep a snapshot; ``then`` is called by the writing thread, in the order of the commits,
        once this or a newer one is safe.

        It must not raise. After `close` nothing is written any more, and nobody called.

        Returns:
            What is going to be written, with the digests of all weights: whoever gives these back
            saves taking them again.

        """
        with self._turn:
            known: dict[int, Held] = {}
            learner = {
                name: self._hold(Held(weights), known) for name, weights in snapshot.learner.items()
            }
            models = {number: self._hold(held, known) for number, held in snapshot.models.items()}
            self._known = {place: held for place, held in known.items() if lasting(held.weights)}
            self._newest = commit = Commit(
                **{**snapshot._asdict(), "learner": learner, "models": models}
            )
            self._waiting.append(then)
            self._forget()
            self._turn.notify()
        return commit

    def close(self) -> None:
        """Wait until everything is written that can be, and end."""
        with self._turn:
            self._closing = True
            self._turn.notify()
        self._thread.join()

    def _hold(self, held: Held, known: dict[int, Held]) -> str:
        """Return the digest of weights, which are kept until the disk has them; ``known`` is of
        this snapshot.
        """
        before = known.get(id(held.weights)) or self._known.get(id(held.weights))
        mark = held.digest or (before.digest if before else digest(held.weights))
        known[id(held.weights)] = Held(held.weights, mark)
        if mark not in self._store.safe and mark not in self._copies:
            self._copies[mark] = freeze(held.weights)
        return mark

    def _forget(self) -> None:
        """Drop copies that neither the newest commit needs nor one that is being written or could
        not be.
        """
        needed = self._needed | (self._newest.named if self._newest else frozenset())
        self._copies = {
            mark: weights
            for mark, weights in self._copies.items()
            if mark in needed and mark not in self._store.safe
        }

    def _run(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._newest or self._closing)
                commit, self._newest = self._newest, None
                if commit is None:
                    return
                self._needed |= commit.named
                copies, covered = dict(self._copies), len(self._waiting)
            try:
                self._write(commit, copies)
                self._tell(covered)
                self._collect()
            except FedskdError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would keep its hospital waiting for ever
                self._failed(
                    HospitalCrashed(
                        f"custody could not be written: {type(error).__name__}: {error}"
                    )
                )

    def _write(self, commit: Commit, copies: Mapping[str, Weights]) -> None:
        if commit.records != self._counted:
            for path in (self._records, self._records.parent):
                settle(path)
            self._counted = commit.records
        self._store.write(commit, copies)

    def _tell(self, covered: int) -> None:
        """Call back the first ``covered`` of those that wait: what they wait for is on the disk
        now, and a model may be acknowledged, or go on.
        """
        with self._turn:
            told, self._waiting = self._waiting[:covered], self._waiting[covered:]
            self._needed = frozenset()
        for then in told:
            then()

    def _collect(self) -> None:
        """Remove what no commit needs any more, neither one that is kept nor one that is still
        to be written.
        """
        with self._turn:
            self._forget()
            doomed = self._store.release_unneeded(
                self._needed | (self._newest.named if self._newest else frozenset())
            )
        self._store.remove(doomed)
