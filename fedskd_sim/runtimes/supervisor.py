"""Who died, why, whether it comes again, and on whom a run's end is blamed: one pure function for
processes and pods.

A member is carried by *incarnations*, processes or pods, one after the other. Whoever sees them
hands in what it saw (`Exited`, `PodSaw`), what was said (`Spoke`), what became of the run (`Began`,
`Returned`) and that time passes (`Tick`), and carries out the orders that come back; no order means
to wait. Two look on:

- the launcher of processes starts a killed hospital again (`Restart`) and ends the run (`RunEnds`)
  once somebody is gone of whom nobody else can judge: a controller that is alive, of a scenario
  that goes on without the lost, judges itself.
- the controller in a cluster has Jobs that make the next pod. It learns who is gone for good
  (`Lost`) or done (`Finished`), and then judges what that means for the ring
  (`fedskd_sim.protocol.controller`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal, NamedTuple

from fedskd_sim.errors import (
    CodeDiffers,
    HospitalCrashed,
    HospitalLost,
    PodCannotStart,
    RegistrationTimeout,
)
from fedskd_sim.exits import meaning, rebuilt
from fedskd_sim.messages import CONTROLLER, Failed
from fedskd_sim.observe import events
from fedskd_sim.protocol.controller import CONSEQUENCES

Standing = Literal[
    "pending", "queued", "stuck", "hopeless", "unschedulable", "running", "succeeded", "failed",
    "leaving",
]  # fmt: skip
OWN_WORD_S = 3.0
"""So long whoever ended with an error of its own may take to tell it."""
MOST_DEATHS = 3
"""So many pods of a member may fail before the start; another would, too."""
UID = 8
"""So many characters of a pod's identity are compared."""
SIGNS_OF_THE_START = (events.StartEvent, events.WarmUp, events.Arrived)
CONCLUDED = tuple(
    error.exit_code
    for error in (PodCannotStart, HospitalCrashed, RegistrationTimeout, HospitalLost, CodeDiffers)
)
"""Ends that the controller in a cluster knows more of than any hospital."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How an incarnation stands, in words and with its exit code where there is one.

    ``unschedulable`` is a pod that no node could hold even if it were empty; an autoscaler may
    still bring one. ``stuck`` is one that cannot begin as things are, which the cluster tries
    again; ``hopeless`` one that never will; ``queued`` one that a queue holds back. ``own``: it has
    failed by an error of its own, which would only come again. ``by_itself`` names the container
    that has failed where nobody took the pod away; the exit code of one that fetches data is none
    of ours, and what it fetches may yet come (``awaited``).
    """

    standing: Standing
    text: str = ""
    code: int | None = None
    by_itself: str = ""
    own: bool = False
    awaited: bool = False


class Exited(NamedTuple):
    """A member's process has ended with this exit code (-N: by signal N)."""

    member: str
    code: int


class PodSaw(NamedTuple):
    """A hospital's pod, with identity and time of creation (UNIX seconds), was seen so; or, without
    an identity, why the hospital has none.
    """

    member: str
    finding: Finding
    uid: str = ""
    created: float = 0.0
    gone: bool = False


class Spoke(NamedTuple):
    """A member has logged this, or a hospital has told the controller that it waited in vain."""

    what: events.Logged | Failed


class Began(NamedTuple):
    """The run has begun, with these pods (hospital: beginning of the identity)."""

    pods: Mapping[str, str]


class Returned(NamedTuple):
    """A hospital that was lost is one of the ring again."""

    member: str


class Tick(NamedTuple):
    """Time has passed, and whatever happened until now was handed in."""


Fact = Exited | PodSaw | Spoke | Began | Returned | Tick


class Restart(NamedTuple):
    """Start a killed hospital again, for the time ``number`` in a row without a record between."""

    member: str
    number: int
    code: int


class Lost(NamedTuple):
    """A member is gone for good; ``why`` of a process says where in the run it was."""

    member: str
    code: int
    why: str


class HospitalDone(NamedTuple):
    """A hospital has done all that it had to do."""

    member: str


class Pass(NamedTuple):
    """Tell the controller what a hospital has said: no pod's end is the cause of it."""

    word: Failed


class Orphaned(NamedTuple):
    """The controller has died without a word after the start: the models go on without it."""

    code: int


class LoggedError(NamedTuple):
    """An error as a member has logged it: when (UNIX seconds), who, what."""

    time: float
    member: str
    error: events.Error


class RunEnds(NamedTuple):
    """The run is over: by a death of which nobody told, by an error, or well; ``unwatched``: the
    controller, which would have declared hospitals lost, had died.
    """

    blamed: Lost | LoggedError | None
    unwatched: bool


SupervisorOrder = Restart | Lost | HospitalDone | Pass | Orphaned | RunEnds


@dataclass(frozen=True)
class Rules:
    """How whoever dies is treated, by scenario and place."""

    names: tuple[str, ...]
    """The hospitals."""
    heals: bool = False
    """The ring goes on without whoever is lost, if the controller lives to declare it."""
    restarts: int | None = None
    """How often in a row a killed process is started again; None: the cluster makes pods."""
    grace: float = 0.0
    """How long others may still speak before a run of processes ends, seconds."""
    patience: Mapping[str, float] = field(default_factory=dict)
    """How long a pod may stand so before its hospital counts as lost, seconds."""
    survivors: Mapping[str, float] = field(default_factory=dict)
    """Hospitals that outlive their pods, on claims, and the seconds within which the next one must
    run."""


@dataclass(frozen=True)
class Incarnation:
    """The newest process or pod of a member, and since when it is as it is."""

    finding: Finding
    since: float
    uid: str = ""
    created: float = 0.0
    gone: bool = False


class HeldWord(NamedTuple):
    """A hospital's word that it has waited in vain, which waits for its cause until then."""

    word: Failed
    until: float


@dataclass(frozen=True)
class Supervised:
    """What is known of a run's members."""

    seen: Mapping[str, Incarnation] = field(default_factory=dict)
    """The incarnations that have been seen, of processes those that have ended, first the first."""
    deaths: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """When incarnations of each hospital died: of processes since its last record, of pods by
    themselves before the start."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Where in the run each member is, in words."""
    errors: tuple[LoggedError, ...] = ()
    lost: frozenset[str] = frozenset()
    """Hospitals without which the ring goes on."""
    started: bool = False
    first: Mapping[str, str] = field(default_factory=dict)
    """The beginning of the identity of every pod with which the run began."""
    concluded: frozenset[str] = frozenset()
    """Hospitals of which was ordered what becomes of them."""
    held: tuple[HeldWord, ...] = ()
    orphaned: bool = False
    ends: float = inf
    """When a run of processes is to be ended."""

    @property
    def told(self) -> frozenset[str]:
        """Name the members that have logged an error."""
        return frozenset(error.member for error in self.errors)

    @property
    def failure(self) -> str:
        """Return what the controller has said last of its own failure; '' if nothing."""
        said = [one.error.message for one in self.errors if one.member == CONTROLLER]
        return said[-1] if said else ""

    def stands(self, *standings: Standing) -> set[str]:
        """Name the hospitals whose pod is there and stands so."""
        return {
            name
            for name, one in self.seen.items()
            if one.finding.standing in standings and not one.gone
        }


def step(
    rules: Rules, state: Supervised, fact: Fact, now: float
) -> tuple[Supervised, list[SupervisorOrder]]:
    """Take in a fact at a time (seconds), and return what to do: only a `Tick` has orders. The time
    never goes back.
    """
    match fact:
        case Tick() if rules.restarts is None:
            return _conclude(rules, state, now)
        case Tick():
            return _supervise(rules, state, now)
        case Exited(member, code):
            ended = Finding("failed" if code else "succeeded", code=code, own=code >= 0)
            state = replace(state, seen={**state.seen, member: Incarnation(ended, now)})
        case PodSaw():
            state = _on_pod(state, fact, now)
        case Spoke(Failed() as word):
            state = replace(state, held=(*state.held, HeldWord(word, now + OWN_WORD_S)))
        case Spoke(events.Logged() as line):
            state = _on_line(state, line)
        case Began(pods):
            state = replace(state, started=True, first=pods)
        case Returned(member):
            known = state.seen.get(member)
            back = {member} if known and known.finding.standing == "running" else {*()}
            state = replace(state, concluded=state.concluded - back)
    return state, []


def judge(
    rules: Rules, state: Supervised, name: str, now: float
) -> Restart | Lost | HospitalDone | None:
    """Return what becomes of a member whose incarnation is known; None: it is at work, or that will
    show.

    +----------------------------------+----------------------+---------------------------------+
    | it has ended                     | as a process         | as a pod                        |
    +==================================+======================+=================================+
    | done                             | finished             | finished                        |
    | with an error of its own         | lost                 | lost, once it may have told it  |
    | killed before the start          | again, ``restarts``  | again, `MOST_DEATHS` by itself  |
    | killed after it                  | times in a row       | lost; on a claim again, if soon |
    | replaced by another after it     |                      | lost, but on a claim            |
    | killed once the run is to end    | lost                 |                                 |
    +----------------------------------+----------------------+---------------------------------+
    """
    one = state.seen[name]
    if rules.restarts is not None:
        return _of_process(rules.restarts, state, name, one.finding)
    found, waited = one.finding, now - one.since
    if found.standing == "succeeded":
        return HospitalDone(name)
    if waited >= rules.patience.get(found.standing, inf):
        return Lost(name, PodCannotStart.exit_code, found.text)
    if found.standing == "failed":
        kept = rules.survivors.get(name, 0.0) if state.started else 0.0
        if waited >= (OWN_WORD_S if found.own else kept):
            ends = state.started or found.own
            return _of_pod(name, found) if ends else _of_deaths(rules, state, name, now)
    return _of_absence(rules, state, name, waited)


def _of_process(
    restarts: int, state: Supervised, name: str, found: Finding
) -> Restart | Lost | HospitalDone:
    """Judge a process that has ended. An error of its own would only come again; a signal is
    nobody's word.
    """
    code, where = found.code or 0, state.where.get(name, "")
    if name == CONTROLLER:
        return Lost(name, code, where) if code and not state.started else HospitalDone(name)
    if not code and where == events.DONE:
        return HospitalDone(name)
    tries = len(state.deaths.get(name, ()))
    nobody = name in state.lost and CONTROLLER in state.seen  # who could take it in again
    final = found.own or name in state.told or nobody or state.ends < inf
    if final or tries >= restarts:
        return Lost(name, code, where)
    return Restart(name, tries + 1, code)


def _of_pod(name: str, found: Finding) -> Lost:
    if not found.own:
        return Lost(name, HospitalCrashed.exit_code, found.text)
    words = meaning(type(rebuilt(found.code or 0, "")))
    return Lost(name, found.code or 0, f"{found.text}: {words}")


def _of_deaths(rules: Rules, state: Supervised, name: str, now: float) -> Lost | None:
    """Judge a hospital whose pods fail before the start; what is to be fetched may yet come."""
    found, deaths = state.seen[name].finding, state.deaths.get(name, {})
    patience = rules.patience.get("stuck", 0.0) if found.awaited else 0.0
    if not found.by_itself or len(deaths) < MOST_DEATHS:
        return None
    if now - min(deaths.values()) < patience:
        return None
    text = f"{len(deaths)} of its pods have failed before the start, the last because "
    return Lost(name, HospitalCrashed.exit_code, text + found.text)


def _of_absence(rules: Rules, state: Supervised, name: str, waited: float) -> Lost | None:
    """Judge a pod that is deleted after the start, or is another than the one that took part."""
    one = state.seen[name]
    if state.started and one.gone and waited > rules.survivors.get(name, OWN_WORD_S):
        text = one.finding.text.replace("is being deleted", "was deleted")
        return Lost(name, HospitalCrashed.exit_code, text or "its pod was deleted")
    other = one.uid and one.uid[:UID] != state.first.get(name, one.uid[:UID])
    if not other or name in rules.survivors:
        return None
    text = "its pod was replaced in mid-run, and what it had learned is lost"
    return Lost(name, HospitalCrashed.exit_code, text)


def _on_pod(state: Supervised, saw: PodSaw, now: float) -> Supervised:
    """Note how a pod is; of one that came before the newest is only counted that it died."""
    before, deaths = state.seen.get(saw.member), state.deaths
    if saw.finding.by_itself and not state.started:
        known = deaths.get(saw.member, {})
        deaths = {**deaths, saw.member: {saw.uid: now, **known}}
    state = replace(state, deaths=deaths)
    if before and before.uid != saw.uid and saw.created < before.created:
        return state
    is_as_before = before and (before.uid, before.finding.standing, before.gone) == (
        saw.uid,
        saw.finding.standing,
        saw.gone,
    )
    since = before.since if before and is_as_before else now
    one = Incarnation(saw.finding, since, saw.uid, saw.created, saw.gone)
    return replace(state, seen={**state.seen, saw.member: one})


def _on_line(state: Supervised, logged: events.Logged) -> Supervised:
    """Note what a member's log says of it and of others."""
    name, what = logged.hospital or CONTROLLER, logged.what
    error = error_of(logged)
    state = replace(
        state,
        where={**state.where, name: events.place(what) or state.where.get(name, "")},
        errors=(*state.errors, error) if error else state.errors,
        started=state.started or isinstance(what, SIGNS_OF_THE_START),
    )
    match what:
        case events.Finished() if name in state.deaths:
            alive = {other: dead for other, dead in state.deaths.items() if other != name}
            return replace(state, deaths=alive)
        case events.LostEvent(_, hospitals):
            return replace(state, lost=state.lost | {*hospitals})
        case events.BackEvent(_, hospital):
            return replace(state, lost=state.lost - {hospital})
    return state


def _conclude(
    rules: Rules, state: Supervised, now: float
) -> tuple[Supervised, list[SupervisorOrder]]:
    """Order at most one thing: a pod's end that its hospital could not tell, once, which goes
    before the word of one that has waited in vain for it.
    """
    for name in state.seen:
        if name in state.concluded or not (found := judge(rules, state, name, now)):
            continue
        state = replace(state, concluded=state.concluded | {name})
        causes = isinstance(found, Lost) and found.code not in CONSEQUENCES
        return replace(state, held=state.held[1:] if causes else state.held), [found]
    if state.held and now >= state.held[0].until:
        return replace(state, held=state.held[1:]), [Pass(state.held[0].word)]
    return state, []


def _supervise(
    rules: Rules, state: Supervised, now: float
) -> tuple[Supervised, list[SupervisorOrder]]:
    """Start again who was killed, and end the run when its time has come."""
    orders: list[SupervisorOrder] = []
    gone = state.seen.get(CONTROLLER)
    code = (gone.finding.code or 0) if gone else 0
    if code and state.started and not (state.failure or state.orphaned):
        state = replace(state, orphaned=True)
        orders.append(Orphaned(code))
    for name in [*state.seen]:
        if isinstance(again := judge(rules, state, name, now), Restart):
            deaths = {**state.deaths.get(name, {}), str(again.number): now}
            alive = {other: one for other, one in state.seen.items() if other != name}
            state = replace(state, seen=alive, deaths={**state.deaths, name: deaths})
            orders.append(again)
    if state.ends == inf and fatal(rules, state, now):
        missing = code and not (state.started or state.failure)  # nobody can begin
        state = replace(state, ends=now if missing else now + rules.grace)
    if now >= state.ends or not left(rules, state):
        orders.append(RunEnds(blame(rules, state, now), state.orphaned and rules.heals))
    return state, orders


def left(rules: Rules, state: Supervised) -> list[str]:
    """List the members whose process still runs; but none who is lost, once the controller has
    ended.
    """
    past = {*state.seen, *(state.lost if CONTROLLER in state.seen else ())}
    return [name for name in (CONTROLLER, *rules.names) if name not in past]


def fatal(rules: Rules, state: Supervised, now: float) -> list[Lost]:
    """List the processes whose end ends the run, first the first; none while a controller lives
    that lets the ring go on.
    """
    if rules.heals and CONTROLLER not in state.seen:
        return []
    judged = [judge(rules, state, name, now) for name in state.seen if name not in state.lost]
    return [found for found in judged if isinstance(found, Lost)]


def blame(rules: Rules, state: Supervised, now: float) -> Lost | LoggedError | None:
    """Choose what has ended a run of processes: a death of which nobody told, then a hospital's own
    error, then what it made others do; None: the run has ended well.
    """
    deaths = fatal(rules, state, now)
    untold = next((one for one in deaths if one.member not in state.told), None)
    return untold or (first_error(state.errors) if deaths else None)


def blame_of_pods(code: int, errors: Iterable[LoggedError]) -> LoggedError | None:
    """Choose what has ended a run of pods with this exit code: a hospital's own error, else what
    the controller has concluded; None: nobody has logged why.
    """
    told = [*errors]
    own = [one for one in told if one.member != CONTROLLER and one.error.own]
    concluded = [one for one in told if one.member == CONTROLLER]
    return first_error(concluded if code in CONCLUDED or not own else own)


def first_error(errors: Iterable[LoggedError]) -> LoggedError | None:
    """Choose the error that ended a run from those in its logs: a hospital's own before what it
    caused, early before late; None if there is none.
    """
    return min(errors, key=lambda one: (not one.error.own, one.error.stop, one.time), default=None)


def error_of(logged: events.Logged) -> LoggedError | None:
    """Return the error that a line of a log tells of; None for any other line."""
    return (
        LoggedError(logged.time, logged.hospital or CONTROLLER, logged.what)
        if isinstance(logged.what, events.Error)
        else None
    )
