"""What is said of a card that is here and that PyTorch cannot use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.learning.devices import card_support
from fedskd_sim.learning.drivers import UNLISTED, CardSupport, signs_of_card
from fedskd_sim.operate.checks import unused_card
from fedskd_sim.scenario import load

SMALL = (
    "name: x\ndata: {name: synthetic-skin, samples: 20}\nalgorithm: {name: local, rounds: 1}\n"
    "training: {epochs: 1, warmup_epochs: 1}\n"
    "hospitals:\n  - {name: a, architecture: cnn-plain, device: DEVICE}\n"
    "  - {name: b, architecture: cnn-plain}\n"
)
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: "
    "http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to "
    "install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NONE = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed "
    "a driver from http://www.nvidia.com/Download/index.aspx"
)
BUSY = (
    "CUDA driver initialization failed, you might not have a CUDA gpu.\n"
    "The CUDA driver logged these messages, which may provide useful details:\n"
)
WITHOUT = "Torch not compiled with CUDA enabled"
INSTALL = "install a PyTorch for CUDA: this one is built without"


def test_a_driver_that_is_too_old_is_told_with_both_versions_of_cuda() -> None:
    """The one that the driver knows, the one that PyTorch was built for, and what to do."""
    found = CardSupport(here=True, cuda="13.2", driver="470.57.02", words=TOO_OLD)
    assert found.newest == "11.4"
    assert found.fix == (
        "update the driver to one for CUDA 13.2, or install a PyTorch for CUDA 11.4 or older"
    )
    assert found.unused == (
        "device auto is the CPU: PyTorch cannot use this machine's NVIDIA card (The NVIDIA driver "
        "on your system is too old (found version 11040); it is 470.57.02, which knows CUDA up to "
        "11.4, and this PyTorch is built for CUDA 13.2); to use it, " + found.fix
    )
    unknown = found._replace(driver="unknown", words="The NVIDIA driver on your system is too old")
    assert unknown.reason.endswith("too old, and this PyTorch is built for CUDA 13.2")
    assert unknown.fix.endswith("or install a PyTorch for a CUDA before 13.2")


@pytest.mark.parametrize(
    ("here", "cuda", "words", "reason", "fix", "noted"),
    [
        (True, "13.2", NONE, "Found no NVIDIA driver on your system", UNLISTED, True),
        (True, "12.6", BUSY, BUSY.partition(".\n")[0], UNLISTED, True),
        (True, "", WITHOUT, WITHOUT, INSTALL, False),
        (False, "13.2", NONE, "Found no NVIDIA driver on your system", "", False),
        (True, "13.2", "", "", "", False),
    ],
)  # fmt: skip
def test_other_reasons_are_pytorchs_own_words(
    here: object, cuda: str, words: str, reason: str, fix: str, noted: object
) -> None:
    """A note needs signs of a card and a PyTorch with CUDA that cannot use it."""
    found = CardSupport(here=bool(here), cuda=cuda, driver="unknown", words=words)
    assert (found.reason, found.fix, bool(found.unused)) == (reason, fix, noted)


def test_signs_of_a_card_are_its_driver_a_device_or_its_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them counts where all cards are hidden from CUDA."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    driver, nodes = tmp_path / "version", tmp_path / "dev"
    nodes.mkdir()
    (nodes / "nvidiactl").touch()
    assert not signs_of_card(driver, nodes)
    for sign in (driver, nodes / "nvidia3", tmp_path / "nvidia-smi"):
        sign.touch(mode=0o755)
        assert signs_of_card(driver, nodes)
        for hidden in ("", "-1"):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
            assert not signs_of_card(driver, nodes)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        sign.unlink()


def note_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if "NVIDIA card" in line]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_nothing_is_noted_where_there_is_no_card(scenario_file: Callable) -> None:
    """Neither by ``validate`` nor at a launch, and PyTorch is not asked."""
    path = scenario_file(SMALL.replace("DEVICE", "auto"))
    if signs_of_card():
        pytest.skip("there is a card here that PyTorch cannot use")
    assert card_support().unused == ""
    assert unused_card(load(path).scenario) == ""
    assert note_of(CliRunner().invoke(main, ["validate", str(path)]).output) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.skipif(not torch.version.cuda, reason="this PyTorch was built without CUDA")
def test_a_card_that_is_not_used_is_noted(
    scenario_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``validate`` and ``launch`` say it once, and the run is on the CPU; with ``cuda`` it is an
    error, and with ``cpu`` nobody asks.
    """
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "nvidia-smi").touch(mode=0o755)  # with no card: that PyTorch finds none is true
    auto = str(scenario_file(SMALL.replace("DEVICE", "auto")))
    out = str(tmp_path / "run")
    for command in (["validate", auto], ["launch", auto, "--on", "memory", "--out", out]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        (note,) = note_of(done.output)
        assert "device auto is the CPU" in note
        assert "Found no NVIDIA driver on your system" in note
    cpu = scenario_file(SMALL.replace("DEVICE", "cpu"))
    assert unused_card(load(cpu).scenario) == ""
    cuda = CliRunner().invoke(
        main, ["validate", str(scenario_file(SMALL.replace("DEVICE", "cuda")))]
    )
    assert cuda.exit_code == 35
    assert UNLISTED in " ".join(cuda.output.split())
