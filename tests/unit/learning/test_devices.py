"""What makes a hospital compute the same bytes twice, and what its records say of its device."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from fedskd_sim import launch
from fedskd_sim.cli import main
from fedskd_sim.learning.devices import (
    cards_of,
    describe_card,
    driver_version,
    find_missing_devices,
    find_workspace_problem,
    lay_out,
    library_versions,
    settle,
    share_of_card,
)
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.workspace import FIXED, RUNS_AT_ONCE, WORKSPACE, fix_workspace
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import Architecture, Training, load

ROOT = Path(__file__).parents[3]
SMALL = (
    "name: x\ndata: {name: synthetic-skin, samples: 20}\nalgorithm: {name: local, rounds: 1}\n"
    "hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-plain}]\n"
)


def test_kernels_and_arithmetic_are_those_the_scenario_asks_for() -> None:
    """A CPU is always deterministic, a card unless switched off; TF32 is on in products and
    convolutions, or in neither.
    """
    cases = [
        ("cpu", Training(deterministic=False), True, False),
        ("cuda", Training(), True, False),
        ("cuda", Training(deterministic=False, precision="tf32"), False, True),
        ("cuda:1", Training(precision="bf16"), True, False),
        ("cpu", Training(), True, False),
    ]
    for device, training, deterministic, rough in cases:
        settle(1, device, training)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cuda.matmul.allow_tf32 == rough
        assert torch.backends.cudnn.allow_tf32 == rough
        assert not torch.backends.cudnn.benchmark


def test_the_workspace_of_cublas_is_fixed_unless_somebody_has_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is set where it was not, kept where it was, and one that is not repeatable is named."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    assert find_workspace_problem() == ""
    fix_workspace()
    assert os.environ[WORKSPACE] == FIXED
    for chosen, wrong in ((":16:8", False), (":0:0", True)):
        monkeypatch.setenv(WORKSPACE, chosen)
        fix_workspace()
        assert os.environ[WORKSPACE] == chosen
        assert (chosen in find_workspace_problem()) == wrong


def test_hospitals_in_memory_and_as_processes_have_it(
    scenario_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory it is set before the first hospital is made; what a fork server forks has it from
    the beginning.
    """
    monkeypatch.delenv(WORKSPACE, raising=False)
    path = scenario_file(SMALL)
    found = set()
    launch(path, on="memory", out=tmp_path / "out", watch=lambda _: found.add(os.getenv(WORKSPACE)))
    assert found == {FIXED}
    assert WORKSPACE not in os.environ  # it was the run's, not its caller's
    runtime = ProcessRuntime()
    runtime.prepare(load(path))
    assert runtime.ask(os.getenv, WORKSPACE) == FIXED


def test_the_driver_is_read_from_what_the_system_tells(tmp_path: Path) -> None:
    """Of the open and of the closed kernel module; where nothing tells it, it is unknown."""
    file = tmp_path / "version"
    for line in (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 2024\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.183.01  Release Build\n",
    ):
        file.write_text(line, encoding="utf-8")
        assert driver_version(file) == "535.183.01"
    assert library_versions("cuda:1", file)["driver"] == "535.183.01"
    assert library_versions("cuda:1", file).keys() == {"driver", "cuda", "cudnn"}
    file.write_text("something else\n", encoding="utf-8")
    assert driver_version(file) == driver_version(tmp_path / "none") == "unknown"


def test_a_cpu_has_neither_card_nor_driver() -> None:
    """Its records and its identity are what they were."""
    assert describe_card("cpu") == ""
    assert library_versions("cpu") == {}


@pytest.mark.parametrize(
    ("norm", "device", "expected"),
    [("group", "cuda", "usual"), ("batch", "cuda", "last"), ("none", "cuda", "last"),
     ("batch", "cpu", "usual")],
)  # fmt: skip
def test_auto_is_channels_last_where_every_layer_has_a_kernel(
    norm: str, device: str, expected: str
) -> None:
    """Not with GroupNorm and not on a CPU, for images and volumes."""
    shapes = {"cnn-plain": ImageShape(3, 16, 2), "vol-plain": ImageShape(1, 16, 2, "volume")}
    for name, shape in shapes.items():
        made = build(Architecture(name=name, options={"norm": norm}), shape, 1)
        network: nn.Module = lay_out(made, "auto", device)
        layout = torch.channels_last_3d if name == "vol-plain" else torch.channels_last
        kernels = [weight for weight in network.parameters() if weight.dim() > 3]
        found = all(kernel.is_contiguous(memory_format=layout) for kernel in kernels)
        assert found == (expected == "last")


@pytest.mark.parametrize(
    ("name", "width", "device", "expected"),
    [("cnn-residual", 4, "cpu", "usual"), ("cnn-residual", 16, "cpu", "last"),
     ("cnn-residual", 4, "cuda", "last"), ("cnn-plain", 4, "cpu", "last")],
)  # fmt: skip
def test_narrow_strided_shortcuts_are_never_channels_last_on_a_cpu(
    name: str, width: int, device: str, expected: str
) -> None:
    """With AVX2 their backward pass writes beyond its memory, whatever was asked for."""
    made = build(Architecture(name=name, options={"width": width}), ImageShape(3, 16, 2), 1)
    network: nn.Module = lay_out(made, "channels_last", device)
    kernels = [weight for weight in network.parameters() if weight.shape[2:] == (3, 3)]
    found = all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert found == (expected == "last")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_why_there_is_no_card_is_said_with_the_hospital(scenario_file: Callable) -> None:
    """PyTorch's own words, which tell a driver that is missing from one that is too old."""
    text = SMALL.replace("{name: a, architecture", "{name: a, device: cuda, architecture")
    (problem,) = find_missing_devices(load(scenario_file(text)).scenario)
    words = "'cuda' is not here: this machine has 0 CUDA devices (Found no NVIDIA driver"
    assert problem.message.startswith(words)
    assert problem.key == ("hospitals", 0, "device")


@pytest.mark.parametrize(
    ("device", "training", "idle"),
    [
        ("cpu", "compile: true", True),
        ("auto", "compile: true", False),
        ("auto", "compile: true, recorded_steps: false", True),
        ("cpu", "compile: false", False),
    ],
)
def test_a_key_that_does_nothing_is_noted(
    device: str, training: str, idle: object, scenario_file: Callable
) -> None:
    """``validate`` says so, and the scenario is good all the same."""
    text = SMALL.replace("{name: a, architecture", f"{{name: a, device: {device}, architecture")
    path = scenario_file(f"{text}training: {{{training}}}\n")
    done = CliRunner().invoke(main, ["validate", str(path)])
    assert done.exit_code == 0
    assert ("training.compile has no effect" in done.output) == idle


class Card(NamedTuple):
    """What PyTorch tells of a card."""

    total_memory: int = 80


@pytest.mark.slow
def test_what_fork_servers_import_asks_nothing_of_a_card() -> None:
    """CUDA that was begun before a fork cannot be used after it."""
    path = str(ROOT / "scenarios" / "fedskin-images.yaml")
    text = f"""
import torch
asked = []
for name in ("_cuda_getDeviceCount", "_cuda_init"):
    setattr(torch._C, name, lambda name=name: asked.append(name) or 0)
from importlib import import_module
from pathlib import Path
from fedskd_sim.runtimes.commands import ALSO
from fedskd_sim.runtimes.forkserver import modules_for
from fedskd_sim.scenario import load
for name in [*ALSO, *modules_for(load(Path({path!r})).scenario)]:
    import_module(name)
print(asked)
torch.cuda.is_available()
print(asked)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['_cuda_getDeviceCount']"]


@pytest.mark.parametrize(
    ("devices", "where", "alone", "expected"),
    [
        (("cuda", "cuda:0", "cuda:1", "cpu"), "cuda", False, 40),
        (("cuda", "cuda:0", "cuda:1", "cpu"), "cuda:1", False, 80),
        (("cuda", "cuda", "cuda", "cuda"), "cuda", False, 20),
        (("cuda", "cuda", "cuda", "cuda"), "cuda", True, 80),
        (("cuda", "cuda", "cuda", "cuda"), "cpu", True, math.inf),
    ],
)
def test_a_card_is_shared_by_those_that_compute_on_it(
    devices: tuple[str, ...],
    where: str,
    *,
    alone: bool,
    expected: float,
    scenario_file: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its number, whatever it is called; in a pod a hospital has its own."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (30 + number, 80))
    hospitals = "".join(
        f"  - {{name: h{index}, architecture: cnn-plain, device: '{one}'}}\n"
        for index, one in enumerate(devices)
    )
    text = SMALL[: SMALL.index("hospitals:")] + f"hospitals:\n{hospitals}"
    scenario = load(scenario_file(text)).scenario
    assert share_of_card(scenario, where, alone=alone) == expected
    monkeypatch.setenv(RUNS_AT_ONCE, "4")  # of a comparison; pods have no others beside them
    assert share_of_card(scenario, where, alone=alone) == expected / (1 if alone else 4)
    cards = (
        {"cuda:0": (80, 30), "cuda:1": (80, 31)} if "cuda:1" in devices else {"cuda:0": (80, 30)}
    )
    assert cards_of(scenario) == cards
