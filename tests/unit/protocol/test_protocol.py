"""The machine of a hospital, event by event: what it asks for, in which order, and what it
refuses.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fedskd_sim.errors import (
    AcknowledgementTimeout,
    HopTimeout,
    HospitalCrashed,
    NonFiniteLoss,
    RegistrationTimeout,
    RunAborted,
)
from fedskd_sim.messages import Ack, Done, Failed, HopId, Later, Progress, Ready
from fedskd_sim.protocol.delivery import PATIENT_RETRIES
from fedskd_sim.protocol.effects import (
    Call,
    Delivered,
    Effect,
    Fail,
    Join,
    Leave,
    Persist,
    Refuse,
    Reply,
    Send,
    Tell,
    Wait,
    Work,
)
from fedskd_sim.protocol.events import (
    Acked,
    Again,
    Begun,
    Broke,
    Deferred,
    Ended,
    Event,
    Goodbye,
    Joined,
    Knocked,
    Model,
    ModelArrived,
    ModelReleased,
    Overdue,
    Repeated,
    StepFinished,
    TooLate,
    Unanswered,
    Wanted,
)
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import (
    RECENT,
    REGISTER_AGAIN_S,
    Departure,
    State,
    Terms,
    dump,
    handles,
    parse,
)
from fedskd_sim.records import Measure, Record
from fedskd_sim.ring.program import Program, Step
from fedskd_sim.ring.topology import Topology

NAMES = ("a", "b", "c", "d")
TERMS = Terms(
    "run", register=7, hop=100, acknowledgement=10, retry=1, goodbye=3, inbox=1, max_rollbacks=2
)
RING = Topology(NAMES, 2)
B = HospitalMachine.of(RING, "b", TERMS)
A1, D2, C3, B4 = (
    HopId("run", 1, model, 1, hop) for model, hop in (("a", 1), ("d", 2), ("c", 3), ("b", 4))
)
"""What b hosts in the first round: all from a."""
OUT = HopId("run", 1, "b", 1, 1)
NEXT = HopId("run", 1, "a", 1, 2)


def record(hop: HopId | None = None, outcome: str = "trained") -> Record:
    place = (hop.round, hop.hop, hop.model) if hop else (0, 0, "b")
    return Record(
        "s",
        1,
        "visit",
        place[0],
        place[1],
        "b",
        place[2],
        "buffer",
        outcome,
        "nan",  # type: ignore[arg-type]
        0,
        0,
        0,
        "",
        "",
        {"accuracy": Measure(1, 2)},
    )


def told(one: Record) -> Tell:
    return Tell(Progress(1, "b", one.model, one.round, one.hop, 0.5))


def after(
    *events: Event, state: State | None = None, machine: HospitalMachine = B
) -> tuple[State, list[Effect]]:
    """Let events happen; gives the state and what the last one led to."""
    state, effects = state or State(), []
    for event in events:
        state, effects = machine.step(state, event)
    return state, effects


WARM = (Begun(), Joined(), StepFinished(0, record()))
"""Up, joined and warmed up; it is about to depart."""
GONE = (*WARM, ModelReleased(1, Model(1)), StepFinished(1, None))
"""... and has departed."""
HOSTS = (*GONE, ModelArrived(A1, "a", Model(2, "x")))
"""... and hosts a's model."""


def work(index: int, model: Model | None = None) -> Work:
    program = Program(RING, "b")
    step = program.at(index)
    assert step is not None
    return Work(index, step, model, program.following(index))


def test_a_hospital_registers_until_it_is_heard() -> None:
    """It says that it is up, and again, and gives up in the end; nothing is begun before the
    address book is here.
    """
    _, effects = after(Begun())
    assert effects == [Join(), Wait(REGISTER_AGAIN_S, Again()), Wait(7, TooLate())]
    assert after(Begun(), Again())[1] == [Join(), Wait(REGISTER_AGAIN_S, Again())]
    state, effects = after(Begun(), TooLate())
    failed, last = effects
    assert isinstance(last, Fail)
    assert isinstance(last.error, RegistrationTimeout)
    assert failed == Tell(Failed(1, "b", RegistrationTimeout.exit_code, last.error.message))
    assert state.over
    state, effects = after(Begun(), Joined())
    assert effects == [work(0)]
    for late in (Joined(), Again(), TooLate()):
        assert after(late, state=state) == (state, [])


def test_what_departs_is_sent_before_it_is_recorded() -> None:
    """Warmed up, with its record in the commit; released and sent at once; then the next model
    is awaited.
    """
    state, effects = after(*WARM)
    assert effects == [Persist(record()), told(record()), work(1)]
    state, effects = after(ModelReleased(1, Model(1)), state=state)
    assert effects == [Send("c", OUT, Model(1), 1), Wait(1, Unanswered(OUT, 1))]
    assert (state.outbox[OUT].to, state.cursor, state.working) == ("c", 1, True)
    state, effects = after(StepFinished(1, None), state=state)
    assert effects == [Persist(), Wait(100, Overdue(2))]
    assert (state.cursor, state.working) == (2, False)
    timers = Overdue(2), Overdue(1), Unanswered(OUT, 1), Unanswered(NEXT, 1)
    assert [state.is_past(timer) for timer in timers] == [False, True, False, True]


def test_a_model_is_safe_before_it_is_acknowledged_and_acknowledged_before_it_is_hosted() -> None:
    """The order is the law: persist, acknowledge, work; what is persisted has the model."""
    state, effects = after(*HOSTS)
    assert effects == [Persist(), Reply("a", Ack(A1)), work(2, Model(2, "x"))]
    assert state.waiting == {A1: Model(2, "x")}


def test_a_visitor_goes_on_before_its_record_is_kept() -> None:
    """Sent as soon as it is released; state, departure and record are one commit; who was hosted
    is known by its digest.
    """
    state, effects = after(ModelReleased(2, Model(3, "y")), state=after(*HOSTS)[0])
    assert effects == [Send("c", NEXT, Model(3, "y"), 1), Wait(1, Unanswered(NEXT, 1))]
    done = record(A1)
    state, effects = after(StepFinished(2, done), state=state)
    assert effects[:2] == [Persist(done), told(done)]
    assert (state.waiting, state.recent, set(state.outbox)) == ({}, {A1: "x"}, {OUT, NEXT})


def test_an_evaluated_model_leaves_before_it_is_tested() -> None:
    """In the evaluation round a visitor goes on unchanged, so it is sent before the work begins."""
    machine = HospitalMachine.of(Topology(("a", "b", "c"), 1), "b", TERMS)
    arrived = HopId("run", 1, "a", 2, 1)
    place = machine.program.position("a", 2, 1)
    assert place is not None
    state = State(cursor=place, joined=True)
    _, effects = after(ModelArrived(arrived, "a", Model(5, "z")), state=state, machine=machine)
    onward = HopId("run", 1, "a", 2, 2)
    step = Step("host", 2, machine.topology.stop("a", 2, 1))
    following = machine.topology.stop("c", 2, 2)
    assert effects == [
        Persist(), Reply("a", Ack(arrived)), Send("c", onward, Model(5, "z"), 1),
        Wait(1, Unanswered(onward, 1)), Work(place, step, Model(5, "z"), following),
    ]  # fmt: skip


def test_a_model_that_is_home_stays() -> None:
    """The homecoming releases nothing, and the next round begins."""
    place = B.program.position("b", 1, 4)
    assert place is not None
    state = State(cursor=place, joined=True)
    state, effects = after(ModelArrived(B4, "a", Model(9, "h")), state=state)
    assert effects[-1] == work(place, Model(9, "h"))
    assert after(ModelReleased(place, Model(10)), state=state)[1] == []
    assert after(StepFinished(place, record(B4)), state=state)[1] == [
        Persist(record(B4)),
        told(record(B4)),
        work(place + 1),
    ]


@pytest.mark.parametrize("index", [1, 3])
def test_word_of_another_step_than_the_present_one_changes_nothing(index: int) -> None:
    """What a thread hands in for a step that is over, or has not begun, is nothing."""
    state, _ = after(*HOSTS)
    for event in (ModelReleased(index, Model(9)), StepFinished(index, record())):
        assert after(event, state=state) == (state, [])
    state, _ = after(ModelReleased(2, Model(3)), state=state)
    assert after(ModelReleased(2, Model(4)), state=state) == (state, [])


FOREIGN = {
    "run": A1._replace(run="other"),
    "epoch": A1._replace(epoch=2),
    "earlier epoch": A1._replace(epoch=0),
    "model": A1._replace(model="z"),
    "hop that leads elsewhere": A1._replace(hop=2),
    "hop behind the last": A1._replace(hop=5),
    "hop 0": A1._replace(hop=0),
    "round 0": A1._replace(round=0),
    "round behind the last": A1._replace(round=4),
    "own model before it is home": A1._replace(model="b"),
    "far ahead": HopId("run", 1, "a", 3, 1),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("kind", ["arrived", "knocked", "repeated"])
def test_a_model_that_does_not_belong_here_is_refused(what: str, kind: str) -> None:
    """Another run, epoch, model or hop, or one that cannot have come so far: refused with the
    true sender, and nothing else.
    """
    hop = FOREIGN[what]
    kinds = {
        "arrived": ModelArrived(hop, "a", Model(9, "f")),
        "knocked": Knocked(hop, "a"),
        "repeated": Repeated(hop, "a", "f"),
    }
    event: Event = kinds[kind]
    for state in (after(*GONE)[0], after(*HOSTS)[0]):
        same, effects = after(event, state=state)
        assert same == state
        ((sender, refused, reason),) = effects  # type: ignore[misc]
        assert (sender, refused) == ("a", hop)
        assert reason


@pytest.mark.parametrize("sender", ["b", "c", "d", "controller", "z", ""])
def test_only_the_hospital_before_can_send_a_model(sender: str) -> None:
    """The right hop from anybody but its true sender is refused and names whoever sent it,
    before the true one came and after.
    """
    for hop in (A1, D2):
        for state in (after(*GONE)[0], after(*HOSTS)[0]):
            for event in (
                ModelArrived(hop, sender, Model(9, "f")),
                Knocked(hop, sender),
                Repeated(hop, sender, "f"),
            ):
                assert after(event, state=state) == (
                    state,
                    [Refuse(sender, hop, "'a' should have sent it")],
                )


def test_a_repeat_is_known_by_its_position() -> None:
    """What waits, is hosted, or was hosted however long ago is acknowledged again and not taken
    in.
    """
    state, _ = after(*HOSTS)
    for again in (ModelArrived(A1, "a", Model(9, "x")), Repeated(A1, "a", "x"), Knocked(A1, "a")):
        assert after(again, state=state) == (state, [Reply("a", Ack(A1))])
    late = State(cursor=len(B.program), joined=True, done=True)
    assert after(ModelArrived(A1, "a", Model(9, "?")), state=late) == (late, [Reply("a", Ack(A1))])


@pytest.mark.parametrize("hosted", [False, True])
def test_another_model_under_the_same_hop_is_refused(hosted: bool) -> None:  # noqa: FBT001
    """A second model with another digest is never acknowledged, whether the first one waits, is
    hosted, or was just hosted.
    """
    events = (*HOSTS, ModelReleased(2, Model(3)), StepFinished(2, record(A1))) if hosted else HOSTS
    state, _ = after(*events)
    for event in (ModelArrived(A1, "a", Model(9, "f")), Repeated(A1, "a", "f")):
        same, effects = after(event, state=state)
        assert same == state
        assert effects == [
            Refuse("a", A1, "another model (digest f) than the one that came first (digest x)")
        ]


def test_memory_of_digests_is_bounded() -> None:
    """Only of the last few models that were hosted the digests are kept."""
    state = after(*HOSTS)[0]
    state = state._replace(
        recent={A1._replace(round=-number): str(number) for number in range(RECENT)}
    )
    state, _ = after(StepFinished(2, record(A1)), state=state)
    assert len(state.recent) == RECENT
    assert A1 in state.recent


def test_a_full_inbox_says_later_and_calls_when_there_is_room() -> None:
    """Beyond the one at work and the one that may wait, a model stays with its sender, and is
    called when a step has begun.
    """
    state, effects = after(*HOSTS, Knocked(D2, "a"))
    assert effects == [Reply("a", Ready(D2))]
    state, effects = after(ModelArrived(D2, "a", Model(3, "d")), state=state)
    assert effects == [Persist(), Reply("a", Ack(D2))]
    for event in (Knocked(C3, "a"), ModelArrived(C3, "a", Model(4, "c"))):
        full, effects = after(event, state=state)
        assert effects == [Reply("a", Later(C3))]
        assert (full.deferred, full.waiting) == ({C3: "a"}, state.waiting)
    state, effects = after(StepFinished(2, record(A1)), state=full)
    assert effects == [
        Persist(record(A1)),
        told(record(A1)),
        work(3, Model(3, "d")),
        Reply("a", Ready(C3)),
    ]
    state, effects = after(ModelArrived(C3, "a", Model(4, "c")), state=state)
    assert effects == [Persist(), Reply("a", Ack(C3))]
    assert state.deferred == {}


def test_a_step_without_a_visitor_makes_no_room() -> None:
    """While a hospital warms up nobody is at work there: no more may wait than at other times."""
    state, effects = after(Begun(), Joined(), ModelArrived(D2, "a", Model(3, "d")))
    assert state.working
    assert effects == [Persist(), Reply("a", Ack(D2))]
    assert after(Knocked(C3, "a"), state=state)[1] == [Reply("a", Later(C3))]


def test_the_next_model_finds_room_always() -> None:
    """Whatever else waits, the model that is hosted next is taken in, also while too many others
    are just arriving.
    """
    state, _ = after(*GONE, ModelArrived(D2, "a", Model(3, "d")))
    assert after(Knocked(C3, "a"), state=state)[1] == [Reply("a", Later(C3))]
    assert after(ModelArrived(A1, "a", Model(4, "x")), state=state)[1][:2] == [
        Persist(),
        Reply("a", Ack(A1)),
    ]
    assert B.needs(state, A1)
    assert not B.needs(state, D2)
    assert after(Knocked(C3, "a", crowded=True), state=after(*GONE)[0])[1] == [
        Reply("a", Later(C3))
    ]


def sent() -> State:
    return after(*WARM, ModelReleased(1, Model(1, "o")))[0]


def test_what_was_sent_is_kept_until_it_is_safe() -> None:
    """An acknowledgement counts from its receiver alone and once; then the departure is
    forgotten.
    """
    state = sent()
    for by in ("a", "b", "d", "controller"):
        for event in (Acked(OUT, by), Deferred(OUT, by), Wanted(OUT, by)):
            assert after(event, state=state) == (state, [])
    assert after(Acked(NEXT, "c"), state=state) == (state, [])
    state, effects = after(Acked(OUT, "c"), state=state)
    assert effects == [Delivered("c", OUT, Model(1, "o"), 1)]
    assert state.outbox == {}
    for event in (Acked(OUT, "c"), Deferred(OUT, "c"), Wanted(OUT, "c"), Unanswered(OUT, 1)):
        assert after(event, state=state) == (state, [])


def test_silence_is_answered_with_retries_and_ends_in_time() -> None:
    """Each attempt waits longer, all together `timeouts.acknowledgement`; then the error names
    receiver, hop and tries.
    """
    state, attempt, waits = sent(), 1, []
    while True:
        before = state
        state, effects = after(Unanswered(OUT, attempt), state=state)
        if isinstance(effects[-1], Fail):
            break
        attempt += 1
        again, wait = effects
        assert again == Send("c", OUT, Model(1, "o"), attempt)
        assert isinstance(wait, Wait)
        assert wait.timer == Unanswered(OUT, attempt)
        waits.append(wait.seconds)
        assert after(Unanswered(OUT, attempt - 1), state=state) == (state, [])
        past = [state.is_past(Unanswered(OUT, number)) for number in (attempt - 1, attempt)]
        assert past == [True, False]
    assert 1 + sum(waits) == TERMS.acknowledgement
    assert sorted(waits[:-1]) == waits[:-1]
    error = effects[-1].error
    assert isinstance(error, AcknowledgementTimeout)
    assert (
        f"'c' never confirmed the model of 'b', round 1 hop 1, in 10 s and {attempt} tries"
        in error.message
    )
    assert effects[0] == Tell(Failed(1, "b", AcknowledgementTimeout.exit_code, error.message))
    assert not before.over
    assert state.over


def test_a_receiver_that_asks_for_patience_is_alive() -> None:
    """`Later` stops the retries for a while and forgets the silence, `Ready` sends at once; old
    attempts are nothing.
    """
    state, effects = after(Unanswered(OUT, 1), Deferred(OUT, "c"), state=sent())
    assert effects == [
        Wait(min(TERMS.acknowledgement, PATIENT_RETRIES * TERMS.retry), Unanswered(OUT, 3))
    ]
    assert state.outbox[OUT] == Departure("c", Model(1, "o"), 3)
    assert after(Unanswered(OUT, 2), state=state) == (state, [])
    called, effects = after(Wanted(OUT, "c"), state=state)
    assert effects == [Send("c", OUT, Model(1, "o"), 4), Wait(1, Unanswered(OUT, 4))]
    assert after(Unanswered(OUT, 3), state=called) == (called, [])
    assert after(Unanswered(OUT, 3), state=state)[1] == [
        Send("c", OUT, Model(1, "o"), 4),
        Wait(1, Unanswered(OUT, 4)),
    ]


def test_a_model_that_does_not_come_in_time_is_an_error() -> None:
    """The error says who should have sent what; a wait for a step that has begun meanwhile is
    nothing.
    """
    state, effects = after(*GONE, Overdue(2))
    assert isinstance(effects[-1], Fail)
    error = effects[-1].error
    assert isinstance(error, HopTimeout)
    assert (
        "'b' waited 100 s for the model of 'a' (round 1, hop 1), which 'a' should have sent"
        in error.message
    )
    assert (error.stop, state.over) == ((1, 1), True)
    for events in (HOSTS, (*HOSTS, StepFinished(2, record(A1)))):
        state, _ = after(*events)
        assert after(Overdue(2), state=state) == (state, [])


def finished(machine: HospitalMachine = B) -> State:
    """Give the state right before the last step ends, with nothing on its way."""
    return State(cursor=len(machine.program) - 1, joined=True, working=True)


def test_done_is_said_when_everything_is_safe() -> None:
    """Not while something it sent is on its way; then once, and with the controller's word it
    leaves.
    """
    last = len(B.program) - 1
    assert after(StepFinished(last, None), state=finished())[1] == [
        Persist(),
        Persist(),
        Tell(Done(1, "b")),
        Wait(3, Goodbye()),
    ]
    waiting = finished()._replace(outbox={OUT: Departure("c", Model(1))})
    state, effects = after(StepFinished(last, None), state=waiting)
    assert effects == [Persist()]
    state, effects = after(Acked(OUT, "c"), state=state)
    assert effects == [
        Delivered("c", OUT, Model(1), 1),
        Persist(),
        Tell(Done(1, "b")),
        Wait(3, Goodbye()),
    ]
    state, effects = after(Ended(0, "all"), state=state)
    assert (effects, state.over) == ([Leave("the run has ended")], True)


def test_without_a_controller_it_leaves_by_itself() -> None:
    """When nobody says anything after it was done, it asks three times, and goes."""
    state, _ = after(StepFinished(len(B.program) - 1, None), state=finished())
    for _ in range(3):
        state, effects = after(Goodbye(), state=state)
        assert effects == [Tell(Done(1, "b")), Wait(3, Goodbye())]
    state, effects = after(Goodbye(), state=state)
    assert (effects, state.over) == ([Leave("no word from the controller")], True)
    early, _ = after(*HOSTS)
    assert after(Goodbye(), state=early) == (early, [])


def test_it_stays_while_the_controller_answers() -> None:
    """Others may still need to hear from it; but not longer than the controller itself would wait
    for anybody.
    """
    state, _ = after(StepFinished(len(B.program) - 1, None), state=finished())
    most = int((2 * TERMS.hop + TERMS.acknowledgement) / TERMS.goodbye) + 1
    for _ in range(most):
        state, effects = after(Goodbye(), Joined(), state=state)
        assert (effects, state.over) == ([], False)
    state, effects = after(Goodbye(), state=state)
    assert (effects, state.over) == ([Leave("no word from the controller")], True)


def test_an_early_good_end_ends_nothing() -> None:
    """A hospital looks at its own program: told that all is over while it is not, it goes on and
    still answers when it is done.
    """
    state, effects = after(*HOSTS, Ended(0, "all"))
    assert (effects, state.over, state.ended) == ([], False, True)
    assert after(ModelReleased(2, Model(3)), state=state)[1]
    state, effects = after(
        StepFinished(len(B.program) - 1, None), state=finished()._replace(ended=True)
    )
    assert effects == [Persist(), Persist(), Tell(Done(1, "b")), Wait(3, Goodbye())]
    assert not state.over


def test_anothers_failure_ends_it_without_another_word() -> None:
    """The controller's word with a code is an error of second hand, which the controller is not
    told again.
    """
    state, effects = after(*HOSTS, Ended(43, "'c' failed: nan"))
    (last,) = effects
    assert isinstance(last, Fail)
    assert isinstance(last.error, RunAborted)
    assert last.error.second_hand
    assert state.over


def test_what_breaks_here_is_told_first() -> None:
    """The controller hears code and reason, and then the hospital ends; afterwards nothing
    happens any more.
    """
    error = HospitalCrashed("it broke", fix="mend it")
    state, effects = after(*HOSTS, Broke(error))
    assert effects == [Tell(Failed(1, "b", HospitalCrashed.exit_code, "it broke")), Fail(error)]
    for event in (
        Begun(),
        Joined(),
        ModelArrived(D2, "a", Model(4)),
        Acked(OUT, "c"),
        StepFinished(2, record(A1)),
        Ended(0, ""),
        Goodbye(),
    ):
        assert after(event, state=state) == (state, [])


def test_sessions_that_are_undone_in_a_row_end_it() -> None:
    """As many as the scenario allows are recorded; one that succeeds starts the count anew, one
    that passes does not count.
    """
    state, _ = after(*GONE)
    for outcome, rollbacks in (
        ("rolled_back", 1),
        ("passed", 1),
        ("evaluated", 1),
        ("trained", 0),
        ("rolled_back", 1),
    ):
        state, effects = after(
            ModelArrived(A1, "a", Model(2, "x")),
            StepFinished(2, record(A1, outcome)),
            state=state._replace(cursor=2),
        )
        assert state.rollbacks == rollbacks
        assert effects[0] == Persist(record(A1, outcome))
    undone = record(A1, "rolled_back")
    state, effects = after(
        ModelArrived(A1, "a", Model(2, "x")),
        StepFinished(2, undone),
        state=state._replace(cursor=2),
    )
    assert effects[:2] == [Persist(undone), told(undone)]
    assert isinstance(effects[2], Tell)
    assert isinstance(effects[2].message, Failed)
    assert isinstance(effects[3], Fail)
    assert isinstance(effects[3].error, NonFiniteLoss)
    assert "'b' rolled back 2 sessions in a row: nan" in effects[3].error.message


@pytest.mark.parametrize("moment", range(len(HOSTS) + 2))
def test_who_comes_back_goes_on_at_its_step(moment: int) -> None:
    """From any state it registers, begins its step again, sends again what was on its way, and
    knows what it has.
    """
    events = (*HOSTS, ModelReleased(2, Model(3, "y")), StepFinished(2, record(A1)))
    kept, _ = after(*events[: moment + 1])
    state, effects = after(Begun(), state=kept)
    assert effects[0] == Join()
    state, effects = after(Joined(), state=state)
    again = [effect for effect in effects if isinstance(effect, Send)]
    assert again == [Send(one.to, hop, one.model, 1) for hop, one in kept.outbox.items()]
    assert [
        effect.timer
        for effect in effects
        if isinstance(effect, Wait) and isinstance(effect.timer, Unanswered)
    ] == [Unanswered(hop, 1) for hop in kept.outbox]
    assert state.cursor == kept.cursor
    assert state.waiting == kept.waiting
    step = B.program.at(kept.cursor)
    assert step is not None
    model = next(iter(kept.waiting.values()), None)
    begun = [effect for effect in effects if isinstance(effect, Work)]
    assert begun == (
        [] if step.stop and model is None else [work(kept.cursor, model if step.stop else None)]
    )
    for hop in kept.waiting:
        assert after(ModelArrived(hop, "a", Model(99, kept.waiting[hop].digest)), state=state)[
            1
        ] == [Reply("a", Ack(hop))]


def test_who_comes_back_after_everything_says_so_again() -> None:
    """Done is told to the controller again, which may not have heard it."""
    state = finished()._replace(cursor=len(B.program), working=False, done=True)
    assert after(Begun(), Joined(), state=state)[1] == [
        Persist(),
        Tell(Done(1, "b")),
        Wait(3, Goodbye()),
    ]


def test_who_is_held_out_only_tests() -> None:
    """Its first step hosts, and while it waits for everything before it is patient."""
    machine = HospitalMachine.of(Topology(("a", "b"), 2, held_out=("x",)), "x", TERMS)
    _, effects = after(Begun(), Joined(), machine=machine)
    (wait,) = effects
    assert isinstance(wait, Wait)
    assert wait.seconds > 2 * TERMS.hop
    assert wait.timer == Overdue(0)


def test_a_step_never_changes_the_state_it_was_given() -> None:
    """States are values: the same event on the same state gives the same turn again."""
    state, seen = State(), []
    events: tuple[Any, ...] = (
        *HOSTS,
        ModelReleased(2, Model(3, "y")),
        StepFinished(2, record(A1)),
        Knocked(D2, "a"),
    )
    for event in events:
        seen.append((state, event, B.step(state, event)))
        state = seen[-1][2][0]
    for before, event, turn in seen:
        assert B.step(before, event) == turn


def test_what_cannot_be_made_again_is_safe_before_it_leaves() -> None:
    """Where arithmetic is not repeatable a result leaves when its step has been persisted."""
    machine = replace(B, terms=replace(TERMS, repeatable=False))
    state, effects = after(*WARM, ModelReleased(1, Model(1)), machine=machine)
    assert effects == []
    assert handles(state) == {1: Model(1)}
    state, effects = after(StepFinished(1, None), state=state, machine=machine)
    assert effects[:2] == [Persist(), Send("c", OUT, Model(1), 1)]
    assert (state.parting, [*state.outbox]) == (None, [OUT])


def test_a_state_is_read_as_it_was_written() -> None:
    """Through JSON comes back all that a restart needs: cursor, models that wait or are on their
    way, digests, undone sessions.
    """
    state = after(*HOSTS, ModelArrived(D2, "a", Model(5, "z")))[0]._replace(
        rollbacks=1, recent={A1: "q"}
    )
    back = parse(json.loads(json.dumps(dump(state))))
    assert (back.cursor, back.rollbacks, back.waiting, back.recent) == (
        state.cursor,
        1,
        state.waiting,
        state.recent,
    )
    assert {hop: (one.to, one.model) for hop, one in back.outbox.items()} == {
        hop: (one.to, one.model) for hop, one in state.outbox.items()
    }
    assert handles(back) == handles(state)
    for damage in ({}, {**dump(state), "waiting": [[1]]}, {**dump(state), "cursor": "x"}):
        with pytest.raises((ValueError, KeyError)):
            parse(damage)


def test_who_comes_back_is_told_nothing_false_about_others() -> None:
    """A model that is further than it could be is refused in a first life; later it may be, and
    is told to wait.
    """
    far = HopId("run", 1, "a", 3, 1)
    assert isinstance(after(*WARM, Knocked(far, "a"))[1][0], Refuse)
    again = (Begun(again=True), *WARM[1:])
    assert after(*again, Knocked(far, "a"))[1] == [Reply("a", Later(far))]


def test_who_comes_back_calls_for_the_model_that_it_waits_for() -> None:
    """Its sender thinks that it is under way; nobody is called in a first life, nor for a model
    that is here.
    """
    kept = parse(json.loads(json.dumps(dump(after(*GONE)[0]))))
    _, effects = after(Begun(again=True), Joined(), state=kept)
    assert effects[-2:] == [Wait(100, Overdue(2)), Call("a", A1)]
    assert Call("a", A1) not in after(Begun(), Joined(), state=kept)[1]
    here = parse(json.loads(json.dumps(dump(after(*HOSTS)[0]))))
    _, effects = after(Begun(again=True), Joined(), state=here)
    assert effects[-1] == work(2, Model(2, "x"))


def test_a_call_is_answered_with_the_model_at_once_and_only_its_receiver_has_it() -> None:
    """The sender does not wait until its patience with an answer is over; what is safe elsewhere
    is not sent again.
    """
    state = after(*GONE)[0]
    assert after(Wanted(OUT, "c"), state=state)[1] == [
        Send("c", OUT, Model(1), 2),
        Wait(1, Unanswered(OUT, 2)),
    ]
    assert after(Wanted(OUT, "d"), state=state)[1] == []
    assert after(Acked(OUT, "c"), Wanted(OUT, "c"), state=state)[1] == []
