"""Where pods land, how long they are waited for, and how a run ends that cannot begin. The GPUs
are advertised, not real.
"""

from __future__ import annotations

import math
from secrets import token_hex

import pytest
from bed import SCENARIOS, Bed, Run, nodes, offered, placebo, until

FAR_S = 600
"""A deadline that is not what ends a run."""
GPU, MIG, SHARED = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared"


@pytest.fixture(scope="module")
def gpu_nodes(cluster: None) -> dict[str, int]:  # noqa: ARG001 - it decides whether
    """The nodes that offer GPUs."""
    found = nodes(GPU)
    assert found, "no node offers nvidia.com/gpu: k8s/fake-gpus.sh NODE 4"
    return found


def places(run: Run) -> dict[str, str]:
    return {pod["spec"]["hostname"]: pod["spec"]["nodeName"] for pod in run.pods()}


def waiting(run: Run) -> dict[str, str]:
    """Tell what the controller has last said of each hospital that is pending, or was when the
    run ended.
    """
    ended = min((event["time"] for event in run.events("end")), default=math.inf)
    last = {event["hospital"]: event for event in run.events("pod") if event["time"] < ended}
    return {name: event["text"] for name, event in last.items() if event["standing"] == "pending"}


def test_gpu_hospitals_land_on_gpu_nodes_and_the_others_never(
    bed: Bed, gpu_nodes: dict[str, int]
) -> None:
    """Hospitals that ask for a GPU get one on a node that has them; the others stay off its
    taint and see no GPU.
    """
    run = bed.install(placebo(6, gpus=2))
    assert run.code() == 0
    where = places(run)
    assert {where["h0"], where["h1"]} <= set(gpu_nodes)
    assert not {where[f"h{index}"] for index in range(2, 6)} & set(gpu_nodes)
    for index in range(6):
        container = run.pod(f"h{index}")["spec"]["containers"][0]
        hidden = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]
        assert hidden == (index >= 2)
        assert container["resources"]["limits"].get(GPU) == (None if hidden else "1")


def test_one_more_than_there_are_waits_and_comes_when_there_is_one(
    bed: Bed, gpu_nodes: dict[str, int]
) -> None:
    """Of two hospitals and one MIG device one waits, is reported, and gets the second device; a
    shared GPU goes by its own name.
    """
    node = next(iter(gpu_nodes))
    with offered(node, MIG) as mig, offered(node, SHARED) as shared:
        mig(1)
        shared(1)
        run = bed.install(
            placebo(4, gpus=3), {"gpu": {"resource": MIG}}, {"h2": {"gpu": {"resource": SHARED}}}
        )
        until("registration of all but one", lambda: len(run.events("registered")) == 3)
        told = f"Insufficient {MIG}"
        until("word of the one", lambda: [told in text for text in waiting(run).values()] == [True])
        assert {*waiting(run)} < {"h0", "h1"}
        mig(2)
        assert run.code() == 0
        where = places(run)
        assert where["h0"] == where["h1"] == where["h2"] == node != where["h3"]


def test_a_hospital_without_gpu_at_the_deadline_is_named(
    bed: Bed, gpu_nodes: dict[str, int]
) -> None:
    """One more GPU hospital than GPUs ends the run with exit code 44, its name and the
    scheduler's words.
    """
    size = sum(gpu_nodes.values()) + 1
    run = bed.install(placebo(size, gpus=size), startupSeconds=20)
    assert run.code() == 44
    left = {name: text for name, text in waiting(run).items() if f"Insufficient {GPU}" in text}
    assert len(left) == 1  # others may have been slow
    for name, text in left.items():
        assert f"{name}: {text}" in run.said()


def test_what_no_node_has_ends_the_run_early(bed: Bed, gpu_nodes: dict[str, int]) -> None:
    """A node selector that fits nowhere, and a GPU resource that no node offers, end the run with
    exit code 38 and the scheduler's words, and not only at the deadline.
    """
    assert gpu_nodes
    name = f"example.com/gpu-{token_hex(2)}"
    nowhere = {"pod": {"nodeSelector": {f"{GPU}.product": "FAKE-Z9"}}}
    wanted = {
        "didn't match Pod's node affinity/selector": nowhere,
        f"Insufficient {name}": {"resource": name},
    }
    runs = {
        words: bed.install(
            placebo(2, gpus=1), {"gpu": gpu}, unschedulableSeconds=2, startupSeconds=FAR_S
        )
        for words, gpu in wanted.items()
    }
    for words, run in runs.items():
        assert run.code() == 38
        assert words in run.said()
        assert "h0" in run.said()


def test_an_image_that_does_not_exist_ends_the_run_early(bed: Bed) -> None:
    """Hospitals whose image cannot be pulled end the run with exit code 38 and the image's name."""
    image = f"localhost/fedskd-{token_hex(3)}"
    run = bed.install(
        SCENARIOS / "quickstart.yaml",
        images={"hospital": {"repository": image}},
        startupSeconds=60,
    )
    assert run.code() == 38
    assert "image cannot be pulled" in run.said()
    assert image in run.said()
