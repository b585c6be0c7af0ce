"""The helm program: install and remove a release of the project's chart."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fedskd_sim.errors import ChartNotInstallable, ClusterUnavailable, RunExists
from fedskd_sim.kubernetes.reasons import LOGIN_FIX, QUOTA_FIX, RIGHTS
from fedskd_sim.scenario.own import FILE, PACKED

Settings = Mapping[str, str]
"""Values of the chart, by key."""
NO_SETTINGS: Settings = MappingProxyType({})
PATIENCE_S = 120
LOWEST = "1.31.0"
"""The oldest Kubernetes for which the chart is (``kubeVersion`` in Chart.yaml)."""
UNKNOWN_USER = ("provide credentials", "Unauthorized")
FIXES = {
    **dict.fromkeys(UNKNOWN_USER, LOGIN_FIX),
    "exceeded quota": QUOTA_FIX,
    "forbidden": f"{RIGHTS}, or let an administrator make the accounts (rbac.create: false)",
    "the release name": "give another --name",
    "": "correct the values file; 'helm template' with the same files shows what is rendered",
}
"""What to do about a refusal, by what it says; the last one fits any."""


def chart() -> Path:
    """Find the chart: beside the package where it is installed, in the project's folder where it is
    developed.

    Raises:
        ChartNotInstallable: it is in neither.

    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "chart", here.parents[2] / "helm" / "fedskd-sim"):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise ChartNotInstallable(
        "the chart is not part of this installation", fix="install fedskd_sim anew"
    )


@dataclass(frozen=True)
class Helm:
    """Calls of helm for one namespace and context (empty: the current one)."""

    namespace: str
    context: str = ""

    def install(
        self, release: str, scenario: Path, values: tuple[Path, ...], more: Settings = NO_SETTINGS
    ) -> None:
        """Install the chart with a scenario, and settings beside those of the values files.

        Raises:
            RunExists: a release of this name is there.
            ChartNotInstallable: helm is missing or refused it.

        """
        self.check_free(release)
        self._chart("install", release, scenario, values, *_set(more))

    def render(
        self, release: str, scenario: Path, values: tuple[Path, ...], more: Settings = NO_SETTINGS
    ) -> list[str]:
        """Render the run's ConfigMap and the controller's Job, as YAML, without asking the
        cluster; raises ChartNotInstallable.
        """
        shown = [
            part
            for name in ("run", "controller")
            for part in ("--show-only", f"templates/{name}.yaml")
        ]
        lowest = ("--kube-version", LOWEST)  # or helm takes the one that it was built with
        text = self._chart("template", release, scenario, values, *_set(more), *shown, *lowest)
        return [part for part in re.split(r"^---$", text, flags=re.MULTILINE) if part.strip()]

    def _chart(
        self, verb: str, release: str, scenario: Path, values: tuple[Path, ...], *more: str
    ) -> str:
        files = [part for file in values for part in ("--values", str(file))]
        given = {"scenario": scenario, **_beside(scenario)}
        text = [part for key, file in given.items() for part in ("--set-file", f"{key}={file}")]
        done = self._call(verb, release, str(chart()), *text, *files, *more)
        if done.returncode:
            reason = done.stderr.strip().removeprefix("Error: ") or done.stdout.strip()
            fix = next(fix for words, fix in FIXES.items() if words in reason)
            raise ChartNotInstallable(f"helm refused the chart: {reason}", fix=fix)
        return done.stdout

    def check_free(self, release: str) -> None:
        """Refuse a name that is taken; raises RunExists, and ChartNotInstallable without helm."""
        if self.exists(release):
            fix = (
                f"choose another --name, follow it with 'fedskd-sim collect {release}', or "
                f"'fedskd-sim stop {release}'"
            )
            raise RunExists(f"a run {release!r} is in namespace {self.namespace!r}", fix=fix)

    def exists(self, release: str) -> bool:
        """Return whether a release of this name is in the namespace; raises ClusterUnavailable
        where nobody can tell.
        """
        return bool(self._status(release))

    def remove_failed(self, release: str) -> None:
        """Remove what an installation that was refused has left, running pods among it; never a
        release that stands.
        """
        if self._status(release) == "failed":
            self.uninstall(release)

    def _status(self, release: str) -> str:
        """Read how a release is; empty where there is none."""
        done = self._call("status", release, "-o", "json")
        if done.returncode == 0:
            return str(json.loads(done.stdout)["info"]["status"])
        _check_answer(done.stderr)
        return ""

    def given(self, release: str) -> dict[str, str]:
        """Read the scenario a release was installed with, and what lies beside it.

        Raises:
            ChartNotInstallable: there is no such release.
            ClusterUnavailable: the cluster does not answer.

        """
        done = self._call("get", "values", release, "-o", "json")
        if done.returncode:
            _check_answer(done.stderr)
            text = f"no run {release!r} in namespace {self.namespace!r}: {done.stderr.strip()}"
            raise ChartNotInstallable(text, fix="see 'helm list', and give its --namespace")
        values = json.loads(done.stdout)
        beside = {name: values[key] for key, name in BESIDE.items() if values.get(key)}
        return {"scenario.yaml": str(values.get("scenario", "")), **beside}

    def uninstall(self, release: str) -> None:
        """Remove a release and, through its ConfigMap, every hospital; one that is gone already
        is no error. An interrupt, which stops helm halfway, is raised when the release is removed.
        """
        removal = "uninstall", release, "--ignore-not-found", "--wait", "--timeout"
        try:
            done = self._call(*removal, f"{PATIENCE_S}s")
        except KeyboardInterrupt:
            self._call(*removal, f"{PATIENCE_S}s")
            raise
        if done.returncode:
            fix = f"helm uninstall {release} -n {self.namespace}"
            raise ChartNotInstallable(
                f"helm could not remove the release: {done.stderr.strip()}", fix=fix
            )

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = shutil.which("helm")
        if not program:
            raise ChartNotInstallable(
                "the program helm is not on the PATH",
                fix="install helm 3.14 or newer, or use --on processes",
            )
        place = [
            "--namespace",
            self.namespace,
            *(["--kube-context", self.context] if self.context else []),
        ]
        try:
            return subprocess.run(  # noqa: S603 - the user's own helm
                [program, *arguments, *place],
                capture_output=True,
                text=True,
                timeout=PATIENCE_S * 2,
                check=False,
            )
        except subprocess.TimeoutExpired:
            text = f"helm {arguments[0]} did not end within {PATIENCE_S * 2} s"
            raise ChartNotInstallable(text, fix="look at the cluster's API server") from None


BESIDE = MappingProxyType({"resolved": FILE, "code": PACKED})
"""Values of the chart, and the files that they are in a run folder."""


def _beside(scenario: Path) -> dict[str, Path]:
    """Return what lies beside the scenario of a run that brings code: the code, packed, and what it
    has said of its algorithms.
    """
    found = {key: scenario.parent / name for key, name in BESIDE.items()}
    return {key: file for key, file in found.items() if file.is_file()}


def _set(settings: Settings) -> list[str]:
    return [part for key, value in settings.items() for part in ("--set-string", f"{key}={value}")]


def _check_answer(told: str) -> None:
    """Take helm's words for an error of the cluster, unless they say that there is no such
    release.
    """
    reason = told.strip().removeprefix("Error: ")
    if "forbidden" in told:
        raise ClusterUnavailable(f"helm may not look for the run: {reason}", fix=RIGHTS)
    if any(words in told for words in UNKNOWN_USER):
        raise ClusterUnavailable(f"the cluster does not know who you are: {reason}", fix=LOGIN_FIX)
    if "not found" not in told:
        text = f"the cluster does not answer: {reason}"
        raise ClusterUnavailable(
            text, fix="check KUBECONFIG, --context and the network, and try again"
        )
