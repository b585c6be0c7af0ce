"""The controller's decisions, one word at a time, and how it carries them out."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedskd_sim.errors import CodeDiffers, HopTimeout, RegistrationTimeout
from fedskd_sim.exits import final_codes
from fedskd_sim.member.controller import Controller
from fedskd_sim.messages import (
    Done,
    End,
    Failed,
    FromController,
    Progress,
    Register,
    Start,
    ToController,
)
from fedskd_sim.observe.events import EventLog
from fedskd_sim.protocol.admission import LONGEST, difference, text_of, told_of_samples
from fedskd_sim.protocol.controller import (
    CONSEQUENCES,
    Closed,
    ControllerEffect,
    Noted,
    Opened,
    Opening,
    Registrar,
    RegistrarState,
    Rejected,
    Say,
)
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.scenario.faults import OnLoss
from fedskd_sim.transport import NothingReceived, Unwelcome
from fedskd_sim.transport.wire import TEXT_LIMIT

SCENARIO = load(Path(__file__).parents[3] / "scenarios" / "placebo-ok.yaml").scenario
NAMES = ("north", "east", "south")
REGISTRAR = Registrar(SCENARIO, "run", 1, frozenset(final_codes()), Topology.of(SCENARIO))
ADDRESSES, KEYS = {name: f"at-{name}" for name in NAMES}, {name: f"key-{name}" for name in NAMES}
BOOK = Start(1, ADDRESSES, KEYS)
ENOUGH = End(1, 0, "all hospitals are done")


def register(name: str, **changes: Any) -> Register:
    return replace(Register("run", 1, name, f"at-{name}", f"key-{name}", ""), **changes)


def after(
    *words: ToController, state: RegistrarState | None = None
) -> tuple[RegistrarState, list[ControllerEffect]]:
    """Let the controller hear some words; gives what the last one led to."""
    state, effects = state or RegistrarState(), []
    for word in words:
        state, effects = REGISTRAR.step(state, word)
    return state, effects


FULL, _ = after(*map(register, NAMES))


def test_the_last_registration_starts_the_run() -> None:
    """Before the last hospital nobody hears anything; with it the address book leaves to all,
    after the opening.
    """
    state, effects = after(register("north"), register("east"))
    assert effects == [Noted(register("east"))]
    assert not REGISTRAR.complete(state)
    _, effects = after(register("south"), state=state)
    said = [Say(name, BOOK) for name in NAMES]
    assert effects == [Noted(register("south")), Opening(), *said, Opened(3)]


CODE = {"learning code": "1", "architecture cnn": "2"}


def test_hospitals_of_different_code_do_not_begin() -> None:
    """The first that has another version of what a hospital before it has ends the run, and all
    hear why; what only one of them has is its own.
    """
    mine = register("north", computes=text_of({**CODE, "reader x": "3"}))
    other = register("east", computes=text_of({**CODE, "reader y": "4"}))
    state, effects = after(mine, other)
    assert (state.ended, effects) == (None, [Noted(other)])
    late = register("south", computes=text_of({**CODE, "architecture cnn": "5"}))
    state, effects = after(late, state=state)
    assert state.ended is not None
    assert state.ended.code == CodeDiffers.exit_code
    assert "the architecture cnn of 'south' is 5, that of 'north' is 2" in state.ended.reason
    assert effects == [
        Noted(late), Closed(state.ended), *(Say(name, state.ended) for name in NAMES)
    ]  # fmt: skip
    again, _ = after(late, state=FULL)
    assert again.ended is None


def test_hospitals_that_read_other_rows_or_the_same_samples_do_not_begin() -> None:
    """What differs is named; of a sample that two have only a digest is told, which is another one
    in every run, and a hospital that registers again has its own.
    """
    rows = {"reader x: labels": "3", "reader x: ids": "4"}
    mine = register("north", computes=text_of({**CODE, **rows}))
    late = register("south", computes=text_of({**CODE, **rows, "reader x: ids": "5"}))
    state, _ = after(mine, late)
    assert state.ended is not None
    assert state.ended.code == CodeDiffers.exit_code
    assert "the reader x: ids of 'south' is 5, that of 'north' is 4" in state.ended.reason
    assert state.ended.reason.endswith("compute with other rows")
    samples = [f"{number}".encode() for number in range(5000)]
    here = [text_of(CODE) + told_of_samples(samples[:3000], run) for run in ("r", "s")]
    there, apart = (text_of(CODE) + told_of_samples(samples[at:], "r") for at in (2000, 3000))
    assert max(map(len, (*here, there))) < TEXT_LIMIT - LONGEST + len(text_of(CODE))
    north = register("north", computes=here[0])
    state, _ = after(north, north, register("south", computes=apart))
    assert state.ended is None
    state, _ = after(north, register("south", computes=there))
    assert state.ended is not None
    assert "'south' and 'north' have the same samples under the same ids" in state.ended.reason
    assert not difference(register("north", computes=here[1]), [register("x", computes=there)])
    nonsense = register("east", computes="samples ####\nsamples é")
    assert not difference(nonsense, [north])


def test_however_much_code_there_is_it_can_be_told() -> None:
    """Many packages of one's own are compared as one, readers by themselves."""
    many = {f"architecture {'n' * 50}{number}": f"{number}" for number in range(99)}
    one, two = text_of({**many, "reader x": "1"}), text_of({**many, "learning code": "1"})
    assert max(len(one), len(two)) < LONGEST
    first = register("north", computes=one)
    assert not difference(first, [register("east", computes=text_of({**many, "reader y": "2"}))])
    assert "the reader x" in difference(
        first, [register("east", computes=text_of({**many, "reader x": "2"}))]
    )
    assert "the code of 'north' is" in difference(first, [register("east", computes=two)])


def test_a_hospital_that_registers_again_gets_the_address_book_again() -> None:
    """It alone does, without an opening and without a line in the log; if it has moved, all do,
    for it has a new address.
    """
    _, effects = after(register("south"), state=FULL)
    assert effects == [Say("south", BOOK)]
    moved = register("south", address="elsewhere")
    _, effects = after(moved, state=FULL)
    book = replace(BOOK, addresses={**ADDRESSES, "south": "elsewhere"})
    assert effects == [Noted(moved), *(Say(name, book) for name in NAMES)]


@pytest.mark.parametrize(
    "word",
    [
        register("south", run="other"),
        register("south", epoch=2),
        register("west"),
        Progress(2, "south", "north", 1, 2, 0.5),
        Progress(1, "west", "north", 1, 2, 0.5),
        Progress(1, "south", "north", 1, 1, 0.5),
        Progress(1, "south", "north", 4, 1, 0.5),
        Progress(1, "south", "west", 1, 2, 0.5),
        Progress(1, "south", "south", 1, 0, 0.5),
        Progress(1, "south", "north", 0, 0, 0.5),
        Done(0, "south"),
        Done(1, "west"),
        Failed(2, "south", 40, "late"),
        Failed(1, "west", 40, "late"),
        Failed(1, "south", 0, "fine"),
        Failed(1, "south", 200, "?"),
        Failed(1, "south", 255, "?"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("begun", [False, True])
def test_what_no_hospital_of_the_run_would_say_is_refused(word: ToController, begun: bool) -> None:  # noqa: FBT001
    """Another run, another epoch, a stranger, and a failure whose code is none: nothing changes,
    and the sender is named.
    """
    before = FULL if begun else after(register("north"), register("east"))[0]
    state, effects = after(word, state=before)
    assert state == before
    assert [(type(effect), effect.hospital) for effect in effects] == [(Rejected, word.hospital)]  # type: ignore[union-attr]


def test_the_run_ends_when_all_are_done() -> None:
    """Everybody is told, once, when the last hospital is done; who says it twice counts once."""
    state, effects = after(Done(1, "north"), Done(1, "north"), Done(1, "east"), state=FULL)
    assert (effects, state.ended) == ([], None)
    state, effects = after(Done(1, "south"), state=state)
    assert effects == [Closed(ENOUGH), *(Say(name, ENOUGH) for name in NAMES)]
    assert state.ended == ENOUGH


@pytest.mark.parametrize("code", sorted({*final_codes()} - {*CONSEQUENCES}))
def test_the_first_failure_ends_the_run_for_all(code: int) -> None:
    """The end carries the first failure's code, whichever it is, and names its hospital; what
    comes later changes nothing.
    """
    failed = Failed(1, "east", code, "too late")
    state, effects = after(failed, state=FULL)
    end = End(1, code, "'east' failed: too late")
    assert effects == [Noted(failed), Closed(end), *(Say(name, end) for name in NAMES)]
    for word in (
        Failed(1, "south", 43, "other"),
        Done(1, "south"),
        Progress(1, "south", "north", 1, 1, 0.0),
    ):
        assert after(word, state=state) == (state, [])


@pytest.mark.parametrize("code", CONSEQUENCES)
def test_who_has_waited_in_vain_does_not_end_the_run_at_once(code: int) -> None:
    """Others may say the same, who are nearer to the culprit, or what the cause was; the first
    of them stands if nobody does.
    """
    state, effects = after(Failed(1, "east", code, "late"), state=FULL)
    assert effects == [Noted(Failed(1, "east", code, "late"))]
    assert REGISTRAR.patience(state) < 5
    assert state.ended is None
    assert state.suspected == End(1, code, "'east' failed: late")
    assert after(Failed(1, "south", code, "later"), state=state)[0].suspected == state.suspected
    cause = End(1, 41, "'north' failed: died")
    assert after(Failed(1, "north", 41, "died"), state=state)[0].ended == cause


def test_why_too_few_are_left_is_told() -> None:
    """With skip the second failure of three ends the run, in the words of who failed: nobody was
    silent.
    """
    skip = SCENARIO.model_copy(update={"on_loss": OnLoss(name="skip")})
    healer = replace(REGISTRAR, scenario=skip)
    state, _ = healer.step(FULL, Failed(1, "east", 38, "no image"))
    assert (dict(state.lost), state.ended) == ({"east": 0}, None)
    state, _ = healer.step(state, Failed(1, "south", 38, "no room"))
    assert state.ended == End(
        1, 48, "'south' failed: no room, and fewer than 2 hospitals that train are left"
    )


def test_a_controller_that_takes_over_knows_who_is_lost() -> None:
    """Who was lost before is neither waited for nor declared again, and tells others when."""
    skip = SCENARIO.model_copy(update={"on_loss": OnLoss(name="skip", model="retires")})
    told: list[object] = []
    room = Room(*(Done(1, name) for name in ("north", "south")))
    log = EventLog(io.StringIO(), {})
    controller = Controller(skip, "run", room, log, losing=lambda *losses: told.append(losses))
    controller.resume(ADDRESSES, KEYS, {"east": 2})
    assert controller.serve() == ENOUGH
    assert told == []
    assert dict(controller.state.lost) == {"east": 2}


def test_who_registers_after_the_end_hears_it() -> None:
    """A hospital that comes back too late is told so, a stranger nothing."""
    state, _ = after(Failed(1, "east", 43, "late"), state=FULL)
    assert after(register("north"), state=state) == (state, [Say("north", state.ended)])
    assert after(register("west"), state=state) == (state, [])


def test_a_controller_that_takes_over_knows_the_hospitals() -> None:
    """One that was restarted after the start answers a late hospital and ends the run as the
    first one would.
    """
    state = REGISTRAR.resume(ADDRESSES, KEYS)
    assert REGISTRAR.complete(state)
    assert [
        effect for effect in after(register("east"), state=state)[1] if isinstance(effect, Say)
    ] == [Say("east", BOOK)]
    assert after(*(Done(1, name) for name in NAMES), state=state)[0].ended == ENOUGH


class Room:
    """A controller, the words that come to it, and what it says."""

    def __init__(self, *words: ToController | Unwelcome, scenario: Scenario = SCENARIO) -> None:
        self.words, self.said, self.stream = deque(words), [], io.StringIO()
        self.opened = 0
        self.controller = Controller(scenario, "run", self, EventLog(self.stream), self.open)
        self.patience: list[float] = []

    def open(self) -> None:
        self.opened += 1

    def send(self, to: str, message: FromController) -> None:
        self.said.append((to, message))

    def receive(self, timeout: float) -> ToController | Unwelcome:
        self.patience.append(timeout)
        if not self.words:
            raise NothingReceived
        return self.words.popleft()

    def log(self) -> list[Mapping[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_a_run_is_led_from_the_first_word_to_the_end() -> None:
    """`serve` opens once, logs every word that counts, and gives the end that all were told."""
    progress = Progress(1, "east", "north", 1, 1, 0.5)
    room = Room(
        *map(register, NAMES), progress, register("east"), *(Done(1, name) for name in NAMES)
    )
    assert room.controller.serve() == ENOUGH
    assert room.opened == 1
    assert room.said[-3:] == [(name, ENOUGH) for name in NAMES]
    log = room.log()
    assert [line["event"] for line in log] == ["registered"] * 3 + ["start", "progress", "end"]
    assert [log[4][key] for key in ("hospital", "model", "round", "hop", "accuracy")] == [
        "east",
        "north",
        1,
        1,
        0.5,
    ]


def test_silence_before_and_after_the_start_has_its_own_errors() -> None:
    """Missing hospitals are a RegistrationTimeout, hospitals that fall silent later a
    HopTimeout; both end the run.
    """
    early = Room(register("north"))
    with pytest.raises(RegistrationTimeout, match="east, south did not register"):
        early.controller.serve()
    late = Room(*map(register, NAMES), Done(1, "north"))
    with pytest.raises(HopTimeout, match="no word from east, south"):
        late.controller.serve()
    for room, names in ((early, ["north"]), (late, list(NAMES))):
        assert [to for to, word in room.said if isinstance(word, End)] == names
        assert room.log()[-1]["event"] == "end"


def test_who_was_refused_until_the_end_is_told_with_the_reason() -> None:
    """A member of another version is heard and not understood; strangers are not spoken of."""
    words = [Unwelcome(name, "unknown version") for name in ("east", "stranger")]
    room = Room(register("north"), *words)
    with pytest.raises(RegistrationTimeout, match=r"was refused \(east: unknown version\)") as end:
        room.controller.serve()
    assert "the same version of fedskd_sim" in end.value.fix


def test_a_hospital_of_another_version_ends_the_run_at_once() -> None:
    """It can never register: all who have hear why, as of other differences of code."""
    room = Room(register("north"), Unwelcome("east", "it speaks version 3", foreign=True))
    with pytest.raises(CodeDiffers, match="'east' has another version of the program: it speaks"):
        room.controller.serve()
    assert room.words == deque()
    (end,) = [word for to, word in room.said if isinstance(word, End) and to == "north"]
    assert end.code == CodeDiffers.exit_code == 63


def test_other_words_of_another_version_end_nothing() -> None:
    """Neither those of strangers, nor of who has registered, nor after the start."""
    for sender, words in (
        ("stranger", [register("north")]),
        ("north", [register("north")]),
        ("east", [*map(register, NAMES)]),
    ):
        room = Room(*words)
        for word in (*words, Unwelcome(sender, "it speaks version 3", foreign=True)):
            room.controller.step(word)
        assert room.controller.state.ended is None
        assert room.log()[-1]["event"] == "refused"


def test_a_failed_run_ends_well_for_the_controller() -> None:
    """A hospital's failure is the run's end, which `serve` gives: who launched the run decides
    what to make of it.
    """
    assert Room(*map(register, NAMES), Failed(1, "east", 43, "nan")).controller.serve() == End(
        1, 43, "'east' failed: nan"
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_those_who_wait_in_vain_the_one_nearest_to_the_culprit_is_believed(
    order: tuple[int, int],
) -> None:
    """East stands still at hop 1: south waits for what it should have sent, north for what south
    then would. On a busy machine north may speak first.
    """
    told = [Progress(1, name, name, 0, 0, 0.0) for name in NAMES]
    told += [Progress(1, "south", "east", 1, 1, 0.0), Progress(1, "north", "south", 1, 1, 0.0)]
    told.append(Progress(1, "north", "east", 1, 2, 0.0))
    words = Failed(1, "south", 40, "east sent nothing"), Failed(1, "north", 40, "nor did south")
    room = Room(*map(register, NAMES), *told, *(words[number] for number in order))
    assert room.controller.serve() == End(1, 40, "'south' failed: east sent nothing")


def test_who_sends_in_vain_is_nearer_than_who_waits() -> None:
    """A model that is never confirmed names its receiver, whoever else waits for whatever."""
    words = Failed(1, "south", 40, "nothing came"), Failed(1, "north", 45, "never confirmed")
    end = End(1, 45, "'north' failed: never confirmed")
    assert Room(*map(register, NAMES), *words).controller.serve() == end


def test_whose_model_was_with_those_that_are_lost_is_told_at_once(tmp_path: Path) -> None:
    """Of five, the host of a model, the next one and who had it before are lost: the log says it
    with each loss, and who waits for that model in vain ends the run by it.
    """
    file = tmp_path / "five.yaml"
    five = "".join(f"  - {{name: {name}, architecture: buffer}}\n" for name in "abcde")
    file.write_text(f"name: five\nalgorithm: {{name: placebo}}\non_loss: skip\nhospitals:\n{five}")
    lost = [Failed(1, name, 38, "no image") for name in "bca"]
    reached = Progress(1, "b", "a", 1, 1, 0.0), Progress(1, "d", "b", 1, 2, 0.0)
    words = [*map(register, "abcde"), *reached, *lost, Failed(1, "d", 40, "nothing came")]
    room = Room(*words, scenario=load(file).scenario)
    end = room.controller.serve()
    where, ends = "the model of 'a' was at 'b', lost, as is ", "the run ends once another has"
    assert end == End(1, 40, f"{where}'a' and 'c'; 'd' failed: nothing came")
    told = [line["reason"] for line in room.log() if line["event"] == "waiting"]
    assert [text for text in told if text.startswith(where)] == [
        f"{where}'c': unless 'a' has it, {ends} waited 600 s for it",
        f"{where}'a' and 'c': {ends} waited 600 s for it",
    ]


def test_every_step_is_in_the_log_once() -> None:
    """A step that is said again, or after a later one, is no line; every kind of record that a
    run has is one.
    """
    stops = [
        ("north", 0, 0),
        ("south", 1, 1),
        ("east", 1, 2),
        ("north", 1, 3),
        ("north", 3, 0),
        ("south", 3, 1),
        ("north", 3, 3),
    ]
    said = [Progress(1, "north", *stop, 0.5) for stop in stops]
    room = Room(*map(register, NAMES), *said, *said[::-1], *said * 100)
    with pytest.raises(HopTimeout):
        room.controller.serve()
    logged = [
        (line["model"], line["round"], line["hop"])
        for line in room.log()
        if line["event"] == "progress"
    ]
    assert logged == stops


def test_a_flood_is_counted_and_fills_no_log() -> None:
    """Of what no member would say, and of registrations that change every time, ever fewer lines
    are written, with their number.
    """
    flood = [Unwelcome("south", "rubbish")] * 5000
    moves = [register("east", address=f"at-{number}") for number in range(5000)]
    room = Room(*map(register, NAMES), *flood, *moves, *(Done(1, name) for name in NAMES))
    assert room.controller.serve() == ENOUGH
    refused = [line for line in room.log() if line["event"] == "refused"]
    assert {line["sender"] for line in refused} == {"south"}
    assert refused[-1]["reason"] == "rubbish (and so on: 4096 by now)"
    assert len(room.log()) < 100


def test_rubbish_is_no_sign_of_life() -> None:
    """What no member would say does not lengthen the patience with those who should."""
    room = Room(
        *map(register, NAMES),
        *[Unwelcome("south", "rubbish")] * 3,
        Progress(2, "south", "north", 1, 2, 0.5),
    )
    with pytest.raises(HopTimeout):
        room.controller.serve()
    after_start = room.patience[3:]
    assert after_start == sorted(after_start, reverse=True)
    assert len(set(after_start)) == len(after_start)
