"""The removal of a release, as a user's interrupt meets it."""

from __future__ import annotations

import subprocess

import pytest

from fedskd_sim.kubernetes.helm import Helm


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
