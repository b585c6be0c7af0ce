"""Mailboxes and machines on real sockets: patience, repeats, restarts, and rings whose
controller dies.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from watching import until
from wired import LINKS, PATIENCE_S, End, RecordList, Ring, address, attend, identities

from fedskd_sim.errors import (
    AcknowledgementTimeout,
    HopTimeout,
    HospitalCrashed,
    OutputNotWritable,
    RegistrationTimeout,
    RunAborted,
)
from fedskd_sim.learning.base import NOTHING
from fedskd_sim.member.keeper import Freezer, KeptPast
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.shell import Task
from fedskd_sim.member.work import carry_out
from fedskd_sim.messages import (
    CONTROLLER,
    Ack,
    Buffer,
    Epoch,
    Failed,
    HopId,
    Later,
    Ready,
    Register,
    Start,
    Traveller,
    allocate_plain,
    spec,
)
from fedskd_sim.messages import End as Over
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import State, Terms
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.transport.chunks import pack_message
from fedskd_sim.transport.zeromq import Hub, Incoming, Links, Location

NAMES = ("north", "east", "south")
WEIGHTS = {"w": Buffer("uint8", (9,), b"123456789")}
INCOMING = Incoming(dict.fromkeys(NAMES, (spec(WEIGHTS),)), allocate_plain, len(NAMES))
TERMS = Terms(
    "run",
    register=PATIENCE_S,
    hop=PATIENCE_S,
    acknowledgement=PATIENCE_S,
    retry=0.2,
    goodbye=0.2,
    inbox=1,
    max_rollbacks=3,
)
PLACEBO = """\
name: placebo
hospitals: [{{name: north, architecture: buffer}}, {{name: east, architecture: buffer}},
  {{name: south, architecture: buffer}}]
algorithm: {{name: placebo, rounds: {rounds}, buffer_bytes: {size}}}
timeouts: {{register: 300, hop: 60, acknowledgement: 60, retry: 5, goodbye: {goodbye}}}
"""
QUIET = load(Path(__file__).parent.parent.parent / "scenarios" / "placebo-ok.yaml").scenario


def hop(model: str, number: int) -> HopId:
    return HopId("run", 1, model, 1, number)


def traveller(model: str, number: int, sender: str) -> Traveller:
    return Traveller(hop(model, number), sender, "buffer", "", WEIGHTS)


class Bed:
    """A hub, the mailbox of one hospital, and the bare ends of its neighbours."""

    def __init__(self, folder: Path, name: str, terms: Terms) -> None:
        self.folder, self.identities = folder, identities("ipc", NAMES)
        self.hub = Hub(f"ipc://{folder}/hub", self.identities[CONTROLLER])
        self.events: list[object] = []
        links = self.links(name)
        register = Register("run", 1, name, links.address, "", "")
        machine = HospitalMachine.of(Topology(NAMES, 2), name, terms)
        self.mailbox = Mailbox(
            machine, links, Reporter(QUIET, name, RecordList(), self.events.append), register
        )
        self.ends: dict[str, End] = {}

    def links(self, name: str) -> Links:
        return Links(
            Location(
                name, address("ipc", self.folder, name), self.hub.address, self.identities[name]
            ),
            INCOMING,
        )

    def neighbour(self, name: str) -> End:
        """Let a neighbour appear, which knows where everybody is."""
        self.ends[name] = End(self.links(name))
        self.ends[name].links.open(self.book)
        return self.ends[name]

    @property
    def book(self) -> Start:
        return Start(1, {name: f"ipc://{self.folder}/{name}" for name in NAMES}, {})

    def begun(self) -> None:
        """Let the mailbox register, hand out the address book, and warm up."""
        self.mailbox.start()
        word = self.hub.receive(PATIENCE_S)
        assert isinstance(word, Register)
        self.hub.send(word.hospital, self.book)
        self.done(self.mailbox.next_task(), "warm_up")

    def departed(self) -> None:
        """Let the own model depart."""
        task = self.mailbox.next_task()
        assert task is not None
        self.mailbox.release(task.index, WEIGHTS, "")
        self.done(task, "depart")

    def done(self, task: Task | None, action: str) -> None:
        assert task is not None
        assert task.step.action == action
        self.mailbox.finish(task.index, None)


@contextmanager
def bed(folder: Path, name: str, terms: Terms = TERMS) -> Iterator[Bed]:
    made = Bed(folder, name, terms)
    try:
        yield made
    finally:
        made.mailbox.fail(RunAborted("the test is over"))
        made.mailbox.close()
        for end in made.ends.values():
            end.links.close()
        made.hub.close()


def test_models_beyond_the_inbox_stay_with_their_sender(tmp_path: Path) -> None:
    """A model for which there is no room is answered `Later`, and `Ready` when a step is over;
    the next one is always taken.
    """
    with bed(tmp_path, "east") as at:
        north = at.neighbour("north")
        at.begun()
        at.departed()
        coming = [("north", 1), ("south", 2), ("east", 3)]
        for model, number in coming:
            north.links.send("east", traveller(model, number, "north"))
        attend(north, until=lambda: len(north.answers) == 3)
        assert [answer for answer, _ in north.answers] == [
            Ack(hop("north", 1)),
            Ack(hop("south", 2)),
            Later(hop("east", 3)),
        ]
        task = at.mailbox.next_task()
        assert task is not None
        assert task.weights is not None
        assert bytes(task.weights["w"].data) == b"123456789"
        at.done(task, "host")
        attend(north, until=lambda: len(north.answers) == 4)
        assert north.answers[-1] == (Ready(hop("east", 3)), "east")
        north.links.send("east", traveller("east", 3, "north"))
        attend(north, until=lambda: len(north.answers) == 5)
        assert north.answers[-1] == (Ack(hop("east", 3)), "east")


def test_who_is_lost_holds_no_room(tmp_path: Path) -> None:
    """Of a hospital without which the ring goes on, half of a model is forgotten, and so is what
    waits for it to be taken.
    """
    with bed(tmp_path, "east", replace(TERMS, heals=True)) as at:
        north, links = at.neighbour("north"), at.mailbox.links
        at.begun()
        at.departed()
        announcement, _ = pack_message(traveller("south", 2, "north"))
        north.links._hand("east", announcement)
        until(lambda: links.arriving)
        until(lambda: "south" in links._links)
        at.hub.send("east", Epoch(2, {"south": "0", "north": "0"}))
        until(lambda: not (links.arriving or links._links))


def test_a_hop_that_comes_twice_happens_once(tmp_path: Path) -> None:
    """A repeated hop is acknowledged again, before and after it was hosted, and is no second
    step.
    """
    with bed(tmp_path, "east") as at:
        north = at.neighbour("north")
        at.begun()
        at.departed()
        for _ in range(3):
            north.links.send("east", traveller("north", 1, "north"))
        attend(north, until=lambda: len(north.answers) == 3)
        at.done(at.mailbox.next_task(), "host")
        north.links.send("east", traveller("north", 1, "north"))
        attend(north, until=lambda: len(north.answers) == 4)
        assert {answer for answer, _ in north.answers} == {Ack(hop("north", 1))}
        north.links.send("east", traveller("south", 2, "north"))
        task = at.mailbox.next_task()
        assert task is not None
        assert task.step.stop is not None
        assert task.step.stop.model == "south"
        assert at.events == [event for event in at.events if type(event).__name__ != "Refused"]


def test_a_model_is_sent_again_until_its_receiver_is_there(tmp_path: Path) -> None:
    """A receiver that appears late gets the model, and one that answers nothing gets it again."""
    with bed(tmp_path, "north") as at:
        at.begun()
        at.departed()
        east = at.neighbour("east")
        attend(east, until=lambda: len(east.arrivals) >= 3)
        assert {arrived.hop for arrived, _ in east.arrivals} == {hop("north", 1)}
        east.links.reply("north", Ack(hop("north", 1)))
        south = at.neighbour("south")
        south.links.reply("north", Ack(hop("north", 1)))
        transfers = at.mailbox.shell.reporter.ledger
        attend(east, until=lambda: not at.mailbox.shell.state.outbox)
        assert transfers == []


def test_a_receiver_that_never_answers_is_an_error(tmp_path: Path) -> None:
    """The deadline of the scenario ends the wait, the error names receiver and hop, and the
    controller is told.
    """
    with bed(tmp_path, "north", changed(acknowledgement=0.5)) as at:
        at.begun()
        at.departed()
        with pytest.raises(
            AcknowledgementTimeout,
            match="'east' never confirmed the model of 'north', round 1 hop 1",
        ):
            at.mailbox.next_task()
        failed = told(at.hub)
        assert (failed.hospital, failed.code) == ("north", AcknowledgementTimeout.exit_code)


def changed(**terms: float) -> Terms:
    return replace(TERMS, **terms)


def told(hub: Hub) -> Failed:
    """Wait for the word that a hospital has failed."""
    while not isinstance(word := hub.receive(PATIENCE_S), Failed):
        pass
    return word


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("no start", RegistrationTimeout),
        ("no model", HopTimeout),
        ("the controller's word", RunAborted),
    ],
)
def test_what_never_comes_is_an_error(what: str, error: type[Exception], tmp_path: Path) -> None:
    """A start or a model that does not come in time, and an end with an error, are raised where
    the steps are taken.
    """
    short = (
        changed(register=0.1)
        if what == "no start"
        else changed(hop=0.1)
        if what == "no model"
        else TERMS
    )
    with bed(tmp_path, "east", short) as at:
        if what == "no start":
            at.mailbox.start()
        else:
            at.begun()
            at.departed()
        if what == "the controller's word":
            at.hub.send("east", Over(1, 43, "somebody failed"))
        with pytest.raises(error):
            at.mailbox.next_task()


def test_words_of_another_epoch_are_refused(tmp_path: Path) -> None:
    """An address book and an end of another epoch change nothing, and are named."""
    with bed(tmp_path, "east") as at:
        at.mailbox.start()
        at.hub.receive(PATIENCE_S)
        for word in (Start(2, at.book.addresses, {}), Over(2, 43, "no"), at.book):
            at.hub.send("east", word)
        at.done(at.mailbox.next_task(), "warm_up")
        assert [event.sender for event in at.events if type(event).__name__ == "Refused"] == [
            CONTROLLER
        ] * 2  # type: ignore[attr-defined]


def test_links_that_break_end_the_hospital(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever ends the thread of the links is raised where the steps are taken, as this
    hospital's error, and its traceback is printed.
    """
    with bed(tmp_path, "east") as at:
        at.begun()
        at.mailbox.shell.outside = None  # type: ignore[assignment]
        with pytest.raises(
            HospitalCrashed, match=r"'east' died at its departure .* AttributeError"
        ):
            at.departed() or at.mailbox.next_task()
    assert "Traceback" in capfd.readouterr().err


def test_a_full_disk_at_the_links_is_named_and_told(tmp_path: Path) -> None:
    """A hospital whose records cannot be written says that there is no space left, not that its
    links are broken, and the controller hears it.
    """

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with bed(tmp_path, "north", changed(retry=0.2)) as at:
        at.begun()
        at.mailbox.shell.reporter.ledger.add = full  # type: ignore[method-assign]
        at.departed()
        east = at.neighbour("east")
        attend(east, until=lambda: east.arrivals)
        east.links.reply("north", Ack(hop("north", 1)))
        attend(east, until=lambda: not at.mailbox._thread.is_alive())
        with pytest.raises(OutputNotWritable, match="no space left: 'north' died in round 1"):
            at.mailbox.next_task()
        assert told(at.hub).code == OutputNotWritable.exit_code


def test_a_learner_whose_state_cannot_be_had_ends_the_hospital(tmp_path: Path) -> None:
    """It is the hospital's own word, as anything else that its algorithm raises in a step."""

    def unknown() -> None:
        raise ZeroDivisionError

    learner = SimpleNamespace(state=unknown)
    worker = SimpleNamespace(
        name="east", learner=learner, carry_out=lambda *_: None, make_ready=lambda _: None
    )
    with bed(tmp_path, "east") as at:
        at.mailbox.start()
        at.hub.receive(PATIENCE_S)
        at.hub.send("east", at.book)
        task = at.mailbox.next_task()
        carry_out(at.mailbox, worker, task, Freezer())  # type: ignore[arg-type]
        with pytest.raises(HospitalCrashed, match="'east' died in its warm-up: ZeroDivisionError"):
            at.mailbox.next_task()
        assert told(at.hub).code == HospitalCrashed.exit_code


def test_a_mailbox_that_never_started_closes_its_links(tmp_path: Path) -> None:
    """The addresses are free again."""
    made = Bed(tmp_path, "east", TERMS)
    made.mailbox.close()
    made.links("east").close()
    made.hub.close()


Load = Callable[..., Scenario]
Runs = Callable[..., Path]


@pytest.fixture
def placebo(scenario_file: Callable[[str], Path]) -> Load:
    """Load a ring of three placebos."""

    def loaded(rounds: int = 2, size: int = 1000, goodbye: float = 60) -> Scenario:
        return load(
            scenario_file(PLACEBO.format(rounds=rounds, size=size, goodbye=goodbye))
        ).scenario

    return loaded


@pytest.mark.parametrize("kind", LINKS)
def test_a_ring_on_sockets_computes_what_one_in_memory_does(
    kind: str, placebo: Load, run: Runs, tmp_path: Path
) -> None:
    """Every hospital's records are the memory runtime's, line by line, and nothing is refused."""
    ring = Ring(kind, tmp_path, placebo())
    ring.start()
    ring.join()
    kept = run(tmp_path / "scenario.yaml") / "records"
    assert {name: member.records for name, member in ring.members.items()} == {
        name: (kept / f"{name}.jsonl").read_text().splitlines() for name in NAMES
    }
    assert ring.errors == []
    assert sum(member.refused for member in ring.members.values()) == 0
    assert [line["code"] for line in ring.events("end")] == [0]


@pytest.mark.parametrize("kind", LINKS)
def test_a_controller_that_dies_after_the_start_changes_nothing(
    kind: str, placebo: Load, tmp_path: Path
) -> None:
    """With 200 stops per hospital and a controller that is gone after the address book, all
    finish, with all records.
    """
    ring = Ring(kind, tmp_path, placebo(rounds=67, size=10, goodbye=0.1), short_lived=True)
    ring.start()
    ring.join()
    assert ring.errors == []
    assert [len(member.records) for member in ring.members.values()] == [1 + 3 * 67 + 3] * 3
    assert [member.events("left")[0]["reason"] for member in ring.members.values()] == [
        "no word from the controller"
    ] * 3


@pytest.mark.parametrize("how", ["fails", "is told to stop"])
def test_a_mailbox_closes_while_its_thread_waits(how: str, placebo: Load, tmp_path: Path) -> None:
    """A hospital that ends in the middle, by an error or a signal, leaves no thread behind."""
    ring = Ring("ipc", tmp_path, placebo())
    member = ring.members["east"]
    with closing(ring.hub):
        member.mailbox.start()
        thread = Thread(target=member.mailbox.close)
        member.mailbox.fail(RunAborted("enough")) if how == "fails" else member.mailbox.leave()
        thread.start()
        thread.join(PATIENCE_S)
        assert not member.mailbox._thread.is_alive()
        for name in ("north", "south"):
            ring.members[name].mailbox.close()


@pytest.mark.parametrize("key", ["", "k" * 40])
def test_who_comes_back_uses_its_old_address_book_as_long_as_the_keys_are_the_same(
    key: str, tmp_path: Path
) -> None:
    """It goes on without a controller's word; with another key of its own it waits for a new
    book.
    """
    with bed(tmp_path, "east") as at:
        old = replace(at.book, keys=dict.fromkeys(NAMES, key))
        at.mailbox.past, at.mailbox.rejoins, at.mailbox.again = (
            KeptPast(State(), {}, NOTHING, 0, "", old, {}),
            True,
            True,
        )
        at.mailbox.start()
        assert isinstance(at.hub.receive(PATIENCE_S), Register)
        if key:
            assert not at.mailbox.shell.state.joined
        else:
            until(lambda: at.mailbox.shell.state.joined)
        at.hub.send("east", at.book)
        at.done(at.mailbox.next_task(), "warm_up")
