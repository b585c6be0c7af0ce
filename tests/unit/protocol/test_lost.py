"""The controller declares who is lost, and learns of it again if it is a new one itself."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from fedskd_sim.errors import HopTimeout, HospitalLost, RunAborted
from fedskd_sim.exits import final_codes
from fedskd_sim.member.controller import Controller, Heartbeats
from fedskd_sim.messages import (
    Alive,
    Done,
    End,
    Epoch,
    Failed,
    Gone,
    Holds,
    Progress,
    Register,
    Start,
    ToController,
)
from fedskd_sim.observe.events import EventLog
from fedskd_sim.protocol.admission import RegistrarState
from fedskd_sim.protocol.controller import Registrar
from fedskd_sim.protocol.effects import Admitted, Closed, ControllerEffect, Declared, Opening, Say
from fedskd_sim.records import Record
from fedskd_sim.ring.routes import Back, Returns, code
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import load
from fedskd_sim.scenario.faults import OnLoss
from fedskd_sim.transport import NothingReceived

FILE = Path(__file__).parents[3] / "scenarios" / "placebo-ok.yaml"
WAITING = load(FILE).scenario
NAMES = ("north", "east", "south")
EAST = {"east": 0}
EAST_LOST = Epoch(2, {"east": "0"})


def registrar(policy: str = "skip", model: str = "travels", rounds: int = 2) -> Registrar:
    on_loss = OnLoss.model_validate({"name": policy, "after": 3.0, "model": model})
    algorithm = WAITING.algorithm.model_copy(update={"rounds": rounds})
    scenario = WAITING.model_copy(update={"on_loss": on_loss, "algorithm": algorithm})
    return Registrar(scenario, "run", 1, frozenset(final_codes()), Topology.of(scenario))


SKIP, LONG = registrar(), registrar(rounds=4)


def after(
    *words: ToController, of: Registrar = SKIP
) -> tuple[RegistrarState, list[ControllerEffect]]:
    """Let a controller hear some words, after all have registered."""
    state, effects = RegistrarState(), list[ControllerEffect]()
    registered = [Register("run", 1, name, f"at-{name}", "", "") for name in NAMES]
    for word in (*registered, *words):
        state, effects = of.step(state, word)
    return state, effects


def test_a_loss_is_declared_to_all() -> None:
    """Also to the lost one, who may live; the run then needs the others only."""
    state, effects = SKIP.lose(after()[0], ["east"])
    assert effects == [Declared(2, {"east": 0}), *(Say(name, EAST_LOST) for name in NAMES)]
    state, _ = SKIP.step(state, Done(1, "north"))
    assert state.ended is None
    state, _ = SKIP.step(state, Done(1, "south"))
    assert state.ended == End(1, 0, "all hospitals are done")


def test_who_is_lost_hears_only_that() -> None:
    """Whatever it says."""
    state, _ = SKIP.lose(after()[0], ["east"])
    for word in (Alive(1, "east", "", 0), Done(1, "east"), Progress(1, "east", "east", 1, 1, 0.0)):
        assert SKIP.step(state, word) == (state, [Say("east", EAST_LOST)])


def returning(*words: ToController) -> tuple[RegistrarState, list[ControllerEffect]]:
    """Let east be lost and know it, after the others have told of round 1; then hear words."""
    state, _ = LONG.lose(after(Progress(1, "north", "south", 1, 1, 0.0), of=LONG)[0], ["east"])
    effects = list[ControllerEffect]()
    for word in (Holds(2, "east", 0), *words):
        state, effects = LONG.step(state, word)
    return state, effects


def test_who_is_lost_and_knows_it_is_proposed_to_the_others() -> None:
    """From the first round that nobody has begun; with the address book: it may be elsewhere."""
    state, effects = returning()
    assert (state.back, state.asked) == ({"east": Back(2)}, {"east"})
    assert {one.to for one in effects if isinstance(one, Say)} == {"north", "south"}
    assert Say("north", Epoch(6, {"east": "0 4"})) in effects
    assert any(isinstance(one, Say) and isinstance(one.message, Start) for one in effects)


def test_a_return_counts_once_all_others_have_it() -> None:
    """Not before; the returner is then told, and the run waits for it."""
    state, effects = returning(Holds(6, "north", 1))
    assert effects == []
    assert LONG.step(state, Alive(2, "east", "east", 0)) == (state, [])  # it is not told yet
    state, effects = LONG.step(state, Holds(6, "south", 1))
    assert effects[:2] == [Admitted(6, "east", 2), Say("east", Epoch(6, {"east": "0 4"}))]
    for name in ("north", "south"):
        state, _ = LONG.step(state, Done(1, name))
    assert not state.ended
    assert LONG.step(state, Done(1, "east"))[0].ended


def test_a_return_that_comes_too_late_is_called_off() -> None:
    """A hospital is further than was known: the next try is behind that."""
    state, _ = returning(Holds(6, "north", 1), Holds(0, "south", 2))
    assert state.back == {"east": Back(2, away=True)}
    state, _ = LONG.step(state, Holds(state.epoch, "east", 0))
    assert state.back == {"east": Back(3)}


def test_a_loss_meanwhile_calls_a_return_off() -> None:
    """Who is lost may have passed the returner by, and nobody has asked it. That of the returner
    itself does, too.
    """
    state, _ = returning()
    assert LONG.lose(state, ["east"])[0].back == {"east": Back(2, away=True)}
    state, _ = LONG.step(state, Gone(1, "north", "east"))
    assert (state.lost, state.back) == ({"east": 1}, {"east": Back(2, away=True)})


def test_where_no_round_is_left_who_is_lost_is_told_so() -> None:
    """The last round in which models train has begun."""
    state, effects = returning(Holds(0, "south", 4))
    for word in (Alive(2, "east", "east", 0), Holds(state.epoch, "east", 0)):
        _, effects = LONG.step(state, word)
        (said,) = effects
        assert isinstance(said, Say)
        assert (said.to, said.message.code) == ("east", 49)  # type: ignore[union-attr]


def test_a_new_controller_learns_of_a_return() -> None:
    """It asks all again; who is back says so itself, and need not be asked."""
    state, _ = after(Alive(6, "south", "east", 0, 4), of=LONG)
    assert (state.back, state.asked) == ({"east": Back(2)}, {"east"})
    state, _ = LONG.step(state, Alive(6, "east", "east", 0, 4))
    assert (state.asked, state.away) == (frozenset(), frozenset())


@pytest.mark.parametrize("noted", [{}, {"east": Back(2, away=True)}], ids=["none", "an old one"])
def test_a_controller_that_took_over_while_all_were_asked_asks_again(noted: Returns) -> None:
    """It has noted the loss and no proposal: it learns of it from one that holds it, and only when
    all hold it, by their word to itself, is the returner back.
    """
    controller = Controller(LONG.scenario, "run", Wire(), EventLog(StringIO()))
    controller.resume({name: name for name in NAMES}, dict.fromkeys(NAMES, ""), EAST, noted)
    assert controller.state.away == {"east"}
    proposed = Back(3) if noted else Back(2)
    controller.step(Alive(1 + 1 + code(proposed), "north", "east", 0, code(proposed)))
    assert controller.state.asked == {"east"}
    epoch = controller.state.epoch
    controller.step(Holds(epoch, "north", 1))
    assert controller.state.asked == {"east"}
    late = Controller(LONG.scenario, "run", Wire(), EventLog(StringIO()))
    late.state = controller.state
    controller.step(Holds(epoch, "south", 1))
    assert controller.state.admitted == {"east"}
    late.step(Holds(0, "south", proposed.round))
    assert late.state.back == {"east": proposed._replace(away=True)}


def test_a_controller_that_comes_later_counts_on_who_was_admitted() -> None:
    """It has the return from its predecessor, which had the word of all: the run waits for the
    returner, who need not be asked about, and is told that it is back if it has not heard it.
    """
    wire = Wire()
    told: list[object] = []
    controller = Controller(
        LONG.scenario, "run", wire, EventLog(StringIO()), losing=lambda *one: told.append(one)
    )
    back = {"east": Back(2)}
    controller.resume({name: name for name in NAMES}, dict.fromkeys(NAMES, ""), EAST, back)
    assert (controller.state.away, controller.state.asked) == (frozenset(), frozenset())
    controller.step(Alive(2, "east", "east", 0))
    assert wire.said == [("east", Epoch(6, {"east": "0 4"}))]
    for name in ("north", "south"):
        controller.step(Done(1, name))
    assert not controller.state.ended
    assert told == []
    controller.step(Failed(1, "east", 41, "its pod was deleted"))
    assert told == [(EAST, {"east": Back(2, away=True)})]


def test_who_knows_that_it_is_back_is_not_sent_away() -> None:
    """By a controller that has it as lost only, since the one before it died before it noted the
    return; a rejoining hospital's old word changes nothing.
    """
    controller = Controller(LONG.scenario, "run", Wire(), EventLog(StringIO()))
    controller.resume({name: name for name in NAMES}, dict.fromkeys(NAMES, ""), EAST)
    controller.step(Alive(2, "east", "east", 0))
    assert controller.state.away == {"east"}
    controller.step(Alive(6, "east", "east", 0, 4))
    controller.step(Alive(6, "east", "east", 0, 4))
    assert controller.state.admitted == {"east"}


def test_a_proposal_is_not_noted() -> None:
    """Only what all that are left have taken in: `status` and the next controller count on it."""
    state, _ = returning()
    assert (state.back, state.returned) == ({"east": Back(2)}, {})
    for name in ("north", "south"):
        state, _ = LONG.step(state, Holds(6, name, 1))
    assert state.returned == {"east": Back(2)}


@pytest.mark.parametrize(("may", "said"), [(False, [49]), (None, [])])
def test_a_stranger_in_a_hospitals_place_is_sent_away(may: bool | None, said: list[int]) -> None:  # noqa: FBT001
    """One that has nothing of what was known there; if that cannot be seen, it waits."""
    controller = Controller(LONG.scenario, "run", wire := Wire(), EventLog(StringIO()))
    controller.admit_only(lambda name: may if name == "east" else True)
    controller.state, _ = LONG.lose(after(of=LONG)[0], ["east"])
    controller.step(Holds(2, "east", 0))
    assert [(to, word.code) for to, word in wire.said if isinstance(word, End)] == [
        ("east", code) for code in said
    ]
    assert controller.state.away == {"east"}


def test_a_stranger_that_comes_while_all_are_asked_is_not_admitted() -> None:
    """Who asked is there no more when all have agreed: the return is off, and all hear it."""
    controller = Controller(LONG.scenario, "run", wire := Wire(), EventLog(StringIO()))
    answers = [True, False]
    controller.admit_only(lambda _: answers.pop(0))
    controller.state, _ = LONG.lose(after(of=LONG)[0], ["east"])
    controller.step(Holds(2, "east", 0))
    wire.said.clear()
    for name in ("north", "south"):
        controller.step(Holds(6, name, 1))
    assert controller.state.back == {"east": Back(2, away=True)}
    assert wire.said == [(name, Epoch(7, {"east": "0 5"})) for name in NAMES]


def test_who_has_forgotten_that_it_took_part_is_sent_away() -> None:
    """It has told of a round, and says now that it has begun none: its claim is empty."""
    told = Progress(1, "east", "north", 1, 1, 0.0)
    state, _ = LONG.lose(after(told, of=LONG)[0], ["east"])
    for begun, name in ((0, "End"), (1, "Start")):
        _, effects = LONG.step(state, Holds(2, "east", begun))
        assert isinstance(effects[0], Say)
        assert type(effects[0].message).__name__ == name


def test_a_retired_model_leaves_with_the_next_round() -> None:
    """The one after the last of which anybody has told."""
    retiring = registrar(model="retires")
    state, _ = after(Progress(1, "north", "south", 1, 1, 0.0), of=retiring)
    assert retiring.lose(state, ["east"])[0].lost == {"east": 2}


def test_a_model_that_never_set_out_is_left_out() -> None:
    """Its first host says so; of a hospital that is not lost it means nothing."""
    state, _ = SKIP.lose(after()[0], ["east"])
    state, effects = SKIP.step(state, Gone(1, "south", "east"))
    assert (state.lost, effects[0]) == ({"east": 1}, Declared(3, {"east": 1}))
    assert SKIP.step(state, Gone(1, "south", "north")) == (state, [])


def test_a_hospital_that_does_not_know_is_told_again() -> None:
    """Words get lost: a sign of life says what its hospital knows."""
    state, _ = SKIP.lose(after()[0], ["east"], {"east": 1})
    told = [Say("north", Epoch(3, {"east": "1"}))]
    assert SKIP.step(state, Alive(1, "north", "", 0)) == (state, told)
    assert SKIP.step(state, Alive(3, "north", "east", 2)) == (state, told)
    assert SKIP.step(state, Alive(3, "north", "east", 1)) == (state, [])


def test_a_new_controller_learns_of_a_loss() -> None:
    """From any hospital that knows."""
    state, effects = after(Alive(2, "south", "east", 0))
    assert (state.lost, effects[0]) == ({"east": 0}, Declared(2, {"east": 0}))


def test_who_fails_is_lost() -> None:
    """A hospital's own failure is no reason to end the run, unless it wants just that."""
    assert after(Failed(1, "east", 41, "broken"))[0].lost == {"east": 0}
    state, _ = after(Failed(1, "east", RunAborted.exit_code, "enough"))
    assert state.ended
    assert state.ended.code == RunAborted.exit_code


@pytest.mark.parametrize(("policy", "names"), [("skip", ["east", "south"]), ("abort", ["east"])])
def test_what_cannot_or_may_not_go_on_ends(policy: str, names: list[str]) -> None:
    """Fewer than two left, or a policy that ends the run."""
    state, effects = registrar(policy).lose(after()[0], names)
    assert isinstance(effects[0], Closed)
    assert state.ended
    assert state.ended.code == HospitalLost.exit_code
    assert "'east'" in state.ended.reason


def test_a_run_begins_without_who_is_missing() -> None:
    """Who never registered is lost before the start."""
    state = RegistrarState()
    for name in ("north", "south"):
        state, _ = SKIP.step(state, Register("run", 1, name, f"at-{name}", "", ""))
    state, effects = SKIP.begin_without(state)
    assert state.lost == {"east": 0}
    assert effects[1] == Opening()
    book = Start(1, {"north": "at-north", "south": "at-south"}, {"north": "", "south": ""})
    assert Say("north", book) in effects
    waiting = registrar("abort")
    assert waiting.begin_without(RegistrarState()) == (RegistrarState(), [])


def test_who_is_silent_for_too_long_is_found() -> None:
    """Once it has been heard; and not who is known to be lost."""
    time = [0.0]
    beats = Heartbeats(3, lambda: time[0])
    beats.hear("a", "b")
    time[0] = 2.9
    beats.hear("b")
    assert beats.silent(()) == []
    time[0] = 3.1
    assert beats.silent(()) == ["a"]
    assert beats.silent({"a"}) == []


class Wire:
    """Has some words to say, then time passes in silence."""

    def __init__(self, *words: ToController) -> None:
        self.words, self.time, self.said = list(words), 0.0, list[tuple[str, object]]()

    def now(self) -> float:
        return self.time

    def send(self, to: str, message: object) -> None:
        self.said.append((to, message))

    def receive(self, timeout: float) -> ToController:
        if self.words:
            return self.words.pop(0)
        self.time += max(timeout, 0.01)
        raise NothingReceived(timeout)


def test_a_missing_hospital_does_not_stop_the_others_from_beginning() -> None:
    """They begin when the time to register is over, and have all their time from then on."""
    words = [Register("run", 1, name, f"at-{name}", "", "") for name in ("north", "south")]
    wire = Wire(*words)
    controller = Controller(SKIP.scenario, "run", wire, EventLog(StringIO()), now=wire.now)
    with pytest.raises(HospitalLost):  # who says nothing after that is lost, too
        controller.serve()
    waits = SKIP.scenario.timeouts
    assert waits.register_ + 3 < wire.time < waits.register_ + 9
    assert [type(word) for to, word in wire.said if to == "north"] == [Start, Epoch, End]


def test_signs_of_life_alone_are_no_progress() -> None:
    """A hospital that lives and never does anything ends the run as without them."""
    words = [Register("run", 1, name, f"at-{name}", "", "") for name in NAMES]
    wire = Wire(*words)
    controller = Controller(SKIP.scenario, "run", wire, EventLog(StringIO()), now=wire.now)

    def receive(timeout: float) -> ToController:
        if words:
            return words.pop(0)
        wire.time += min(max(timeout, 0.01), 0.2)
        number = int(wire.time * 5)
        return Alive(1, NAMES[number % 3], "", 0)

    wire.receive = receive  # type: ignore[method-assign]
    for _ in range(100_000):
        if controller.state.ended:
            break
        controller.step(wire.receive(0.2))
        controller.give_up()
    assert controller.state.ended
    assert controller.state.ended.code == HopTimeout.exit_code


def test_a_controller_that_stood_still_itself_blames_nobody() -> None:
    """Its clock went on while it heard nothing: all have their time again."""
    time = [0.0]
    log = EventLog(StringIO())
    controller = Controller(SKIP.scenario, "run", Wire(), log, now=lambda: time[0])
    for name in NAMES:
        controller.step(Register("run", 1, name, f"at-{name}", "", ""))
    time[0] = 50.0
    assert not controller.look()
    for step in range(6):
        time[0] = 50.0 + step
        controller.step(Alive(1, "north", "", 0))
        controller.step(Alive(1, "south", "", 0))
    assert controller.state.lost == {"east": 0}


def test_who_is_back_is_left_out_no_more() -> None:
    """A record tells of its round who was left out."""
    known = {"without": {"a": 0, "b": 3}, "back": {"a": 4}}
    for round_, expected in ((3, ("a", "b")), (4, ("b",)), (5, ("b",))):
        record = Record("s", 1, "visit", round_, 1, "c", "d", "net", "trained", **known)
        assert record.left_out == expected
