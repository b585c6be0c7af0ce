"""What an installation would send to the cluster, checked before anything is: pods that the API
does not know are told by line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from fedskd_sim.errors import Key, ScenarioError, Where
from fedskd_sim.runtimes.kubernetes.jobs import check_pod, job
from fedskd_sim.runtimes.kubernetes.overlay import Patch, anywhere
from fedskd_sim.runtimes.kubernetes.overlay import check as check_patch
from fedskd_sim.runtimes.kubernetes.plan import Plan
from fedskd_sim.scenario import Scenario
from fedskd_sim.scenario.document import Document, parse, read

CONTROLLER_POD = ("controller", "pod")
POD_KEYS = (("pod",), ("gpu", "pod"))


def check(scenario: Scenario, render: Callable[[], Iterable[str]], values: Iterable[Path]) -> Plan:
    """Check the pods of all members.

    Args:
        scenario: of the run.
        render: gives the run's ConfigMap and the controller's Job, as the chart writes them; it
            refuses mistaken patches too, but knows no files, and is asked when they are checked.
        values: files of the chart's values; the last one that has a key is to blame for it.

    Returns:
        The place of the run, as the chart makes it.

    Raises:
        InvalidValue: a pod is none, or a patch has mistakes; the error names file and line of the
            values, or the key.

    """
    documents = list(_read(values))

    def locate(key: tuple[Key, ...]) -> Where:
        return next(
            (Where(one.file, one.lines[key]) for one in reversed(documents) if key in one.lines),
            anywhere(key),
        )

    for patch in _patches(documents):
        check_patch(patch, locate)
    objects: dict[str, Any] = {
        body["kind"]: body for body in (parse("the chart", text).data for text in render())
    }
    plan = Plan.parse("plan.json", objects["ConfigMap"]["data"]["plan.json"]).check_names(
        scenario.names
    )
    patches = [one for one in _patches(documents) if one.place == CONTROLLER_POD]
    check_pod("the controller", objects["Job"]["spec"]["template"]["spec"], patches, locate)
    for name in scenario.names:
        job(scenario, plan, name, "", locate)
    return plan


def _patches(documents: Iterable[Document]) -> Iterator[Patch]:
    """List the patches of pods that stand in files of values; whatever else is wrong with one is
    helm's to say.
    """
    for document in documents:
        named = _part(_part(document.data, "hospitals"), "overrides")
        members = [("defaults",), *(("overrides", name) for name in named)]
        places = [("hospitals", *member, *key) for member in members for key in POD_KEYS]
        for place in (*places, CONTROLLER_POD):
            yield Patch(place, reduce(_part, place, document.data))


def _part(values: Any, key: Key) -> Mapping[str, Any]:
    inner = values.get(key) if isinstance(values, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _read(values: Iterable[Path]) -> Iterable[Document]:
    """Read files for the sake of their lines; what helm reads and this program does not has no
    lines.
    """
    for file in values:
        try:
            yield read(file)
        except ScenarioError:
            continue
