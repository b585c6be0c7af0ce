"""Links that a scenario disturbs: the same records in simulated time and in real processes, and
what leaves over real sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from watching import events, left_behind
from wired import End, address, attend, identities

from fedskd_sim import clock
from fedskd_sim.errors import HospitalLost, RunAborted
from fedskd_sim.messages import (
    CONTROLLER,
    Ack,
    Buffer,
    HopId,
    Ready,
    Start,
    Traveller,
    allocate_plain,
    digest,
    spec,
)
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.life import started
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.transport.zeromq import Hub, Incoming, Links, Location, Shaped

TEXT = """
name: bad-network
seed: 5
hospitals: [{{name: a, architecture: buffer}}, {{name: b, architecture: buffer}},
            {{name: c, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 2, buffer_bytes: 200000, session_seconds: 0.05}}
timeouts: {{register: 300, hop: 60, acknowledgement: 40, retry: 0.3, goodbye: 40, stop: 2}}
links: [{links}]
{more}
"""
DISTURBED = (
    "{preset: lan, loss: 0.1, repeat: 0.1, reorder: 0.1, corrupt: 0.2}, "
    "{from: a, to: b, delay: 0.05, jitter: 0.05, bandwidth: 2M, corrupt: 0.3}, "
    "{between: [b, c], partition: [{begin: 0.05, lasts: 1}]}"
)
HALF = "a part of a model from nowhere"
"""What a hospital that has come up in the middle of a model says of the rest of it."""


def records(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "records").glob("*"))}


@pytest.mark.usefixtures("temporary")
def test_a_bad_network_changes_no_record(scenario_file: Callable, run: Callable) -> None:
    """Loss, repeats, changed order and bytes, delays and a partition: in simulated time and as
    processes the records are the undisturbed run's, what was changed is refused and comes again,
    and a hospital that dies meanwhile finds its way back.
    """
    undisturbed = records(run(scenario_file(TEXT.format(links="", more=""), "twin.yaml")))
    dies = "faults: [{hospital: b, what: kill, round: 2, hop: 1}]"
    path = scenario_file(TEXT.format(links=DISTURBED, more=dies))
    for runtime in ("memory", "processes"):
        folder = run(path, runtime)
        assert records(folder) == undisturbed
        refused = [event["reason"] for event in events(folder, name="refused")]
        changed = [reason for reason in refused if reason.endswith("changed on the way")]
        assert changed
        assert {*refused} <= {*changed, HALF}, refused
        assert not (folder / "custody").exists()
    assert left_behind() == []


LATE = (
    "{from: controller, delay: 0.1, jitter: 0.1, repeat: 0.3}, "
    "{to: controller, delay: 0.1, bandwidth: 10k, repeat: 0.3}, "
    "{between: [b, controller], delay: 0.4}"
)
LOST = (
    "{from: controller, loss: 0.2, reorder: 0.2, partition: [{begin: 0.1, lasts: 0.3}]}, "
    "{to: controller, delay: 0.05, loss: 0.05, partition: [{begin: 0.1, lasts: 0.3}]}"
)


@pytest.mark.usefixtures("temporary")
def test_late_and_lost_words_of_the_controller_change_no_record(
    scenario_file: Callable, run: Callable
) -> None:
    """In simulated time and as processes, where words to it and from it are late, and where they
    are lost while hospitals give signs of life: nobody is lost, nothing is refused.
    """
    undisturbed = records(run(scenario_file(TEXT.format(links="", more=""), "twin.yaml")))
    watched = "on_loss: {name: skip, after: 30}"
    for links, more in ((LATE, ""), (LOST, watched)):
        path = scenario_file(
            TEXT.format(links=links, more=more).replace("goodbye: 40", "goodbye: 1")
        )
        for runtime in ("memory", "processes"):
            folder = run(path, runtime)
            assert records(folder) == undisturbed
            assert not events(folder, name="refused") + events(folder, name="lost")
    assert left_behind() == []


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("kind", [MemoryRuntime, ProcessRuntime])
def test_the_last_word_of_a_hospital_is_late_and_not_lost(
    kind: type[MemoryRuntime | ProcessRuntime], scenario_file: Callable, tmp_path: Path
) -> None:
    """It stays until the controller can have heard why it failed."""
    fails = "faults: [{hospital: b, what: abort, round: 1, hop: 1}]"
    path = scenario_file(TEXT.format(links="{between: [b, controller], delay: 0.4}", more=fails))
    loaded = load(path)
    where, place = folder.make(loaded, tmp_path / "run", "test"), kind()
    place.launch(Order(loaded, "test", where, None))
    with pytest.raises(RunAborted):
        place.wait(lambda _: None)
    assert [event["hospital"] for event in events(where, CONTROLLER, "failed")] == ["b"]


def test_who_does_not_hear_of_the_end_hides_no_cause(
    scenario_file: Callable, run: Callable
) -> None:
    """One is lost, another does not hear that the run has ended by that, and waits in vain when the
    others have left: the run ends with the loss, not with the wait.
    """
    text = TEXT.replace("session_seconds: 0.05", "session_seconds: 1").replace("hop: 60", "hop: 8")
    outage = "partition: [{begin: 1, lasts: 60}]"
    cut = f"{{from: b, to: controller, {outage}}}, {{from: controller, to: c, {outage}}}"
    path = scenario_file(text.format(links=cut, more="on_loss: {name: abort, after: 5}"))
    with pytest.raises(HospitalLost, match="nothing was heard of 'b' for 5 s"):
        run(path)


def test_another_life_counts_from_the_start_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first notes it beside its custody; where nothing is kept, a life is all there is."""
    moment = [1000.0]
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    monkeypatch.setattr(clock, "unix", lambda: moment[0] + 1.75e9)
    note = tmp_path / "custody" / "a.started"
    assert started(note) == started(None) == 1000
    moment[0] += 100
    assert (started(note), started(None)) == (1000, 1100)
    note.write_text("damaged\n")
    assert started(note) == 1100


WEIGHTS = {"w": Buffer("uint8", (5 << 20,), bytes(range(256)) * (5 << 12))}
INCOMING = Incoming({"a": (spec(WEIGHTS),)}, allocate_plain, 2)


@pytest.mark.parametrize("kind", ["ipc", "curve"])
def test_what_a_link_changes_is_refused_and_passes_unharmed_later(
    kind: str, tmp_path: Path
) -> None:
    """Models and answers go their ways over sockets; a model of which a byte was changed is refused
    in its sender's name, and the next one is taken.
    """
    hospitals = [{"name": name, "architecture": "buffer"} for name in "ab"]
    rule = {"corrupt": 0.5, "delay": 0.001, "bandwidth": "100M", "seed": 4}
    values = {"name": "n", "hospitals": hospitals, "algorithm": {"name": "placebo"}}
    scenario = Scenario.model_validate(values | {"links": [rule]}, strict=False)
    keys = identities(kind, ("a", "b"))
    with ExitStack() as held:
        hub = held.enter_context(closing(Hub(address(kind, tmp_path, "hub"), keys[CONTROLLER])))

        def end(name: str) -> End:
            place = Location(name, address(kind, tmp_path, name), hub.address, keys[name])
            links = Links(place, INCOMING, Shaped(name, Shaping(scenario)))
            return End(held.enter_context(closing(links)))

        ends = a, b = end("a"), end("b")
        book = {name: one.links.address for name, one in zip("ab", ends, strict=True)}
        for one in ends:
            one.links.open(Start(1, book, {name: keys[name].public for name in book}))
        hop = HopId("run", 1, "a", 1, 1)
        while not (b.arrivals and b.refusals):
            before = len(b.arrivals) + len(b.refusals)
            a.links.send("b", Traveller(hop, "a", "buffer", "", WEIGHTS))
            attend(*ends, until=lambda: len(b.arrivals) + len(b.refusals) > before)  # noqa: B023
        assert {*b.refusals} == {("a", "the weights of 'a' from 'a' changed on the way")}
        assert digest(b.arrivals[0][0].weights) == digest(WEIGHTS)
        b.links.reply("a", Ack(hop))
        b.links.call("a", Ready(hop))
        attend(*ends, until=lambda: len(a.answers) == 2)
        assert {*a.answers} == {(Ack(hop), "b"), (Ready(hop), "b")}
