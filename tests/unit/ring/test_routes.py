"""The ways of models through a ring that has lost hospitals."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from fedskd_sim.ring.routes import Back, Routes, code, decoded, epoch, merged, merged_returns
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Schedule

RINGS = [
    Topology(tuple("abcd"), 3),
    Topology(tuple("abcde"), 3, schedule=Schedule(visits=2, order="shuffled"), seed=3),
    Topology(tuple("abcd"), 2, schedule=Schedule(mode="sequential"), held_out=("x",)),
    Topology(tuple("abcd"), 2, "none", held_out=("x", "y")),
]
LOSSES = [{}, {"b": 0}, {"b": 2}, {"a": 0, "c": 0}, {"a": 1, "d": 2}]


def way(ring: Topology, model: str) -> list[Stop]:
    """List all stops of a model, as if nobody were lost."""
    return [
        ring.stop(model, round_, hop)
        for round_ in range(1, ring.evaluation_round + 1)
        for hop in ring.hops(round_)
    ]


@pytest.mark.parametrize("lost", LOSSES, ids=str)
@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: f"{ring.pattern} {ring.schedule.mode}")
def test_a_model_goes_through_all_that_is_left_of_its_way(
    ring: Topology, lost: dict[str, int]
) -> None:
    """Whoever hosts it sends it to the next stop that is not void, home excepted, from where it
    departs; and each stop knows who sends.
    """
    routes = Routes(ring, lost)
    for model in ring.hospitals:
        left = [stop for stop in way(ring, model) if not routes.void(stop)]
        for before, after in pairwise(left):
            at_home = before.kind == "homecoming"
            onward = routes.departure(model, before.round + 1) if at_home else routes.onward(before)
            assert onward == after
            assert routes.sender(after) == before.host
            assert routes.goes_on(before)
        assert all(not routes.goes_on(stop) for stop in left[-1:])


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: f"{ring.pattern} {ring.schedule.mode}")
def test_without_losses_it_is_the_topology(ring: Topology) -> None:
    """Nobody lost, nothing changed."""
    routes = Routes(ring)
    for stop in (stop for model in ring.hospitals for stop in way(ring, model)):
        assert routes.onward(stop) == ring.onward(stop)
        assert routes.sender(stop) == ring.sender(stop)
        assert not routes.void(stop)


@pytest.mark.parametrize("lost", [{"b": 0}, {"b": 2}, {"b": 0, "c": 0}], ids=str)
@pytest.mark.parametrize("ring", RINGS[:3], ids=lambda ring: f"{ring.pattern} {ring.schedule.mode}")
def test_who_is_back_hosts_from_its_round_on(ring: Topology, lost: dict[str, int]) -> None:
    """Before that round the ways are those without it, from there on those of the others lead
    through it again; its own model comes home in that round and sets out in the next, if it has not
    retired.
    """
    gone, back = Routes(ring, lost), Routes(ring, lost, {"b": Back(2)})
    for model in ring.hospitals:
        left = [stop for stop in way(ring, model) if not back.void(stop)]
        for stop in way(ring, model):
            hosted = stop.round >= 2 and stop.host == "b" and not back.retired(model, stop.round)
            assert back.void(stop) == (gone.void(stop) and not hosted)
        for before, after in pairwise(left):
            at_home = before.kind == "homecoming"
            onward = back.departure(model, before.round + 1) if at_home else back.onward(before)
            assert (onward, back.sender(after)) == (after, before.host)
    stays = [round_ for round_ in range(1, ring.evaluation_round + 1) if back.stays("b", round_)]
    assert stays == ([1, 2] if not lost["b"] else [*range(1, ring.evaluation_round + 1)])
    assert back.left_out("c") == ("c" in lost)
    assert not back.left_out("b")


def test_words_of_returns_may_come_in_any_order() -> None:
    """The newer one counts, each has a number, and each begins a new epoch."""
    words = [Back(2), Back(2, away=True), Back(3), Back(5)]
    for older, newer in combinations(words, 2):
        one, other = {"b": older}, {"b": newer, "c": Back(2)}
        assert merged_returns(one, other) == merged_returns(other, one) == other
        assert epoch({"b": 0}, one) < epoch({"b": 0}, {"b": newer})
    assert [decoded(code(word)) for word in (None, *words)] == [None, *words]


def test_words_of_losses_may_come_in_any_order() -> None:
    """What two words say together does not depend on which comes first or how often, and only
    grows.
    """
    for one, other in combinations(LOSSES, 2):
        both = merged(one, other)
        assert both == merged(other, one) == merged(both, one)
        assert epoch(both) >= max(epoch(one), epoch(other))
        assert both.keys() == {*one, *other}
