"""Who comes again, who is lost, and on whom a run's end is blamed: as a table, and under attack in
simulated time.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest

from fedskd_sim.errors import HopTimeout, HospitalCrashed, HospitalLost, PodCannotStart
from fedskd_sim.messages import CONTROLLER, Failed
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Error, Logged
from fedskd_sim.runtimes.supervisor import (
    MOST_DEATHS,
    OWN_WORD_S,
    Began,
    Exited,
    Fact,
    Finding,
    HospitalDone,
    LoggedError,
    Lost,
    Orphaned,
    Pass,
    PodSaw,
    Restart,
    Returned,
    Rules,
    RunEnds,
    Spoke,
    Supervised,
    SupervisorOrder,
    Tick,
    blame_of_pods,
    step,
)
from tests.nights import part_of

KILLED, SEGFAULT, OWN, UNREACHED = -9, -11, 21, HopTimeout.exit_code
LATE_S = 100.0
STOP = (1, 2, "south", "visit")


def orders(rules: Rules, *facts: Fact | float) -> list[SupervisorOrder]:
    """Hand facts in; a number lets so many seconds pass, and a look ends every one of them."""
    state, now, given = Supervised(), 0.0, list[SupervisorOrder]()
    for fact in (*facts, 0.0):
        if isinstance(fact, float):
            now += fact
            state, said = step(rules, state, Tick(), now)
            given += said
            if any(isinstance(order, RunEnds) for order in said):
                break
        else:
            state, said = step(rules, state, fact, now)
            assert not said
    return given


def line(name: str, what: events.LogEvent) -> Spoke:
    return Spoke(Logged(0.0, "" if name == CONTROLLER else name, what))


def failed(name: str, code: int, *, own: bool = True) -> Spoke:
    return line(name, Error(code, own=own, message=f"{name} says why"))


def error(name: str, code: int, *, own: bool = True) -> LoggedError:
    return LoggedError(0.0, name, Error(code, own=own, message=f"{name} says why"))


def ends(blamed: Lost | LoggedError | None, *, unwatched: bool = False) -> RunEnds:
    return RunEnds(blamed, unwatched)


STARTED = line("north", events.Arrived(*STOP))
RECORD = line("north", events.Finished(*STOP, "trained", None))
DONE = line("north", events.DoneEvent()), Exited("north", 0)
WHERE = "in round 1, hop 2 (visit of 'south')"
KILL = Exited("north", KILLED)
LEADER_KILLED, LEADER_DONE = Exited(CONTROLLER, KILLED), Exited(CONTROLLER, 0)
OTHER_DONE = line("south", events.DoneEvent()), Exited("south", 0)
NORTH_LOST = line(CONTROLLER, events.LostEvent(1, {"north": 0}))

PROCESSES: dict[str, tuple[dict[str, Any], list[Fact | float], list[SupervisorOrder]]] = {
    "all are done": ({}, [*DONE, *OTHER_DONE, LEADER_DONE], [ends(None)]),
    "one is still at work": ({}, [*DONE, LEADER_DONE, LATE_S], []),
    "killed": ({"restarts": 1}, [STARTED, KILL], [Restart("north", 1, KILLED)]),
    "killed more often in a row than it is started again": (
        {"restarts": 1},
        [STARTED, KILL, 0.0, KILL, 0.0, 1.0],
        [Restart("north", 1, KILLED), ends(Lost("north", KILLED, WHERE))],
    ),
    "killed again behind a record": (
        {"restarts": 1},
        [STARTED, KILL, 0.0, RECORD, KILL],
        [Restart("north", 1, KILLED)] * 2,
    ),
    "killed behind its own error": (
        {"restarts": 9},
        [failed("north", OWN), KILL, 0.0, 1.0],
        [ends(error("north", OWN))],
    ),
    "with an error's exit code and no word": (
        {"restarts": 9},
        [STARTED, Exited("north", OWN), 0.0, 1.0],
        [ends(Lost("north", OWN, WHERE))],
    ),
    "well, but before it was done": (
        {"restarts": 9},
        [STARTED, Exited("north", 0), 0.0, 1.0],
        [ends(Lost("north", 0, WHERE))],
    ),
    "not before others had time to speak": ({"grace": 5.0}, [KILL, 4.0], []),
    "the one of whom nobody told before one who told": (
        {},
        [failed("south", OWN), Exited("south", OWN), STARTED, KILL, 0.0, 1.0],
        [ends(Lost("north", KILLED, WHERE))],
    ),
    "its own error before what it made others do": (
        {},
        [
            failed("south", UNREACHED, own=False), Exited("south", UNREACHED),
            failed("north", OWN), Exited("north", OWN), 0.0, 1.0,
        ],
        [ends(error("north", OWN))],
    ),
    "once the run is to end nobody is started again": (
        {"restarts": 9},
        [failed("south", OWN), Exited("south", OWN), 0.0, KILL, 0.5],
        [],
    ),
    "a controller that lives judges itself": (
        {"heals": True}, [STARTED, KILL, LATE_S, NORTH_LOST, LATE_S], [],
    ),
    "who is lost is not waited for, nor blamed": (
        {"heals": True},
        [STARTED, KILL, NORTH_LOST, *OTHER_DONE, LEADER_DONE],
        [ends(None)],
    ),
    "who is lost and stands still is not waited for": (
        {"heals": True}, [STARTED, NORTH_LOST, *OTHER_DONE, LEADER_DONE], [ends(None)],
    ),
    "who is back is blamed again": (
        {"heals": True},
        [STARTED, NORTH_LOST, line(CONTROLLER, events.BackEvent(2, "north", 2)), *OTHER_DONE,
         LEADER_DONE, KILL, 0.0, 1.0],
        [ends(Lost("north", KILLED, WHERE))],
    ),
    "nobody could take it in again": (
        {"heals": True, "restarts": 9},
        [STARTED, NORTH_LOST, LEADER_KILLED, KILL, *OTHER_DONE],
        [Orphaned(KILLED), ends(None, unwatched=True)],
    ),
    "a controller killed before the start": (
        {"grace": LATE_S}, [LEADER_KILLED], [ends(Lost(CONTROLLER, KILLED, ""))],
    ),
    "a controller killed after it": (
        {}, [STARTED, LEADER_KILLED, LATE_S, *DONE, *OTHER_DONE], [Orphaned(KILLED), ends(None)],
    ),
    "a controller that said why, after the start": (
        {},
        [STARTED, failed(CONTROLLER, OWN), Exited(CONTROLLER, OWN), *DONE, *OTHER_DONE],
        [ends(None)],
    ),
    "nobody is there any more to declare it lost": (
        {"heals": True},
        [STARTED, LEADER_KILLED, 0.0, KILL, 0.0, 1.0],
        [Orphaned(KILLED), ends(Lost("north", KILLED, WHERE), unwatched=True)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "facts", "wanted"), PROCESSES.values(), ids=PROCESSES.keys())
def test_what_becomes_of_a_process(
    given: dict[str, Any], facts: list[Fact | float], wanted: list[SupervisorOrder]
) -> None:
    """A process ends, and the run goes on, goes on with it, or ends with whoever is to blame."""
    rules = Rules(("north", "south"), **{"restarts": 0, "grace": 1.0, **given})
    assert orders(rules, *facts) == wanted


def pod(standing: str, uid: str = "first", made: float = 1.0, **more: Any) -> PodSaw:
    gone = more.pop("gone", False)
    return PodSaw("north", Finding(standing, standing, **more), uid, made, gone)  # type: ignore[arg-type]


def gone(code: int, why: str) -> Lost:
    return Lost("north", code, why)


BEGAN = Began({"north": "first"[:8]})
POD_KILLED = pod("failed", code=137, by_itself="hospital")
OWN_END = pod("failed", code=OWN, by_itself="hospital", own=True)
DEATHS = [pod("failed", str(n), n, by_itself="hospital") for n in range(1, MOST_DEATHS + 1)]
FETCHES = [
    pod("failed", str(n), n, by_itself="fetch", awaited=True) for n in range(1, MOST_DEATHS + 1)
]
CRASH, NO_START = HospitalCrashed.exit_code, PodCannotStart.exit_code
IN_VAIN = Failed(1, "south", UNREACHED, "no model has come")

PODS: dict[str, tuple[bool, list[Fact | float], list[SupervisorOrder]]] = {
    "it runs": (False, [pod("running"), BEGAN, LATE_S], []),
    "it is done": (False, [BEGAN, pod("succeeded"), LATE_S], [HospitalDone("north")]),
    "it will never run": (False, [pod("hopeless")], [gone(NO_START, "hopeless")]),
    "it cannot run yet": (False, [pod("stuck"), 9.0], []),
    "it cannot run for long": (False, [pod("stuck"), 10.0], [gone(NO_START, "stuck")]),
    "it waits in a queue": (False, [pod("queued"), LATE_S], []),
    "killed before the start": (False, [POD_KILLED, LATE_S], []),
    "killed before the start again and again": (
        False, [*DEATHS], [gone(CRASH, "3 of its pods have failed before the start, the last "
                                       "because failed")],
    ),
    "what it fetches may yet come": (False, [*FETCHES, 9.0], []),
    "killed after it": (False, [BEGAN, POD_KILLED], [gone(CRASH, "failed")]),
    "killed after it on a claim": (True, [BEGAN, POD_KILLED, 19.0], []),
    "killed on a claim, and no other came": (True, [BEGAN, POD_KILLED, 20.0],
                                             [gone(CRASH, "failed")]),
    "killed on a claim, and another came": (
        True, [BEGAN, POD_KILLED, 9.0, pod("running", "second", 2.0), LATE_S], [],
    ),
    "replaced after the start": (
        False,
        [BEGAN, pod("running", "second", 2.0)],
        [gone(CRASH, "its pod was replaced in mid-run, and what it had learned is lost")],
    ),
    "deleted after the start": (False, [BEGAN, pod("running", gone=True), 4.0],
                                [gone(CRASH, "running")]),
    "deleted before it": (False, [pod("running", gone=True), LATE_S], []),
    "an older pod says nothing": (
        False, [pod("running"), BEGAN, pod("failed", "older", 0.5, code=137), LATE_S], [],
    ),
    "its own word may still come": (False, [BEGAN, OWN_END, 2.0], []),
    "once": (False, [BEGAN, POD_KILLED, 0.0, POD_KILLED, LATE_S], [gone(CRASH, "failed")]),
    "again once it was back": (
        False,
        [BEGAN, POD_KILLED, 0.0, pod("running"), Returned("north"), POD_KILLED],
        [gone(CRASH, "failed")] * 2,
    ),
    "the old death does not count again": (
        False, [BEGAN, POD_KILLED, 0.0, Returned("north"), LATE_S], [gone(CRASH, "failed")],
    ),
    "a consequence waits for its cause": (False, [BEGAN, Spoke(IN_VAIN), 2.0], []),
    "and is told without one": (False, [BEGAN, Spoke(IN_VAIN), OWN_WORD_S], [Pass(IN_VAIN)]),
    "its cause is told instead": (
        False, [BEGAN, Spoke(IN_VAIN), 1.0, POD_KILLED, LATE_S], [gone(CRASH, "failed")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("claim", "facts", "wanted"), PODS.values(), ids=PODS.keys())
def test_what_becomes_of_a_pod(
    claim: bool,  # noqa: FBT001 - a column of the table
    facts: list[Fact | float],
    wanted: list[SupervisorOrder],
) -> None:
    """A pod waits, works, ends or goes; a claim is what its hospital outlives it by."""
    patience = {"hopeless": 0.0, "stuck": 10.0, "unschedulable": 5.0}
    survivors = {"north": 20.0} if claim else {}
    rules = Rules(("north", "south"), patience=patience, survivors=survivors)
    assert orders(rules, *facts) == wanted


def test_an_own_error_has_its_meaning_beside_the_pods_words() -> None:
    """The exit code alone comes from the pod: what it means is said."""
    rules = Rules(("north",))
    (told,) = orders(rules, BEGAN, OWN_END, OWN_WORD_S)
    assert isinstance(told, Lost)
    assert told.code == OWN
    assert told.why.startswith("failed: ")


def test_of_a_run_of_pods_the_controller_knows_some_ends_better() -> None:
    """A hospital's own error goes first, but where the controller has seen what no hospital can."""
    own, word = error("north", OWN), error(CONTROLLER, OWN, own=False)
    lost, caused = error(CONTROLLER, HospitalLost.exit_code), error("south", UNREACHED, own=False)
    assert blame_of_pods(OWN, [caused, word, own]) == own
    assert blame_of_pods(HospitalLost.exit_code, [own, lost]) == lost
    assert blame_of_pods(OWN, [caused, word]) == word
    assert blame_of_pods(OWN, []) is None


class Attack:
    """A run of processes in simulated time, in which whoever is drawn dies when it is drawn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        names = tuple(f"h{number}" for number in range(self.random.randint(2, 6)))
        most, heals = self.random.randint(0, 3), self.random.random() < 0.5
        self.rules = Rules(names, heals, most, self.random.choice([0.0, 2.0]))
        self.state, self.now = Supervised(), 0.0
        self.alive = {*names, CONTROLLER}
        self.steps = dict.fromkeys(names, 0)
        self.since_record = dict.fromkeys(names, 0)
        self.declared: set[str] = set()
        self.exits: list[tuple[str, int]] = []
        self.errors: list[str] = []
        self.end: RunEnds | None = None

    def hand_in(self, fact: Fact) -> list[SupervisorOrder]:
        self.state, given = step(self.rules, self.state, fact, self.now)
        return given

    def say(self, name: str, what: events.LogEvent) -> None:
        self.hand_in(Spoke(Logged(self.now, "" if name == CONTROLLER else name, what)))

    def die(self, name: str, code: int) -> None:
        self.alive.discard(name)
        self.exits.append((name, code))
        self.hand_in(Exited(name, code))

    def happen(self) -> None:
        name = self.random.choice(sorted(self.alive))
        what = self.random.random()
        if what < 0.1:
            self.die(name, self.random.choice([KILLED, SEGFAULT]))
        elif what < 0.14 and name != CONTROLLER:
            self.errors.append(name)
            self.say(name, Error(OWN, own=True, message="oops"))
            self.die(name, OWN)
        elif name != CONTROLLER:
            self.say(name, events.Finished(1, 1, name, "visit", "trained", None))
            self.since_record[name] = 0
            self.steps[name] += 1
            if self.steps[name] == 5:
                self.say(name, events.DoneEvent())
                self.die(name, 0)
        elif self.rules.heals and self.random.random() < 0.3:
            self.declared |= {name for name in self.steps if name not in self.alive} - self.done
            if self.declared:
                self.say(CONTROLLER, events.LostEvent(1, dict.fromkeys(self.declared, 0)))
        elif not {*self.steps} & self.alive:
            self.die(CONTROLLER, 0)

    @property
    def done(self) -> set[str]:
        return {name for name, steps in self.steps.items() if steps == 5}

    def look(self) -> None:
        for order in self.hand_in(Tick()):
            match order:
                case Restart(name, number, code):
                    assert self.end is None
                    assert code < 0
                    assert name not in self.alive | {*self.errors}
                    self.since_record[name] += 1
                    assert number == self.since_record[name] <= (self.rules.restarts or 0)
                    self.alive.add(name)
                case RunEnds():
                    self.end = order
                case Orphaned(code):
                    assert (CONTROLLER, code) in self.exits
                case _:
                    pytest.fail(f"no order for processes: {order}")


def check_end(run: Attack) -> None:
    """Whoever is blamed died or told of an error, and is not lost; a run that ends well has all
    that are not lost done.
    """
    assert run.end is not None
    match run.end.blamed:
        case None:
            assert {*run.steps} - run.done <= {*run.declared}
        case Lost(name, code, _):
            assert (name, code) in run.exits
            assert name not in run.done | run.declared | {*run.errors}
        case LoggedError(_, name, _):
            assert name in run.errors


@pytest.mark.parametrize("seed", part_of(range(60)))
def test_an_attacked_run_ends_and_blames_the_right_one(seed: int) -> None:
    """However members die, the run ends, in time; nobody is started again more often in a row than
    the scenario says, nor after an error of its own, nor once the run is to end.
    """
    for number in range(20):
        run = Attack(1000 * seed + number)
        run.say("h0", events.Arrived(1, 1, "h0", "visit"))
        for _ in range(400):
            run.now += 0.1
            if run.alive:
                run.happen()
            run.look()
            if run.end:
                break
        check_end(run)


def test_what_is_seen_at_once_is_judged_in_any_order() -> None:
    """Pods are told of by one thread and words by another: which is first makes no difference to
    what is concluded of each hospital.
    """
    facts = [
        PodSaw("a", Finding("failed", "killed", 137), "a", 1.0),
        PodSaw("b", Finding("succeeded", code=0), "b", 1.0),
        PodSaw("c", Finding("hopeless", "no image"), "c", 1.0),
        Began({"a": "a", "b": "b", "c": "c"}),
    ]
    rules = Rules(("a", "b", "c"), patience={"hopeless": 0.0})
    for some in permutations(facts):
        assert {*orders(rules, *some, 0.0, 0.0, 0.0)} == {
            Lost("a", CRASH, "killed"),
            HospitalDone("b"),
            Lost("c", NO_START, "no image"),
        }
