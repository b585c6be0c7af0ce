"""What an installation would send to the cluster, checked before anything is: pods that the API
does not know are told by line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedskd_sim.errors import Key, ScenarioError, Where
from fedskd_sim.runtimes.kubernetes.jobs import check_pod, job
from fedskd_sim.runtimes.kubernetes.overlay import Patch, anywhere
from fedskd_sim.runtimes.kubernetes.plan import Plan
from fedskd_sim.scenario import Scenario
from fedskd_sim.scenario.document import Document, parse, read

CONTROLLER_POD = ("controller", "pod")


def check(scenario: Scenario, rendered: Iterable[str], values: Iterable[Path]) -> Plan:
    """Check the pods of all members.

    Args:
        scenario: of the run.
        rendered: the run's ConfigMap and the controller's Job, as the chart writes them.
        values: files of the chart's values; the last one that has a key is to blame for it.

    Returns:
        The place of the run, as the chart makes it.

    Raises:
        InvalidValue: a pod is none; the error names file and line of the values, or the key.

    """
    documents = list(_read(values))

    def locate(key: tuple[Key, ...]) -> Where:
        return next(
            (Where(one.file, one.lines[key]) for one in reversed(documents) if key in one.lines),
            anywhere(key),
        )

    objects: dict[str, Any] = {
        body["kind"]: body for body in (parse("the chart", text).data for text in rendered)
    }
    plan = Plan.parse("plan.json", objects["ConfigMap"]["data"]["plan.json"]).check_names(
        scenario.names
    )
    patches = [
        Patch(CONTROLLER_POD, (one.data.get("controller") or {}).get("pod") or {})
        for one in documents
    ]
    check_pod("the controller", objects["Job"]["spec"]["template"]["spec"], patches, locate)
    for name in scenario.names:
        job(scenario, plan, name, "", locate)
    return plan


def _read(values: Iterable[Path]) -> Iterable[Document]:
    """Read files for the sake of their lines; what helm reads and this program does not has no
    lines.
    """
    for file in values:
        try:
            yield read(file)
        except ScenarioError:
            continue
