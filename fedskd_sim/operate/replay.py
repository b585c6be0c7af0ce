"""Execute sessions that a run has kept again, and compare what comes of them with its records.

`fedskd_sim.custody.verify` proves that records and weights fit together; this shows that they come
from the scenario, the data and the code at hand: a session begins with the learner's state and the
model that the run kept (``instruments.keep_hops``), and has to leave the record that stands in the
run folder, digests and measures, byte for byte. Where versions or the device are others than those
of the run, or a device does not repeat, its weights have to be within `NEAR` of the run's instead,
and that is said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fedskd_sim.custody.archive import (
    DATA,
    FOLDER,
    SESSIONS,
    ArchivedSession,
    SessionKey,
    SessionStart,
    archived,
    archived_weights,
)
from fedskd_sim.errors import (
    ChainBroken,
    CustodyForeign,
    InvalidValue,
    RunUnreadable,
    Where,
    extras_named,
)
from fedskd_sim.member.crash import in_step
from fedskd_sim.member.work import Arrival, Worker
from fedskd_sim.messages import Weights, freeze
from fedskd_sim.operate import trust
from fedskd_sim.records import Record
from fedskd_sim.records.files import own_records
from fedskd_sim.ring.program import Step
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.life import circumstances, code_of
from fedskd_sim.runtimes.location import Here
from fedskd_sim.scenario import Loaded, OwnCode, load
from fedskd_sim.seeds import seed

FIX = (
    "the record, what was kept or the code of the run have been changed since: restore the run "
    "folder from a copy, or run the scenario again"
)
EXACT = ("outcome", "samples", "steps", "bytes", "digest_in", "architecture")
"""What a session leaves the same on every device."""


class Replayed(NamedTuple):
    """What executing sessions again has shown."""

    executed: int
    kept: int
    """How many sessions the run kept."""
    sessions: int
    """How many it had."""
    seed: int
    """The scenario's, with which it is drawn which are executed."""
    differences: tuple[ChainBroken, ...] = ()
    apart: tuple[str, ...] = ()
    """Why they were not compared byte for byte: what is otherwise than in the run."""
    furthest: float = 0.0
    """How far weights were from the run's then, as a share of the way that the session moved
    them."""
    limit: float = 0.0
    """How far they may be."""

    def __str__(self) -> str:
        """Return it in one line, and where bytes were not compared in a second one."""
        wrong = len(self.differences)
        result = f"{wrong} of them otherwise" if wrong else "all the same bytes"
        if self.apart and not wrong:
            result = f"all within {self.limit:g} of the way that training moved their weights"
        text = (
            f"{self.executed} of {self.kept} sessions that were kept, of {self.sessions} in all, "
            f"were executed again: {result} (drawn with seed {self.seed})"
        )
        if not self.apart:
            return text
        return (
            f"{text}\nnot compared byte for byte: {'; '.join(self.apart)}; the furthest weights "
            f"were off by {self.furthest:.2g} of that way, and measures were not compared"
        )


def replay(
    run: Path,
    count: int,
    data: Path | None = None,
    *,
    trust_code: str = "",
    tell: Callable[[str], None] = lambda _: None,
    says: Callable[[OwnCode], None] = lambda _: None,
) -> Replayed:
    """Execute sessions of a run again that are drawn from those that it kept; a larger ``count``
    executes the same ones and more.

    Args:
        run: the run folder, whose records are whole.
        count: how many.
        data: where data files are; None for where they were.
        trust_code: the digest of code in the folder that may be run, though somebody else launched
            it.
        tell: is told of every session before it is executed.
        says: is told which code of the user's own is about to be run.

    Raises:
        RunUnreadable: nothing was kept, or it is damaged, or it brings code of somebody else's.
        InvalidValue: fewer were kept.
        CustodyForeign: the data are others than the run's.
        FedskdError: a session cannot be executed here.

    """
    loaded = load(run / "scenario.yaml")
    kept = [one for name in loaded.scenario.members for one in archived(run, name)]
    _check_count(run, loaded, count, len(kept))
    trust.check(loaded.code, run, trust_code)
    if loaded.code:
        says(loaded.code)
    with extras_named(), _settings_put_back():
        bench = _Bench(run, loaded, data or _data_of(run))
        return bench.execute_drawn(kept, count, tell)


def _data_of(run: Path) -> Path | None:
    """Return where a run's data files were, if it was of this machine."""
    place = location.read(run)
    return Path(place.data) if isinstance(place, Here) and place.data else None


def _check_count(run: Path, loaded: Loaded, count: int, kept: int) -> None:
    """Refuse to execute more sessions than were kept."""
    budget = loaded.scenario.instruments.keep_hops
    if not kept and budget and not (run / FOLDER).exists():
        text = f"the sessions that the run kept are not in {run / FOLDER}"
        fix = "bring that folder there; what pods keep stays on their claims"
        raise RunUnreadable(text, fix=fix)
    secret = [one.name for one in loaded.scenario.hospitals if one.privacy_is_secret]
    if not kept and {*secret} >= {*loaded.scenario.members}:
        text = f"sessions of {', '.join(secret)} were not kept: they repeat only with a secret key"
        raise RunUnreadable(text, fix="launch its scenario again, with privacy.key: scenario")
    if not kept:
        fix = "launch its scenario again, with --set instruments.keep_hops=1 (GiB) or more"
        why = f"; {budget:g} GiB are too few for one" if budget else ""
        raise RunUnreadable(f"the run in {run} has kept no sessions{why}", fix=fix)
    if count > kept:
        text = f"{count} sessions are to be executed again, and the run kept {kept}"
        raise InvalidValue(text, fix=f"give --replay {kept}, or fewer")


def _records(run: Path, loaded: Loaded) -> Iterator[tuple[SessionKey, tuple[Record, Where]]]:
    """Yield the records of all sessions of a run, with their places."""
    for name in loaded.scenario.members:
        file = run / "records" / f"{name}.jsonl"
        if not file.is_file():  # of a hospital that was lost before it had one
            continue
        for line, one in enumerate(own_records(run, name), 1):
            if one.kind in SESSIONS:
                key = SessionKey(one.kind, one.round, one.hop, one.host, one.model)
                yield key, (one, Where(str(file), line))


@contextmanager
def _settings_put_back() -> Iterator[None]:
    """Compute with the settings of a run, and leave the process's as they were."""
    from fedskd_sim.learning.devices import CALLERS  # noqa: PLC0415 - only who replays needs PyTorch
    from fedskd_sim.learning.workspace import WORKSPACE, fix_workspace  # noqa: PLC0415

    fixed = WORKSPACE in os.environ
    fix_workspace()
    CALLERS.note()
    try:
        yield
    finally:
        CALLERS.put_back()
        if not fixed:
            os.environ.pop(WORKSPACE, None)


@dataclass
class _Seen:
    """Sees what the session that is executed gives."""

    left: Weights = field(default_factory=dict)

    def begin(self, start: SessionStart) -> SessionStart:
        """Note nothing."""
        return start

    def keep(self, start: SessionStart, left: Weights) -> None:  # noqa: ARG002 - as others do
        """Copy the weights."""
        self.left = freeze(left)


@dataclass
class _Bench:
    """Where sessions are executed, each by a learner of its own; a hospital's data are read
    once.
    """

    run: Path
    loaded: Loaded
    data: Path | None
    differences: list[ChainBroken] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    furthest: float = 0.0
    limit: float = 0.0
    _known: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """The data of hospitals, with their digests."""
    _here: dict[str, dict[str, str]] = field(default_factory=dict)
    """With what each hospital computes here."""

    def execute_drawn(
        self, kept: list[ArchivedSession], count: int, tell: Callable[[str], None]
    ) -> Replayed:
        """Execute so many sessions of those that were kept, drawn by the scenario's seed."""
        number, records = self.loaded.scenario.seed, dict(_records(self.run, self.loaded))
        nowhere = None, Where(str(self.run / "records"))
        kept = sorted(kept, key=lambda one: seed(number, "replay", *one.key))
        for index, one in enumerate(kept[:count], 1):
            tell(f"executing {index} of {count}: {one.key}")
            self.execute(one, *records.get(one.key, nowhere))
        unlike, apart = tuple(self.differences), tuple(dict.fromkeys(self.apart))
        counts = count, len(kept), len(records), number
        return Replayed(*counts, unlike, apart, self.furthest, self.limit)

    def execute(self, one: ArchivedSession, record: Record | None, where: Where) -> None:
        """Execute a session, and note how it differs from its record."""
        if record is None:
            self._differs(one.key, "it has no record", where)
            return
        if record.digest_in != one.arrived and one.arrived:
            text = f"the model that was kept has the digest {one.arrived}"
            self._differs(one.key, f"{text}, the record says {record.digest_in}", where)
            return
        seen = _Seen()
        found = self._carry_out(one, seen)
        found = replace(found, without=record.without, back=record.back)
        why = self._why_apart(one)
        self.apart += why
        texts = self._near(one, record, found, seen.left) if why else _unlike(record, found)
        if texts:
            self._differs(one.key, "; ".join(texts), where)

    def _differs(self, key: SessionKey, text: str, where: Where) -> None:
        self.differences.append(ChainBroken(f"not reproduced: {key}: {text}", fix=FIX, where=where))

    def _carry_out(self, one: ArchivedSession, seen: _Seen) -> Record:
        """Take the step with a learner that is what the hospital's was, and return its record."""
        from fedskd_sim.learning.base import LearnerState  # noqa: PLC0415 - only who replays needs PyTorch

        host = one.key.host
        learner = self._learner(one)
        groups = {name: archived_weights(self.run, host, mark) for name, mark in one.state.items()}
        came = one.arrived and archived_weights(self.run, host, one.arrived)
        scenario = self.loaded.scenario
        worker = Worker(
            scenario,
            Topology.of(scenario),
            host,
            learner,
            lambda *_: None,
            lambda _: None,
            archive=seen,
        )
        step = _step_of(one.key)
        try:
            learner.restore(LearnerState(one.numbers, groups))
            arrival = Arrival(came, one.arrived) if came else None
            record = worker.carry_out(step, arrival, lambda *_: None)
        except Exception as error:
            raise in_step(host, step, error) from error
        if record is None:
            raise RuntimeError(step)
        return record

    def _learner(self, one: ArchivedSession) -> Any:
        """Make a fresh learner with the hospital's data.

        Raises:
            CustodyForeign: they are not those of the run.

        """
        from fedskd_sim.learning.algorithms.learners import make  # noqa: PLC0415 - as above
        from fedskd_sim.learning.base import LearnerContext  # noqa: PLC0415

        host, marks = one.key.host, list[str]()
        context = LearnerContext(
            self.loaded.scenario, host, self.data, loaded=marks.append, code=self.loaded.code
        )
        learner: Any = make(context)
        if host in self._known:
            learner.site.data = self._known[host][0]
        else:
            self._known[host] = learner.site.data, marks[0]
        was, now = one.made.get(DATA, ""), self._known[host][1]
        if was != now and _on_card(one.made) == _on_card(self._computes(host)):
            text = (
                f"the data of {host!r} are not those of the run: their digest is {now}, not {was}"
            )
            raise CustodyForeign(text, fix="give the folder with the run's data by --data")
        return learner

    def _computes(self, host: str) -> dict[str, str]:
        """Return with what a hospital computes here."""
        if host not in self._here:
            code = code_of(self.loaded, host)
            self._here[host] = circumstances(self.loaded.scenario, host, code)
        return self._here[host]

    def _why_apart(self, one: ArchivedSession) -> list[str]:
        """Return what is otherwise than when the session was kept, so that bytes may be, too."""
        was, now = {**one.made, DATA: ""}, {**self._computes(one.key.host), DATA: ""}
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        why = [f"{name} was {was.get(name, '-')} and is {now.get(name, '-')}" for name in names]
        if _on_card(now) and not self.loaded.scenario.training.deterministic:
            why.append("a card with training.deterministic false does not repeat its bytes")
        if _on_card(was) != _on_card(now):
            why.append("data were not compared, which a card holds in another form")
        return why

    def _near(
        self, one: ArchivedSession, record: Record, found: Record, left: Weights
    ) -> list[str]:
        """Return what is further from the run than another device or library would bring it."""
        from fedskd_sim.learning.devices import NEAR  # noqa: PLC0415 - as above

        self.limit = NEAR[self.loaded.scenario.training_of(one.key.host).precision]
        texts = [text for name in EXACT for text in _unlike_in(record, found, name)]
        if record.digest_out != one.left:
            texts.append(
                f"digest_out is {record.digest_out}, the weights that were kept {one.left}"
            )
            return texts
        way = self._distance(one, left)
        self.furthest = max(self.furthest, way)
        if not way <= self.limit:
            texts.append(f"its weights are off by {way:.2g} of the way that training moved them")
        return texts

    def _distance(self, one: ArchivedSession, left: Weights) -> float:
        """Measure how far weights are from those that the session gave in the run, as a share of
        the way it had moved them; of a warm-up, whose begin is not kept, of their norm.
        """
        from fedskd_sim.learning.weights import drift  # noqa: PLC0415 - as above

        told = archived_weights(self.run, one.key.host, one.left)
        begin = one.arrived or one.state.get("home", "")
        if told.keys() != left.keys():
            return float("inf")
        before = archived_weights(self.run, one.key.host, begin) if begin else {}
        off = drift(told, left)["drift"]
        moved = drift(before, told)["drift"].sum if before.keys() == told.keys() else off.weight
        return off.sum / moved if moved else off.sum


def _step_of(key: SessionKey) -> Step:
    """Return which step of the hospital's program a session was."""
    if key.kind == "warm_up":
        return Step("warm_up", key.round)
    if key.kind == "alone":
        return Step("alone", key.round)
    kind: Any = key.kind
    return Step("host", key.round, Stop(key.round, key.hop, key.host, key.model, kind))


def _on_card(made: Mapping[str, str]) -> bool:
    return made.get("device") != "cpu"


def _unlike(record: Record, found: Record) -> list[str]:
    """List the fields and measures in which two records differ, both values of each."""
    rest = [name for name in record.__slots__ if name != "measures"]
    texts = [text for name in rest for text in _unlike_in(record, found, name)]
    was, now = record.measures, found.measures
    for name in {**was, **now}:
        before, after = (  # a sum over no class is 0, and as it is read again 0.0
            json.dumps([*map(float, one[name])] if name in one else None) for one in (was, now)
        )
        if before != after:
            texts.append(f"{name} is {after}, the record says {before}")
    return texts


def _unlike_in(record: Record, found: Record, name: str) -> list[str]:
    was, now = getattr(record, name), getattr(found, name)
    return [] if was == now else [f"{name} is {now}, the record says {was}"]
