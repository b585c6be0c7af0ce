"""The ring: a permutation at every hop, every other hospital once a round, home at the end."""

from itertools import pairwise

import pytest

from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Schedule

SIZES = [2, 3, 4, 5, 17]


def ring_of(size: int, rounds: int = 2) -> Topology:
    return Topology(tuple(f"h{index}" for index in range(size)), rounds)


@pytest.mark.parametrize("size", SIZES)
def test_every_hop_of_every_round_is_a_permutation_without_anyone_at_home(size: int) -> None:
    """At each visiting hop every hospital hosts exactly one model and never its own."""
    ring = ring_of(size)
    for round_ in (1, 2, ring.evaluation_round):
        for hop in range(1, size):
            stops = [ring.stop(model, round_, hop) for model in ring.hospitals]
            assert sorted(stop.host for stop in stops) == sorted(ring.hospitals)
            assert all(stop.host != stop.model for stop in stops)


@pytest.mark.parametrize("size", SIZES)
def test_each_model_visits_every_other_hospital_once_a_round_and_comes_home(size: int) -> None:
    """The visits of a round are all others once; hop K of a training round is the homecoming."""
    ring = ring_of(size)
    for model in ring.hospitals:
        hosts = [ring.stop(model, 1, hop).host for hop in range(1, size)]
        assert sorted([*hosts, model]) == sorted(ring.hospitals)
        assert (home := ring.stop(model, 1, size)).host == model
        assert home.kind == "homecoming"


@pytest.mark.parametrize("size", SIZES)
def test_hosts_and_models_agree_on_the_same_stops(size: int) -> None:
    """What all hosts expect, and what all models do by moving onward, is the same set of stops."""
    ring = ring_of(size)
    expected = {stop for host in ring.hospitals for stop in Program(ring, host).stops()}
    walked = set()
    for model in ring.hospitals:
        for round_ in range(1, ring.evaluation_round + 1):
            stop = ring.stop(model, round_, 1)
            while stop is not None:
                walked.add(stop)
                onward = ring.onward(stop)
                assert onward is None or ring.sender(onward) == stop.host
                stop = onward
    assert walked == expected
    assert len(expected) == 2 * size * size + size * (size - 1)


def test_the_evaluation_round_ends_before_home() -> None:
    """A travelling model is tested at every other hospital and need not return."""
    ring = ring_of(4)
    last = ring.stop("h0", ring.evaluation_round, 3)
    assert last.kind == "evaluation"
    assert ring.onward(last) is None


def test_a_model_comes_from_its_last_host() -> None:
    """At the first hop from home, then from the hospital before."""
    ring = ring_of(3)
    assert [ring.sender(ring.stop("h2", 1, hop)) for hop in (1, 2, 3)] == ["h2", "h0", "h1"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "schedule",
    [Schedule(order="shuffled"), Schedule(visits=1), Schedule(visits=2, order="shuffled")],
)
def test_other_schedules_keep_the_rules(size: int, schedule: Schedule) -> None:
    """Shuffled and partial rounds are permutations too, with nobody at home before the last hop,
    and hosts agree with models.
    """
    ring = Topology(tuple(f"h{index}" for index in range(size)), 6, schedule=schedule, seed=3)
    for round_ in range(1, 7):
        for hop in ring.hops(round_):
            stops = [ring.stop(model, round_, hop) for model in ring.hospitals]
            assert sorted(stop.host for stop in stops) == sorted(ring.hospitals)
            home = hop == ring.hops(round_)[-1]
            assert {stop.host == stop.model for stop in stops} == {home}
            assert {stop.kind for stop in stops} == {"homecoming" if home else "visit"}
    expected = {stop for host in ring.hospitals for stop in Program(ring, host).stops()}
    assert expected == {
        ring.stop(model, round_, hop)
        for model in ring.hospitals
        for round_ in range(1, 8)
        for hop in ring.hops(round_)
    }


def test_partial_rounds_reach_every_hospital_in_turn_and_shuffled_ones_differ() -> None:
    """With two visits a round, three rounds of seven hospitals see all six others once; orders
    come from seed and round.
    """
    ring = Topology(tuple("abcdefg"), 3, schedule=Schedule(visits=2))
    hosts = [ring.stop("c", round_, hop).host for round_ in (1, 2, 3) for hop in (1, 2)]
    assert sorted(hosts) == list("abdefg")
    shuffled = Topology(tuple("abcdefg"), 3, schedule=Schedule(order="shuffled"), seed=1)
    assert len({shuffled.order(round_) for round_ in (1, 2, 3)}) == 3
    assert shuffled.order(1) == Topology(
        tuple("abcdefg"), 9, schedule=Schedule(order="shuffled"), seed=1
    ).order(1)
    assert shuffled.order(1) != Topology(
        tuple("abcdefg"), 3, schedule=Schedule(order="shuffled"), seed=2
    ).order(1)
    assert shuffled.order(4) == shuffled.hospitals


def test_a_hospital_that_is_held_out_only_hosts_the_evaluation() -> None:
    """It has no stop before, hosts every model once at the end, and none of its own travels."""
    ring = Topology(("a", "b", "c"), 2, held_out=("x", "y"))
    assert [(stop.round, stop.model) for stop in Program(ring, "x").stops()] == [
        (3, "c"),
        (3, "b"),
        (3, "a"),
    ]
    for name in ("a", "b", "c"):
        walked = [ring.stop(name, 3, hop).host for hop in ring.hops(3)]
        assert sorted([*walked, name]) == ["a", "b", "c", "x", "y"]
        assert {stop.model for stop in Program(ring, name).stops()} == {"a", "b", "c"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "schedule",
    [Schedule(mode="sequential"), Schedule(mode="sequential", visits=2, order="shuffled")],
)
def test_a_sequential_round_is_one_tour_after_the_other(size: int, schedule: Schedule) -> None:
    """Every host hosts in its own order what a single queue of whole tours gives, its own
    model's way home included.
    """
    ring = Topology(tuple(f"h{index}" for index in range(size)), 3, schedule=schedule, seed=3)
    queue = [
        ring.stop(model, round_, hop)
        for round_ in (1, 2, 3)
        for model in ring.order(round_)
        for hop in ring.hops(round_)
    ]
    for host in ring.hospitals:
        hosted = [stop for stop in Program(ring, host).stops() if stop.round <= ring.rounds]
        assert hosted == [stop for stop in queue if stop.host == host]
        steps = [Program(ring, host).at(index) for index in range(len(Program(ring, host)))]
        behind = [(step, after) for step, after in pairwise(steps) if step.action == "depart"]
        assert [(after.stop.model, after.stop.kind) for _, after in behind[:-1]] == [
            (host, "homecoming")
        ] * 3
        assert [(step.round, after.action) for step, after in behind[-1:]] == [(4, "home")]


PATTERNS = [
    Topology(tuple("abcd"), 3),
    Topology(tuple("abcde"), 3, schedule=Schedule(visits=2, order="shuffled"), seed=3),
    Topology(
        tuple("abcde"), 3, schedule=Schedule(mode="sequential", visits=3, order="shuffled"), seed=3
    ),
    Topology(tuple("abcd"), 2, "all_reduce"),
    Topology(tuple("abcd"), 2, "none", held_out=("x", "y")),
]


@pytest.mark.parametrize("ring", PATTERNS)
def test_a_programs_positions_are_its_steps(ring: Topology) -> None:
    """Every stop is found at the index of its step and at no other, in ascending order; any
    other hop leads nowhere.
    """
    hops = [
        (round_, hop) for round_ in range(ring.rounds + 3) for hop in range(2 * len(ring.names) + 3)
    ]
    for host in ring.names:
        program = Program(ring, host)
        steps = [program.at(index) for index in range(len(program))]
        wanted = {
            (step.stop.model, step.round, step.stop.hop): index
            for index, step in enumerate(steps)
            if step.stop
        }
        keys = [(model, *hop) for model in (*ring.names, "stranger") for hop in hops]
        assert {
            key: place for key in keys if (place := program.position(*key)) is not None
        } == wanted
        assert all(step.stop.host == host for step in steps if step.stop)
        assert program.at(len(program)) is None
        stops = list(program.stops())
        assert [step.stop for step in steps if step.stop] == stops
        assert program.following(-1) == (stops[0] if stops else None)
