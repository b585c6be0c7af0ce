"""What a hospital keeps of itself, from which its next life goes on: machine, learner, models in
custody, place in the records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import Any, NamedTuple

from fedskd_sim.custody.store import Commit, Store
from fedskd_sim.custody.writer import Held, Snapshot, Writer
from fedskd_sim.errors import CustodyForeign, FedskdError, Key, RunUnreadable, Where
from fedskd_sim.learning.base import NOTHING, LearnerState
from fedskd_sim.messages import Start, Weights, freeze, lasting
from fedskd_sim.protocol.state import State, dump, handles, parse
from fedskd_sim.records.ledger import Ledger
from fedskd_sim.scenario import Scenario


class KeptPast(NamedTuple):
    """What a hospital goes on from."""

    state: State
    models: Mapping[int, Weights]
    learner: LearnerState
    records: int
    """Bytes of its records."""
    address: str
    """Where it listened."""
    book: Start | None
    """The address book that it had."""
    identity: Mapping[str, str]
    """What its lives must have in common."""


class Freezer:
    """Copies what the next step may change of a learner's state; a group that is the same object
    as last time is copied once.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._given: dict[str, tuple[Weights, Weights]] = {}

    def __call__(self, state: LearnerState) -> LearnerState:
        """Return a state that never changes."""
        before = self._given
        self._given = {
            name: before[name]
            if name in before and before[name][0] is group
            else (group, freeze(group))
            for name, group in state.weights.items()
        }
        return LearnerState(
            state.numbers, {name: copied for name, (_, copied) in self._given.items()}
        )


def past(store: Store, identity: Mapping[str, str], *, anyway: bool) -> KeptPast | None:
    """Read what is in custody; None where nothing is.

    Args:
        store: the hospital's custody.
        identity: what must be the same as when it was kept, by name.
        anyway: go on even if something else than the run is not.

    Raises:
        CustodyForeign: something is not the same.
        RunUnreadable: what is there is damaged, or is none.
        DigestMismatch: so are weights.

    """
    commit = store.latest()
    if commit is None:
        return None
    compare(store.folder, commit.identity, identity, anyway=anyway)
    try:
        return _past(store, commit)
    except (KeyError, TypeError, ValueError) as error:
        raise RunUnreadable(
            f"this is no hospital's custody: {error!r}", where=Where(str(store.folder))
        ) from error


def _past(store: Store, commit: Commit) -> KeptPast:
    machine = commit.machine
    state = parse(machine["state"])
    book = machine["book"]
    return KeptPast(
        state,
        {number: store.weights(commit.models[str(number)]) for number in handles(state)},
        LearnerState(
            commit.numbers, {name: store.weights(digest) for name, digest in commit.learner.items()}
        ),
        commit.records,
        str(machine["address"]),
        Start(int(book["epoch"]), dict(book["addresses"]), dict(book["keys"])) if book else None,
        commit.identity,
    )


def compare(
    folder: Path, before: Mapping[str, str], now: Mapping[str, str], *, anyway: bool
) -> None:
    """Refuse what another run, another program or with other data has kept; bytes would differ.

    Raises:
        CustodyForeign: something is not the same; with ``anyway``, something that no life can go on
            from.

    """
    changed = [name for name in now if before.get(name) != now[name]]
    fixed = any(name in FIXED for name in changed)
    if fixed or (changed and not anyway):
        keys = _changes(before.get("scenario", ""), now.get("scenario", ""))
        words = {name: _differs(name, before.get(name), now[name]) for name in changed}
        words |= {"scenario": "; ".join(keys.values())} if keys else {}
        fix = (
            "put back what it was, or launch the scenario again"
            if fixed
            else "go on where it began, or add --anyway"
        )
        text = f"{folder} was kept under other circumstances: {', '.join(words.values())}"
        raise CustodyForeign(text, fix=fix, key=next(iter(keys), ()))


def _changes(before: str, now: str) -> dict[tuple[Key, ...], str]:
    """Return of the first keys in which two scenarios differ what they were and are; of none where
    they cannot be read, as those that earlier versions kept.
    """
    try:
        old, new = (
            dict(_leaves(Scenario.model_validate_json(text).model_dump(mode="json", by_alias=True)))
            for text in (before, now)
        )
    except ValueError:
        return {}
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return {
        key: _differs(".".join(map(str, key)), old.get(key), new.get(key))
        for key in keys[:MOST_CHANGES]
    }


def _leaves(value: Any, key: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], str]]:
    """Yield every value of a tree by its key, as it is written."""
    if isinstance(value, dict | list) and value:
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for name, one in inner:
            yield from _leaves(one, (*key, name))
    else:
        yield key, json.dumps(value)


def _differs(name: str, before: str | None, now: str | None) -> str:
    was, is_ = ("left out" if one is None else one[:LONGEST] for one in (before, now))
    return f"{name} was {was} and is {is_}"


MOST_CHANGES, LONGEST = 3, 80
"""How many keys of a scenario are told that have changed, and so many letters of each value."""
FIXED = ("run", "hospital", "scenario")
"""What can never differ between a hospital's lives."""


@dataclass
class Keeper:
    """Puts what a hospital would need after its death on disk: commits of its state with models and
    record, and who it is; a later life of the hospital goes on from them (``before``).

    It belongs to the thread of the links, which acknowledges a model only when it is safe here.
    """

    store: Store
    identity: Mapping[str, str]
    ledger: Ledger
    before: KeptPast | None = None
    """What this life goes on from."""
    anyway: bool = False
    """... even with other data."""
    address: str = ""
    learner: LearnerState = NOTHING
    """The learner as of the last step; only what ``freeze`` gave."""
    book: Start | None = None
    freeze: Freezer = field(default_factory=Freezer, init=False)
    """Belongs to the thread that trains, between two steps."""
    _writer: Writer | None = field(default=None, init=False)
    _begun: Flag = field(default_factory=Flag, init=False)
    """The first commit is safe, or could not be made."""

    def begin(self, failed: Callable[[FedskdError], None]) -> None:
        """Begin to write; ``failed`` is told, by another thread, what cannot be kept."""

        def tell(error: FedskdError) -> None:
            self._begun.set()
            failed(error)

        self._writer = Writer(self.store, self.ledger.records, tell)

    def keep(self, state: State, models: Mapping[int, Weights], then: Callable[[], None]) -> None:
        """Keep a state, the models it speaks of, and the learner as of the last step; ``then``
        is called when they are safe.
        """
        if self._writer is None:
            raise RuntimeError("it has not begun")
        held = {
            str(number): Held(models[number], model.digest)
            for number, model in handles(state).items()
        }
        book = self.book and {
            "epoch": self.book.epoch,
            "addresses": dict(self.book.addresses),
            "keys": dict(self.book.keys),
        }
        machine: dict[str, Any] = {"state": dump(state), "address": self.address, "book": book}
        numbers, groups = self.learner
        if not all(map(lasting, groups.values())):
            raise RuntimeError("a learner that is in training cannot be kept")

        def safe() -> None:
            self._begun.set()
            then()

        self._writer.commit(
            Snapshot(self.identity, machine, numbers, groups, held, *self.ledger.mark), safe
        )
        if not self.before:  # so that whoever finds two records, and no commit, knows of a loss
            self._begun.wait()

    def check_data(self, data: str) -> None:
        """Hear the digest of the hospital's data, which all its lives must have in common.

        Raises:
            CustodyForeign: they have changed.

        """
        if self.before and "data" in self.before.identity:
            compare(self.store.folder, self.before.identity, {"data": data}, anyway=self.anyway)
        self.identity = {**self.identity, "data": data}

    def close(self) -> None:
        """Wait until everything that can be is written."""
        if self._writer:
            self._writer.close()
