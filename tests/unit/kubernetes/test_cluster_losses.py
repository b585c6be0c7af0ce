"""A run in a cluster that has gone on without a hospital, as its launcher brings it home and as
`status` shows it.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import V1Job, V1Pod
from test_log_collector import BEGIN, Served, entry, event, pod

from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.kubernetes.inspection import remarks
from fedskd_sim.kubernetes.job_annotations import BACK, LOST
from fedskd_sim.kubernetes.runtime import KubernetesRuntime
from fedskd_sim.records import Record
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.base import Order
from fedskd_sim.scenario import load

NAMES = ("a", "b", "c")
TEXT = """
name: heals
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer},
            {name: c, architecture: buffer}]
algorithm: {name: placebo, rounds: 1}
on_loss: skip
"""


class Cluster(Served):
    """A cluster whose controller has ended well; nobody holds anything in a pod."""

    def __init__(
        self, logs: dict[str, list[str]], lost: dict[str, int], *pods: V1Pod, **back: int
    ) -> None:
        self.logs, self.lost, self.back, self.all = logs, lost, back, list(pods)

    def pods(self, release: str) -> list[V1Pod]:
        assert release == "heals"
        return self.all

    def jobs(self, release: str) -> list[V1Job]:
        assert release == "heals"
        return [
            job("", {"succeeded": 1}, {LOST: json.dumps(self.lost), BACK: json.dumps(self.back)}),
            *(job(name, {"failed": 2}) for name in NAMES),
        ]

    def lines(self, pod: str, member: str, *, follow: bool) -> Any:
        assert (member, follow) in {(name, True) for name in (*NAMES, "controller")}
        yield from self.logs[pod.removeprefix("pod-")]

    def workloads(self) -> list[Any]:
        return []


def job(hospital: str, status: dict[str, int], annotations: dict[str, str] | None = None) -> V1Job:
    labels = {"fedskd.io/hospital": hospital} if hospital else {}
    metadata = {
        "name": f"j-{hospital}",
        "labels": labels,
        "creationTimestamp": BEGIN + timedelta(0),
        "annotations": annotations or {},
    }
    return V1Job.model_validate({"metadata": metadata, "status": status})


def told(host: str, *models: str, **without: int) -> list[str]:
    """Make the log of a hospital that has tested some models."""
    records = [
        Record(
            "heals", 1, "evaluation", 2, hop, host, model, "buffer", "evaluated", without=without
        )
        for hop, model in enumerate(models)
    ]
    return [*map(entry, records), event("holding", host)]


def collect(
    folder: Path,
    logs: dict[str, list[str]],
    lost: dict[str, int],
    *,
    heard: bool = True,
    **back: int,
) -> None:
    """Bring a run home of which c's pod still runs and says nothing more, and let it go."""
    (folder / "scenario.yaml").write_text(TEXT, encoding="utf-8")
    loaded = load(folder / "scenario.yaml")
    made = folders.make(loaded, folder / "run", "kubernetes")
    location.note(made, location.InCluster("heals", "n", "c"))
    said = [json.dumps({"event": "lost", "time": 1.0, "epoch": 2, "hospitals": lost})]
    pods = [pod("0", "", "Succeeded"), *(pod(name, name) for name in NAMES)]
    place = KubernetesRuntime("heals", "n", "c")
    place.reach = Cluster({"0": said if lost and heard else [], **logs}, lost, *pods, **back)  # type: ignore[assignment]
    place.attach(Order(loaded, "", made))
    try:
        place.wait(lambda _: None)
        place.accept()
    finally:
        place.stop()


@pytest.mark.parametrize(
    ("lost", "models"), [({"c": 0}, "abc"), ({"c": 2}, "ab")], ids=["travels", "retired"]
)
def test_a_run_that_went_on_is_whole_without_who_is_lost(
    lost: dict[str, int], models: str, removed: list[str], tmp_path: Path
) -> None:
    """Neither are its records asked for nor is it waited for, though its pod still runs; nor a
    model that has retired.
    """
    logs = {name: told(name, *models, **lost) for name in "ab"}
    collect(tmp_path, logs | {"c": [event("starting", "c")]}, lost)
    assert removed == ["heals"]


@pytest.mark.parametrize(("lost", "models", "named"), [({}, "abc", "c"), ({"c": 0}, "ab", "a, b")])
def test_what_a_loss_does_not_explain_is_missing(
    lost: dict[str, int], models: str, named: str, removed: list[str], tmp_path: Path
) -> None:
    """Who is not lost must have tested, and a model that travels on must have been tested."""
    logs = {name: told(name, *models, **lost) for name in "ab"}
    with pytest.raises(ClusterUnavailable, match=f"not all records of {named} could be read"):
        collect(tmp_path, logs | {"c": [event("holding", "c")]}, lost)
    assert removed == []


def test_status_tells_of_a_loss_and_of_no_failure() -> None:
    """The ring goes on without one, whose next pod nobody waits for, and the run has ended well."""
    pods = [pod("0", "", "Succeeded"), pod("1", "a"), pod("2", "c", "Failed")]
    said = list(remarks(Cluster({}, {"c": 0}, *pods), "heals"))  # type: ignore[arg-type]
    assert "the ring goes on without c, as on_loss of the scenario wants it" in said
    assert said[-1] == "the run has ended well"
    assert [line for line in said if "the cluster makes the next" in line] == [
        "b: lost 2 pods; the cluster makes the next 20 s after the last was lost"
    ]


def test_what_a_controller_that_is_no_more_has_logged_is_noted_on_its_job(
    removed: list[str], tmp_path: Path
) -> None:
    """Its log is gone with its pod, and who was lost is known all the same."""
    logs = {name: told(name, *"abc", c=0) for name in "ab"}
    collect(tmp_path, logs | {"c": [event("starting", "c")]}, {"c": 0}, heard=False)
    assert removed == ["heals"]


def test_who_is_back_owes_its_records(removed: list[str], tmp_path: Path) -> None:
    """They are waited for and asked for as those of the others; once it is lost again, they are
    not.
    """
    logs = {name: told(name, *"abc", c=0) for name in "ab"} | {"c": [event("holding", "c")]}
    (tmp_path / "back").mkdir()
    with pytest.raises(ClusterUnavailable, match="not all records of c could be read"):
        collect(tmp_path / "back", logs, {"c": 0}, c=4)
    assert removed == []
    (tmp_path / "away").mkdir()
    collect(tmp_path / "away", logs, {"c": 0}, c=5)
    assert removed == ["heals"]


def test_status_tells_who_is_back() -> None:
    """The ring goes on without nobody then."""
    said = list(remarks(Cluster({}, {"c": 0}, pod("0", "", "Succeeded"), c=6), "heals"))  # type: ignore[arg-type]
    assert "c was lost, and is one of the ring again from round 3 on" in said
    assert not [line for line in said if "goes on without" in line]
