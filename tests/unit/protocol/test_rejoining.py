"""A hospital that hears that the ring goes on without it, and those that hear that it is back."""

from __future__ import annotations

import json

from fedskd_sim.errors import LeftBehind, RegistrationTimeout
from fedskd_sim.messages import Alive, Epoch, Holds, HopId, Later
from fedskd_sim.protocol.effects import Effect, Fail, Join, Persist, Reply, Tell, Work
from fedskd_sim.protocol.events import (
    Again,
    Begun,
    Ended,
    Event,
    Joined,
    Model,
    ModelArrived,
    ModelReleased,
    StepFinished,
    heard,
)
from fedskd_sim.protocol.losses import is_rejoining, reached
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import REGISTER_AGAIN_S, State, Terms, dump, parse
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.routes import Back
from fedskd_sim.ring.topology import Topology

RING = Topology(("a", "b", "c", "d"), 3)
TERMS = Terms("run", 7, 100, 10, 1, 3, 1, 2, heals=True, beat=1)
B, C = (HospitalMachine.of(RING, name, TERMS) for name in "bc")
RECORD = Record("s", 1, "visit", 1, 1, "b", "a", "buffer", "trained")
LOST, BACK = heard(Epoch(2, {"b": "0"})), heard(Epoch(6, {"b": "0 4"}))


def after(machine: HospitalMachine, *events: Event, state: State = State()) -> tuple:  # noqa: B008 - it cannot change
    """Let events happen; gives the state and what the last one led to."""
    effects: list[Effect] = []
    for event in events:
        state, effects = machine.step(state, event)
    return state, effects


def hop(model: str, round_: int, number: int) -> HopId:
    return HopId("run", 1, model, round_, number)


GONE = (Begun(), Joined(), StepFinished(0, None), ModelReleased(1, Model(1)), StepFinished(1, None))
HOSTS = (*GONE, ModelArrived(hop("a", 1, 1), "a", Model(2, "x")))


def test_who_is_lost_lets_everything_go_and_says_so() -> None:
    """What it has in custody may not leave any more; the step under way ends, and sends nothing."""
    state, effects = after(B, *HOSTS, LOST)
    assert is_rejoining(state, B.program)
    assert (state.outbox, state.kept, [*state.waiting]) == ({}, {}, [hop("a", 1, 1)])
    assert effects[:2] == [Persist(), Join()]
    assert effects[-1] == Tell(Holds(2, "b", 1))
    state, effects = after(B, ModelReleased(2, Model(3)), StepFinished(2, RECORD), state=state)
    assert (state.outbox, state.waiting, state.cursor) == ({}, {}, 3)
    assert not any(isinstance(one, Work) for one in effects)


def test_who_is_lost_takes_nothing_in() -> None:
    """Whatever is sent to it stays with its sender, who may be the one to send it elsewhere."""
    visitor = ModelArrived(hop("a", 2, 1), "a", Model(5, "z"))
    state, effects = after(B, *HOSTS, LOST, visitor)
    assert effects == [Reply("a", Later(hop("a", 2, 1)))]
    assert [*state.waiting] == [hop("a", 1, 1)]


def test_who_is_back_goes_on_at_its_round() -> None:
    """It skips what it has missed, and does not depart: its model is under way."""
    state, effects = after(B, *HOSTS, LOST, StepFinished(2, RECORD), BACK)
    assert Tell(Holds(6, "b", 1)) in effects
    visitor = ModelArrived(hop("a", 2, 1), "a", Model(5, "z"))
    state, effects = after(B, Joined(), visitor, state=state)
    step = B.program.at(state.cursor)
    assert step
    assert step.stop == RING.stop("a", 2, 1)
    assert [type(one) for one in effects[:3]] == [Persist, Reply, Work]


def test_who_has_gone_past_a_return_does_not_believe_in_it() -> None:
    """It says how far it is; that the return is called off it takes in."""
    cursor = Program(RING, "c").position("c", 1, 4)
    assert cursor
    state = after(C, Begun(), Joined(), LOST)[0]._replace(cursor=cursor + 2, working=True)
    assert reached(state, C.program) == 2
    state, effects = after(C, BACK, state=state)
    assert (effects, state.back) == ([Tell(Holds(0, "c", 2))], {})
    state, effects = after(C, heard(Epoch(7, {"b": "0 5"})), state=state)
    assert state.back == {"b": Back(2, away=True)}
    assert effects[-1] == Tell(Holds(7, "c", 2))


def test_who_believes_in_a_return_says_so_once_it_is_kept() -> None:
    """And again whenever it is asked; with every sign of life it says what it knows."""
    state, effects = after(C, Begun(), Joined(), LOST, BACK)
    assert effects.index(Persist()) < effects.index(Tell(Holds(6, "c", 0)))
    assert after(C, BACK, state=state) == (state, [Tell(Holds(6, "c", 0))])
    assert Tell(Alive(6, "c", "b", 0, 4)) in C._healer.beat(state)
    kept = parse(json.loads(json.dumps(dump(state))))
    assert (kept.lost, kept.back) == ({"b": 0}, {"b": Back(2)})


def test_a_model_that_has_passed_a_returner_by_is_put_off() -> None:
    """From a hospital that had no word of the return, or has forgotten it."""
    state, _ = after(C, Begun(), Joined(), StepFinished(0, None), LOST, BACK)
    passed_by = hop("a", 2, 2)  # from b, were it not lost
    state, effects = after(C, ModelArrived(passed_by, "a", Model(5, "z")), state=state)
    assert effects == [Reply("a", Later(passed_by))]
    assert after(C, ModelArrived(passed_by, "b", Model(6, "y")), state=state)[1] != effects
    gone, _ = after(C, heard(Epoch(7, {"b": "0 5"})), state=state)
    judged = C.judge(
        gone._replace(cursor=Program(RING, "c").position("a", 2, 2) or 0), passed_by, "a"
    )
    assert judged.take


def test_who_is_lost_waits_as_long_as_the_controller_answers() -> None:
    """Then it gives up; or is told that it cannot come back."""
    state, _ = after(B, *HOSTS, LOST)
    for _ in range(4):
        state, effects = after(B, Again(), LOST, state=state)
        assert effects == [Tell(Holds(2, "b", 1))]
    for _ in range(int(TERMS.register / REGISTER_AGAIN_S) + 1):
        state, effects = after(B, Again(), state=state)
        assert effects[0] == Join()
    _, effects = after(B, Again(), state=state)
    assert isinstance(effects[-1], Fail)
    assert isinstance(effects[-1].error, RegistrationTimeout)
    _, effects = after(B, Ended(LeftBehind.exit_code, ""), state=state)
    assert isinstance(effects[-1], Fail)
    assert isinstance(effects[-1].error, LeftBehind)


def test_who_comes_back_has_longer_patience() -> None:
    """It may wait for as long as a round takes."""
    state, _ = after(B, *GONE)
    assert "waited 100 s" in B.missing(state).message
    state, _ = after(B, LOST, BACK, state=state)
    assert "waited 500 s" in B.missing(state).message
