"""Receive buffers: what arrives as expected is written into a waiting network; anything else finds
plain memory and is no less right.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from unpacking import unpack_message

from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.receive_buffers import ReceiveBuffers
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import buffer_of, export, snapshot, tensor_of
from fedskd_sim.messages import HopId, Traveller, Weights, digest, spec
from fedskd_sim.scenario import load
from fedskd_sim.transport.chunks import pack_message
from fedskd_sim.transport.wire import limit_travellers


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def receive_buffers() -> ReceiveBuffers:
    made = ReceiveBuffers()
    made.build = lambda _: (built := network(0), export(built))
    return made


def arriving(at: ReceiveBuffers, weights: Weights, model: str = "north") -> Weights:
    traveller = Traveller(HopId("r", 1, model, 1, 1), "south", "cnn", "", weights)
    expected = {model: (spec(weights),)}
    arrived = unpack_message(
        list(pack_message(traveller)), expected, at.allocate, limit_travellers(expected)
    )
    assert isinstance(arrived, Traveller)
    return arrived.weights


def test_a_model_that_is_expected_arrives_in_its_network() -> None:
    """The network that waited has the weights bit for bit, without another copy: they share
    their memory.
    """
    at = receive_buffers()
    at.prepare("north")
    weights = export(network(1))
    arrived = arriving(at, weights)
    waiting = at.take("north", arrived)
    assert isinstance(waiting, nn.Module)
    assert digest(export(waiting)) == digest(weights)
    with torch.no_grad():
        waiting[0].weight.zero_()
    assert not tensor_of(arrived["0.weight"]).any()


def test_a_receive_buffer_serves_once() -> None:
    """The same model again, unannounced, gets plain memory and no network."""
    at = receive_buffers()
    at.prepare("north")
    first = arriving(at, export(network(1)))
    second = arriving(at, export(network(2)))
    assert digest(first) == digest(export(network(1)))
    assert digest(second) == digest(export(network(2)))
    assert at.take("north", second) is None
    assert at.take("north", first) is None


@pytest.mark.parametrize(
    "what",
    ["nothing was prepared", "another model was", "other tensors arrived", "fewer tensors arrived"],
)
def test_what_is_not_expected_is_built_as_usual(what: str) -> None:
    """Without a fitting receive buffer there is no network to take, and the weights are right."""
    at = receive_buffers()
    if what != "nothing was prepared":
        at.prepare("east" if what == "another model was" else "north")
    weights = dict(export(network(1)))
    if what == "other tensors arrived":
        weights["0.weight"] = buffer_of(torch.ones(7))
    if what == "fewer tensors arrived":
        del weights["3.bias"]
    arrived = arriving(at, weights)
    assert at.take("north", arrived) is None
    assert digest(arrived) == digest(weights)


def test_what_travels_beside_a_model_has_memory_of_its_own() -> None:
    """A averaged weights on board do not keep the model from its network."""
    at = receive_buffers()
    at.prepare("north")
    current, averaged = (
        export(network(1)),
        {f"slow/{name}": buffer for name, buffer in export(network(2)).items()},
    )
    arrived = arriving(at, {**current, **averaged})
    assert (
        at.take("north", {name: buffer for name, buffer in arrived.items() if name in current})
        is not None
    )
    assert digest({name: arrived[name] for name in averaged}) == digest(averaged)


def test_without_anybody_who_builds_nothing_is_prepared() -> None:
    """Placebos have no networks."""
    at = ReceiveBuffers()
    at.prepare("north")
    weights = export(network(1))
    assert digest(arriving(at, weights)) == digest(weights)
    assert at.take("north", weights) is None


def test_a_receive_buffer_that_was_used_is_made_anew() -> None:
    """The next visit of the same model finds a network again, whether the last one was taken or
    not.
    """
    at = receive_buffers()
    for seed in (1, 2):
        at.prepare("north")
        arriving(at, export(network(seed)))
    at.prepare("north")
    assert at.take("north", arriving(at, export(network(3)))) is not None


SCENARIO = """\
name: receive-buffers
data: {name: synthetic-skin, samples: 40, image_size: 32, classes: 2}
hospitals: [{name: a, architecture: cnn-plain},
  {name: b, architecture: {name: cnn-residual, options: {norm: batch}}}]
algorithm: {name: fedskd}
"""


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_hospital_finds_its_visitor_in_its_network(layout: str, tmp_path: Path) -> None:
    """The visitor lives where it arrived and can be put back from a copy; with another layout in
    memory it is built as usual.
    """
    file = tmp_path / "receive-buffers.yaml"
    file.write_text(SCENARIO + f"training: {{memory_format: {layout}}}\n", encoding="utf-8")
    site = Site(LearnerContext(load(file).scenario, "a", own_process=True))
    weights = snapshot(Site(LearnerContext(load(file).scenario, "b")).first(1))
    site.context.receive_buffers.prepare("b")
    arrived = arriving(site.context.receive_buffers, weights, "b")
    visitor, kept = site.visitor("b", arrived)
    assert digest(export(visitor)) == digest(kept) == digest(weights)
    with torch.no_grad():
        next(visitor.parameters()).zero_()
    assert digest(kept) == digest(weights)
    assert (digest(arrived) == digest(weights)) == (layout == "channels_last")
