"""The controller's decisions, one message at a time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fedskd_sim.transport.memory import Exchange, MemoryTransport

from fedskd_sim.errors import HopTimeout, RegistrationTimeout
from fedskd_sim.member.controller import Controller
from fedskd_sim.messages import CONTROLLER, Done, End, Failed, Message, Progress, Register, Start
from fedskd_sim.observe.log import EventLog
from fedskd_sim.scenario import load

SCENARIO = Path(__file__).parent.parent.parent / "scenarios" / "placebo-ok.yaml"
NAMES = ("north", "east", "south")


class Room:
    """A controller and the queues of its three hospitals."""

    def __init__(self) -> None:
        self.exchange, self.stream = Exchange(), io.StringIO()
        transport = MemoryTransport(self.exchange, CONTROLLER)
        self.controller = Controller(load(SCENARIO).scenario, "run", transport, EventLog(self.stream))

    def register(self, *names: str, run: str = "run") -> None:
        for name in names:
            self.controller.step(Register(run, name, f"at-{name}", f"key-{name}", ""))

    def received(self, name: str) -> list[Message]:
        found, transport = [], MemoryTransport(self.exchange, name)
        while self.exchange.waiting(name):
            found.append(transport.receive(0))
        return found


@pytest.fixture
def room() -> Room:
    return Room()


def test_start_goes_to_all_when_the_last_has_registered(room: Room) -> None:
    """The address book is complete, and only a hospital that registers again, because it missed the start, gets it again."""
    room.register("north", "east")
    assert room.received("north") == []
    room.register("south")
    book = Start({name: f"at-{name}" for name in NAMES}, {name: f"key-{name}" for name in NAMES})
    assert [room.received(name) for name in NAMES] == [[book]] * 3
    room.register("south")
    assert [room.received(name) for name in ("north", "east", "south")] == [[], [], [book]]


def test_a_controller_that_takes_over_knows_the_hospitals(room: Room) -> None:
    """A controller that was restarted after the start answers a late hospital and ends the run as the first one would."""
    room.controller.resume({name: f"at-{name}" for name in NAMES}, {name: f"key-{name}" for name in NAMES})
    room.register("east")
    assert [type(message) for message in room.received("east")] == [Start]
    for name in NAMES:
        room.controller.step(Done(name))
    assert room.controller.ended == End(0, "all hospitals are done")


@pytest.mark.parametrize(("name", "run"), [("north", "other"), ("stranger", "run")])
def test_members_of_other_runs_and_strangers_do_not_count(name: str, run: str, room: Room) -> None:
    """Only the scenario's hospitals with the run's name are registered."""
    room.register("east", "south")
    room.register(name, run=run)
    assert room.received("east") == []


def test_the_run_ends_when_all_are_done(room: Room) -> None:
    """Everybody is told the end, once, when the last hospital is done."""
    room.register(*NAMES)
    for name in NAMES:
        assert room.controller.ended is None
        room.controller.step(Done(name))
    assert room.controller.ended == End(0, "all hospitals are done")
    assert all(room.received(name)[-1] == room.controller.ended for name in NAMES)


def test_the_first_failure_ends_the_run_for_all(room: Room) -> None:
    """The end carries the first failure's code and names its hospital; a second failure changes nothing."""
    room.register(*NAMES)
    room.controller.step(Failed("east", 40, "too late"))
    room.controller.step(Failed("south", 43, "other"))
    assert room.controller.ended == End(40, "'east' failed: too late")
    assert [message for message in room.received("north") if isinstance(message, End)] == [room.controller.ended]


def test_progress_is_logged(room: Room) -> None:
    """Each stop of each hospital is one line of the controller's log."""
    room.controller.step(Progress("east", "north", 1, 2, 0.5))
    line = json.loads(room.stream.getvalue())
    assert (line["event"], line["hospital"], line["model"], line["round"], line["hop"]) == ("progress", "east", "north", 1, 2)


def test_silence_before_and_after_the_start_has_its_own_errors(room: Room) -> None:
    """Missing hospitals are a RegistrationTimeout, hospitals that fall silent later a HopTimeout; both name them."""
    room.register("north")
    with pytest.raises(RegistrationTimeout, match="east, south did not register"):
        room.controller.serve()
    late = Room()
    late.register(*NAMES)
    late.controller.step(Done("north"))
    with pytest.raises(HopTimeout, match="no word from east, south"):
        late.controller.serve()
    assert any(isinstance(message, End) for message in late.received("south"))
