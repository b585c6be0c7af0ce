"""What links do to messages: drawn from seeds, in order, and at the moment that was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from fedskd_sim import clock
from fedskd_sim.messages import Ack, Buffer, HopId, Traveller, digest
from fedskd_sim.scenario import Conditions, Link, Scenario
from fedskd_sim.scenario.faults import PRESETS, Outage, size_of
from fedskd_sim.transport.shaping import WORD_BYTES, ShapedLine, Shaping
from fedskd_sim.transport.wire import Frame, encode
from fedskd_sim.transport.zeromq import Shaped

MANY = 4000


def line(number: int = 1, **asked: object) -> ShapedLine[int]:
    return ShapedLine(Conditions(**asked), (number, "north", "south"))  # type: ignore[arg-type]


def arrivals(link: ShapedLine[int], every: float = 1.0, size: int | None = None) -> Iterator[tuple]:
    """Send many messages, the number of each its content."""
    for number in range(MANY):
        yield from link.carry(number * every, number, size)


def test_what_happens_to_a_message_depends_on_seeds_and_number_alone() -> None:
    """The same messages are lost whenever they are sent; of another seed, others."""
    lost = [
        {*range(MANY)} - {what for _, what in arrivals(line(seed, loss=0.2), every)}
        for seed, every in ((1, 1.0), (1, 0.001), (2, 1.0))
    ]
    assert lost[0] == lost[1] != lost[2]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_shares_are_what_was_asked_for(share: float) -> None:
    """Of losses, repeats and changed bytes, within what chance allows."""
    spread = 4 * (share * (1 - share) / MANY) ** 0.5
    through = Counter(what for _, what in arrivals(line(loss=share)))
    assert abs(1 - len(through) / MANY - share) < spread
    twice = Counter(what for _, what in arrivals(line(repeat=share)))
    assert {*twice.values()} == {1, 2}
    assert abs(sum(twice.values()) / MANY - 1 - share) < spread
    flips = [passage.flip for passage, _ in arrivals(line(corrupt=share), size=1)]
    assert abs(sum(flip is not None for flip in flips) / MANY - share) < spread


def test_a_word_is_never_changed() -> None:
    """It has no digest by which its receiver would know."""
    assert all(passage.flip is None for passage, _ in arrivals(line(corrupt=0.9)))


def test_what_is_held_back_comes_behind_the_next() -> None:
    """And nothing else changes places."""
    order = [what for _, what in arrivals(line(reorder=0.2))]
    swapped = [first for first, second in pairwise(order) if first > second]
    assert abs(len(swapped) / MANY - 0.2 * 0.8) < 0.05
    assert all(abs(place - what) <= 1 for place, what in enumerate(order))


def test_a_jitter_changes_delays_and_no_order() -> None:
    """Delays lie around what was asked for; of messages that are close nothing overtakes."""
    apart = [passage.ends - what for passage, what in arrivals(line(delay=0.5, jitter=0.1))]
    assert 0.4 <= min(apart) < 0.41
    assert 0.59 < max(apart) <= 0.6
    close = [*arrivals(line(delay=0.5, jitter=0.1), every=0.001)]
    assert [what for _, what in close] == [*range(MANY)]
    assert all(one.ends <= two.begins for (one, _), (two, _) in pairwise(close))


def test_messages_share_a_bandwidth_one_after_the_other() -> None:
    """Each takes its bytes' time, behind those before it; words count, too."""
    link = line(bandwidth="1k", delay=0.25)
    ways = [link.carry(now, 0, size)[0][0][:2] for now, size in ((0, 500), (0, 250), (9, None))]
    assert ways == [(0.25, 0.75), (0.75, 1.0), (9.25, pytest.approx(9.25 + WORD_BYTES / 1000))]


def test_nothing_passes_in_a_partition() -> None:
    """What would leave, be under way or arrive in it is lost; behind it all pass again."""
    outage = Outage(begin=10.0, lasts=5.0, every=100.0)
    link = line(delay=1.0, bandwidth="1k", partition=(outage,))
    sent = (0.0, 7.4, 7.6, 10.0, 14.9, 15.0, 107.6, 114.9, 115.0, 1007.6, 1015.0)
    passed = [now for now in sent if link.carry(now, 0, 1500)]
    assert passed == [0.0, 7.4, 15.0, 115.0, 1015.0]


def scenario_with(*links: dict) -> Scenario:
    hospitals = [{"name": name, "architecture": "buffer"} for name in ("a", "b", "c")]
    values = {"name": "n", "hospitals": hospitals, "algorithm": {"name": "placebo"}, "links": links}
    return Scenario.model_validate(values, strict=False)


def test_the_last_rule_for_a_link_counts() -> None:
    """By itself; the controller's words pass, and so does what no rule is for."""
    shaping: Shaping[int] = Shaping(
        scenario_with(
            {"from": "a", "loss": 0.5},
            {"to": "b", "delay": 3},
            {"between": ["a", "c"], "preset": "lan", "bandwidth": 7000},
        )
    )
    found = {pair: shaping.line(*pair) for pair in ("ab", "cb", "ac", "ca", "ba", "bc")}
    asked = {pair: one.conditions if one else None for pair, one in found.items()}
    narrow = PRESETS["lan"]._replace(bandwidth="7000")
    assert asked == {"ac": narrow, "ca": narrow, "ba": None, "bc": None} | dict.fromkeys(
        ("ab", "cb"), Conditions(delay=3.0)
    )
    every: Shaping[int] = Shaping(scenario_with({"delay": 1}))
    assert every.line("a", "controller") is every.line("controller", "a") is None
    assert every.line("c", "b")
    words: Shaping[int] = Shaping(scenario_with({"to": "controller", "delay": 1}))
    assert words.line("a", "controller")
    assert words.line("controller", "a") is words.line("a", "b") is None


def test_links_are_cut_from_the_start_of_the_run_on() -> None:
    """Words to the controller are said before it, and pass."""
    cut = {"begin": 0, "lasts": 5}
    shaping: Shaping[int] = Shaping(scenario_with({"to": "controller", "partition": [cut]}))
    asked = shaping.line("a", "controller")
    assert asked
    assert asked.carry(100.0, 1)
    shaping.begin(102.0)
    shaping.begin(200.0)
    other = shaping.line("b", "controller")
    assert other
    for line in (asked, other):
        assert [bool(line.carry(now, 2)) for now in (102.0, 106.9, 107.0)] == [False, False, True]


def test_a_preset_gives_what_a_rule_does_not_say() -> None:
    """A value that is given wins, 0 too."""
    rule = Link(preset="wan-100ms", jitter=0.0, loss=0.1)
    assert rule.conditions == PRESETS["wan-100ms"]._replace(jitter=0.0, loss=0.1)
    assert [size_of(one) for one in ("7", "12500k", "2Mi")] == [7, 12_500_000, 2 << 20]


WEIGHTS = {"w": Buffer("uint8", (5 << 20,), bytes(5 << 20))}
HOP = HopId("run", 1, "a", 1, 1)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give a clock whose moment can be set."""
    moment = [50.0]
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    return moment


def test_a_model_leaves_part_by_part_when_each_is_due(time: list[float]) -> None:
    """Its header after the delay, its parts as the bandwidth lets them, a word behind it; and who
    attends is told how long there is nothing to do.
    """
    shaping: Shaping = Shaping(scenario_with({"from": "a", "delay": 1, "bandwidth": "1Mi"}))
    shaped, gone = Shaped("a", shaping), list[tuple[float, int]]()

    def hand(frames: list[Frame]) -> bool:
        gone.append((time[0] - 50, sum(map(len, frames[1:]))))
        return True

    shaped.begin()
    assert shaped.model("b", Traveller(HOP, "a", "buffer", "", WEIGHTS), hand)
    assert shaped.word("b", encode(Ack(HOP)), hand)
    assert not Shaped("b", shaping).word("a", encode(Ack(HOP)), hand)
    while (wait := shaped.patience(60.0)) < 60:
        time[0] += wait + 1e-9
        shaped.release()
    assert [(round(when, 3), size >> 20) for when, size in gone] == [
        (1.0, 0),
        (3.0, 2),
        (5.0, 2),
        (6.0, 1),
        (6.0, 0),
    ]


def test_a_word_of_the_controller_is_heard_when_it_is_due(time: list[float]) -> None:
    """Before the run has started, too; who hears it may answer at once."""
    rules = ({"from": "controller", "delay": 2}, {"to": "controller", "delay": 1})
    shaped, heard = Shaped("a", Shaping(scenario_with(*rules))), list[tuple[str, float]]()

    def said(_frames: list[Frame]) -> bool:
        heard.append(("answer", time[0] - 50))
        return True

    def hear(_frames: list[Frame]) -> bool:
        heard.append(("word", time[0] - 50))
        return shaped.word("controller", encode(Ack(HOP)), said)

    assert shaped.hear(encode(Ack(HOP)), hear)
    while (wait := shaped.patience(60.0)) < 60:
        time[0] += wait + 1e-9
        shaped.release()
    assert [(what, round(when, 2)) for what, when in heard] == [("word", 2.0), ("answer", 3.0)]


def test_last_words_wait_until_they_are_due(
    time: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those to the controller, as long as that is not for too long; others stay unsaid."""
    monkeypatch.setattr(clock, "sleep", lambda seconds: time.__setitem__(0, time[0] + seconds))
    monkeypatch.setattr(clock, "seconds_left", lambda deadline: max(0.0, deadline - time[0]))
    rule = {"to": "controller", "delay": 1, "bandwidth": 40}
    shaped, said = Shaped("a", Shaping(scenario_with({"delay": 1}, rule))), list[float]()

    def hand(_frames: list[Frame]) -> bool:
        said.append(round(time[0] - 50, 3))
        return True

    for to in ("controller", "controller", "b"):
        assert shaped.word(to, encode(Ack(HOP)), hand)
    shaped.flush("controller")
    assert said == [3.5, 5.0]


def test_a_link_that_takes_nothing_more_loses_the_rest(time: list[float]) -> None:
    """As where nobody shapes it; what comes behind it goes on."""
    shaped = Shaped("a", Shaping(scenario_with({"delay": 1})))
    handed: list[bool] = []

    def full(_frames: list[Frame]) -> bool:
        handed.append(len(handed) != 1)
        return handed[-1]

    shaped.begin()
    shaped.model("b", Traveller(HOP, "a", "buffer", "", WEIGHTS), full)
    shaped.word("b", encode(Ack(HOP)), full)
    time[0] += 2
    shaped.release()
    assert handed == [True, False, True]


def test_one_byte_of_the_copy_that_leaves_is_another_one(time: list[float]) -> None:
    """Not of the model itself, which is sent again; and its digest is the model's."""
    shaped = Shaped("a", Shaping(scenario_with({"corrupt": 0.999999})))
    parts: list[Frame] = []
    shaped.begin()
    model = Traveller(HOP, "a", "buffer", "", WEIGHTS)
    shaped.model("b", model, lambda frames: not parts.extend(frames[1:]))
    time[0] += 1
    shaped.release()
    sent = b"".join(parts)
    assert [byte for byte in sent if byte] == [255]
    assert len(sent) == 5 << 20
    assert digest(WEIGHTS) == digest({"w": Buffer("uint8", (5 << 20,), bytes(5 << 20))})
