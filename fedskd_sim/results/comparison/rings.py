"""Runs of a comparison as rings of pods: each is a ``fedskd-sim launch --on kubernetes`` of its
own, and under Kueue a workload of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from fedskd_sim.errors import RunUnreadable, ScenarioError
from fedskd_sim.results.comparison.planning import PlannedRun
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.location import InCluster
from fedskd_sim.scenario.document import read

AT_ONCE, QUEUED_AT_ONCE = 4, 32
"""Rings side by side, and where a queue admits them as it has room."""


@dataclass(frozen=True)
class Rings:
    """Where in a cluster rings are; what is empty is what kubectl would take."""

    namespace: str = ""
    context: str = ""
    values: tuple[Path, ...] = ()
    """Files for the chart."""

    @property
    def jobs(self) -> int:
        """How many rings there are side by side, where nobody says: with a queue it decides."""
        return QUEUED_AT_ONCE if any(self._queues()) else AT_ONCE

    def _queues(self) -> Iterator[str]:
        for file in self.values:
            with suppress(ScenarioError):  # helm says it better
                part = read(file).data.get("kueue")
                yield str(part.get("queue") or "") if isinstance(part, dict) else ""

    @property
    def place(self) -> tuple[str, str, tuple[Path, ...]]:
        """Namespace, context and files for the chart."""
        return self.namespace, self.context, self.values

    @property
    def canary(self) -> str:
        """A new name for the ring of a short run."""
        return f"canary-{token_hex(3)}"

    def launch(self, task: PlannedRun, draft: Path, folder: Path) -> list[str]:
        """Return the command that carries a run out as a ring; its name is that of the run and of
        its folder, so that comparisons side by side have different ones.
        """
        digest = sha256(str(folder.resolve()).encode(errors="surrogatepass")).hexdigest()[:6]
        name = f"{task.label[:20].strip('-')}-{task.scenario.seed}-{digest}"
        place = ["--on", "kubernetes", "--name", name, *self._place()]
        values = [part for file in self.values for part in ("--values", str(file))]
        return ["launch", str(draft), "--out", str(folder), *place, *values]

    def collect(self, folder: Path) -> list[str]:
        """Return the command that joins the ring of a folder and brings its results home."""
        return ["collect", str(folder)]

    def goes_on(self, folder: Path) -> bool:
        """Return whether the cluster still has the run of a folder, at work or with results that
        have not come home; raises ClusterUnavailable. One whose pods have left with its results is
        removed.
        """
        from fedskd_sim.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - only who has pods pays for it

        try:
            place = location.read(folder)
        except RunUnreadable:
            return False
        if not isinstance(place, InCluster) or place.collected:
            return False
        runtime = KubernetesRuntime(place.release, place.namespace, place.context)
        runtime.connect()
        if not runtime.exists():
            return False
        if runtime.is_spent():
            runtime.attach(None)
            runtime.stop()
            return False
        return True

    def _place(self) -> list[str]:
        named = {"--namespace": self.namespace, "--context": self.context}
        return [part for flag, value in named.items() if value for part in (flag, value)]
