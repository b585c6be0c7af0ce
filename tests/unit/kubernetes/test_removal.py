"""The removal of a release, as a user's interrupt meets it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fedskd_sim.found import scenarios
from fedskd_sim.kubernetes.helm import Helm
from fedskd_sim.kubernetes.runtime import KubernetesRuntime
from fedskd_sim.operate.execution import Attendant, carry_out, make_order
from fedskd_sim.runtimes.base import Order, Watch
from fedskd_sim.scenario import load


def test_an_interrupt_waits_until_the_release_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C stops helm halfway: it is called again to the end, then the interrupt is told."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command[1:3])
        if len(calls) == 1:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("fedskd_sim.kubernetes.helm.subprocess.run", run)
    monkeypatch.setattr("fedskd_sim.kubernetes.helm.shutil.which", lambda _: "helm")
    with pytest.raises(KeyboardInterrupt):
        Helm("fedskd").uninstall("skin")
    assert calls == [["uninstall", "skin"]] * 2


class Interrupted(KubernetesRuntime):
    """A run that a user interrupts: before it has ended, or as its results are on their way."""

    def launch(self, order: Order) -> None:
        self._order, self._installed = order, True

    def wait(self, _: Watch) -> None:
        self._holds = self.release == "ended"
        raise KeyboardInterrupt


@pytest.mark.parametrize("release", ["ended", "going"])
def test_what_an_interrupt_leaves_in_the_cluster_is_said(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that may have what has not come home stays, with how to fetch it or give it up;
    that of a run which goes is removed, and nothing is said of it.
    """
    removed: list[str] = []
    monkeypatch.setattr(Helm, "uninstall", lambda _, name: removed.append(name))
    order = make_order(load(scenarios()["placebo-ok"]), "kubernetes", tmp_path / "out", None)
    with pytest.raises(KeyboardInterrupt) as caught:
        carry_out(Interrupted(release, "fedskd"), order, Attendant("launch", page=False))
    told = [line for line in caught.value.__notes__ if "nothing was removed" in line]
    if release == "going":
        assert (removed, told) == (["going"], [])
    else:
        assert removed == []
        assert len(told) == 1
        assert f"'fedskd-sim collect {tmp_path / 'out'}' fetches it" in told[0]
