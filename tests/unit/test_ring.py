"""The ring: a permutation at every hop, every other hospital once a round, home at the end."""

import pytest

from fedskd_sim.ring import Ring

SIZES = [2, 3, 4, 5, 17]


def ring_of(size: int, rounds: int = 2) -> Ring:
    return Ring(tuple(f"h{index}" for index in range(size)), rounds)


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
    expected = {stop for host in ring.hospitals for stop in ring.stops(host)}
    walked = set()
    for model in ring.hospitals:
        for round_ in range(1, ring.evaluation_round + 1):
            stop = ring.stop(model, round_, 1)
            while stop is not None:
                walked.add(stop)
                onward = ring.onward(stop)
                assert onward is None or onward.host == ring.successor(stop.host)
                stop = onward
    assert walked == expected
    assert len(expected) == 2 * size * size + size * (size - 1)


def test_the_evaluation_round_ends_before_home() -> None:
    """A travelling model is tested at every other hospital and need not return."""
    ring = ring_of(4)
    last = ring.stop("h0", ring.evaluation_round, 3)
    assert last.kind == "evaluation"
    assert ring.onward(last) is None


def test_neighbours() -> None:
    """The predecessor's successor is oneself."""
    ring = ring_of(3)
    assert ring.successor("h2") == "h0"
    assert ring.predecessor("h0") == "h2"
