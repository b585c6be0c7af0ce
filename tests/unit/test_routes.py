"""The ways of models through a ring that has lost hospitals."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from fedskd_sim.routes import Routes, epoch, merged
from fedskd_sim.scenario import Schedule
from fedskd_sim.topology import Stop, Topology

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


def test_words_of_losses_may_come_in_any_order() -> None:
    """What two words say together does not depend on which comes first or how often, and only
    grows.
    """
    for one, other in combinations(LOSSES, 2):
        both = merged(one, other)
        assert both == merged(other, one) == merged(both, one)
        assert epoch(both) >= max(epoch(one), epoch(other))
        assert both.keys() == {*one, *other}
