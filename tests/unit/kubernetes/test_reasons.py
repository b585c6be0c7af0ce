"""Whose fault it is: what a run says of objects as a cluster had them. `told_by_clusters.json` has
pods with their events, refusals of calls and events of Jobs; each case says whether it was recorded
or made after Kubernetes' documents.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import CoreV1Event, V1Job, V1Pod
from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.errors import RegistrationTimeout
from fedskd_sim.kubernetes import inspection, reach
from fedskd_sim.kubernetes.cluster import refusal as of_call
from fedskd_sim.kubernetes.inspection import ControllerWatch
from fedskd_sim.kubernetes.pod_tracker import PodTracker
from fedskd_sim.kubernetes.pods import finding, refusal
from fedskd_sim.kubernetes.reasons import REASONS, fix_of
from fedskd_sim.kubernetes.run_controller import RunController
from fedskd_sim.messages import Failed
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes.supervisor import OWN_WORD_S, Rules

RECORDED = json.loads((Path(__file__).parent / "told_by_clusters.json").read_text("utf-8"))


def pod(case: str) -> V1Pod:
    return V1Pod.model_validate(RECORDED["cases"][case]["pod"])


def told(case: str) -> list[CoreV1Event]:
    return [
        CoreV1Event.model_validate({"reportingComponent": "", "reportingInstance": "", **one})
        for one in RECORDED["cases"][case]["events"]
    ]


PODS = {
    "node taken back": ("failed", "its node is gone: PodGC: node no longer exists", "nodes that"),
    "disk": ("failed", 'code 137: Usage of EmptyDir volume "temporary" exceeds', "sizeLimit"),
    "node low on disk": ("failed", "low on resource: ephemeral-storage", "sizeLimit"),
    "node low on memory": ("failed", "low on resource: memory", "ask for as much"),
    "memory": ("failed", "exit code 137 (OOMKilled)", "resources.memory"),
    "secret": ("stuck", ('does not exist: FailedMount: MountVolume.SetUp failed for volume "key" : '
               'secret "nope" not found'), "make it"),
    "node asks for secret": ("pending", "its containers are being made: FailedMount: MountVolume",
                             "kubectl get events"),
    "setting": ("stuck", 'does not exist: secret "nope" not found', "make it"),
    "multi-attach": ("pending", "still on another node: FailedAttachVolume: Multi-Attach", "gone"),
    "no sandbox": ("stuck", "its node cannot make it: FailedCreatePodSandBox", "network plugin"),
    "pulling": ("pending", "its containers are being made", "kubectl get events"),
    "node not ready": ("pending", "its node is not well: NodeNotReady", "describe node"),
    "image": ("stuck", "its image cannot be pulled: ", "images.hospital"),
    "claim noclass": ("stuck", 'ProvisioningFailed: storageclass.storage.k8s.io "nope" not found',
                      "kubectl get storageclass"),
    "claim slow": ("pending", "its claim has no volume yet: ExternalProvisioning", "describe pvc"),
    "claim static": ("stuck", "FailedBinding: no persistent volumes available", "storage class"),
    "claim missing": ("stuck", 'persistentvolumeclaim "missing" not found', "make the claim"),
    "claim before 1.34": ("pending", "unbound immediate PersistentVolumeClaims", "describe pvc"),
    "volume elsewhere": ("unschedulable", "volume node affinity conflict", "another node"),
    "no such node": ("unschedulable", "didn't match Pod's node affinity", "ask for less"),
    "too few GPUs": ("unschedulable", "Insufficient nvidia.com/gpu", "ask for less"),
    "preempted": ("failed", "code 143: default-scheduler: preempting", "priorityClassName"),
    "queue preempts": ("failed", "code 143: Preempted to accommodate", "priorityClassName"),
    "evicted": ("failed", "code 143: Eviction API: evicting", "claims"),
    "tainted": ("failed", "code 143: Taint manager: deleting", "claims"),
    "node shut down": ("failed", "code 137: Pod was terminated in response to imminent node shut",
                       "claims"),
    "node refuses": ("failed", "its node refused it: Pod was rejected", "kubectl get events"),
    "deleted": ("failed", "code 143: its pod was deleted", "claims"),
}  # fmt: skip


def test_every_recorded_case_is_held() -> None:
    """None lies there without being looked at."""
    assert PODS.keys() == RECORDED["cases"].keys()


@pytest.mark.parametrize("case", PODS)
def test_a_pod_is_told_of_in_the_clusters_own_words(case: str) -> None:
    """How it stands, why, and what to do about it; never a log where there is none."""
    standing, words, fix = PODS[case]
    found = finding(pod(case), told(case))
    assert found.standing == standing
    assert words in found.text
    assert fix in fix_of(f"'north' failed: {found.text}")


def test_without_events_a_pod_only_waits() -> None:
    """Neither a secret nor a claim is guessed at."""
    assert finding(pod("secret")).text == "its containers are being made"
    assert "unbound" in finding(pod("claim slow")).text
    assert finding(pod("secret"), told("claim noclass")).text == "its containers are being made"


CALLS = {
    "job quota": ("exceeded quota: jobs", "kubectl get quota", "kubectl get quota"),
    "rights": ('cannot list resource "jobs"', "rbac.create", "rights in the namespace"),
    "login": ("Unauthorized", "account", "log in"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_refused_call_is_no_missing_right_that_is_none(case: str) -> None:
    """A quota, a right and a login are three things, for the controller and for its user."""
    body = RECORDED["calls"][case]
    error = ApiException(status=body["code"], reason=body["reason"])
    error.body = json.dumps(body)
    words, inside, outside = CALLS[case]
    for refused, fix in ((of_call("list jobs", error), inside), (reach.refused(error), outside)):
        assert words in refused.message
        assert fix in refused.fix
        assert ("namespace" in refused.message) == (case == "rights")


def test_why_a_job_has_no_pod_has_a_fix_of_its_own() -> None:
    """A quota is waited for, what is invalid never; neither sends anybody to a log."""
    said = [one["message"] for one in RECORDED["jobs"]]
    found = {refusal(text).standing: fix_of(refusal(text).text) for text in said}
    assert found.keys() == {"hopeless", "pending"}
    assert "change what the cluster refuses" in found["hopeless"]
    assert "quota" in found["pending"]


def test_every_row_says_what_to_do() -> None:
    """No row sends to the log of a hospital, and none hides behind one that fits anything."""
    for number, row in enumerate(REASONS):
        assert row.fix
        assert "log of" not in row.fix
        before = [one for one in REASONS[:number] if one.place == row.place]
        assert all(one.says for one in before)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until a test moves it."""
    now = [1000.0]
    for name in ("now", "unix"):
        monkeypatch.setattr(clock, name, lambda: now[0])
    return now


def tracker(*names: str) -> PodTracker:
    rules = Rules(names, patience={"stuck": 60.0, "hopeless": 0.0, "unschedulable": 15.0})
    return PodTracker(rules, EventLog(io.StringIO()))


def test_events_tell_the_controller_why_a_pod_does_not_start(later: list[float]) -> None:
    """A secret that is not there ends a run when patience is over, and what a pod is told to be
    stays until its events say something else; one that is over says nothing.
    """
    track = tracker("north")
    track.saw("ADDED", pod("secret"))
    assert track.complains()
    assert "being made" in track.summary()
    track.told(told("secret"), {})
    track.saw("MODIFIED", pod("secret"))
    assert 'secret "nope" not found' in track.summary()
    assert track.conclusion() is None
    track.told(told("pulling"), {})
    assert "being made" in track.summary()
    track.told(told("secret"), {})
    later[0] += 61
    ended = track.conclusion()
    assert isinstance(ended, Failed)
    assert (ended.code, '"nope" not found' in ended.reason) == (38, True)
    track.saw("DELETED", pod("secret"))
    track.told(told("secret"), {})
    assert track._idle == {}


def test_a_claim_that_is_being_provisioned_ends_no_run(later: list[float]) -> None:
    """However the scheduler of the day says it."""
    for case in ("claim slow", "claim before 1.34"):
        track = tracker("north")
        track.saw("ADDED", pod(case))
        track.told(told(case), {})
        later[0] += 3600
        assert track.conclusion() is None


@pytest.mark.parametrize("case", ["node taken back", "preempted", "disk"])
def test_a_pod_that_was_taken_away_is_the_clusters_doing(case: str, later: list[float]) -> None:
    """After the start the run ends with the cluster's words for it."""
    track = tracker("north", "south")
    gone = pod(case)
    track.began({"north": gone.metadata.uid[:8], "south": "9"})
    track.saw("MODIFIED", gone)
    later[0] += OWN_WORD_S + 1
    ended = track.conclusion()
    assert isinstance(ended, Failed)
    assert (ended.code, ended.hospital) == (41, "north")
    assert PODS[case][1] in ended.reason


def test_a_ring_that_does_not_form_says_what_is_in_the_way() -> None:
    """Where a hospital never had a pod nobody is sent to its log."""
    track = tracker("north")
    track.saw("ADDED", pod("claim noclass"))
    track.told(told("claim noclass"), {})
    controller: Any = SimpleNamespace(pod_tracker=track)
    late = RegistrationTimeout("north did not register", key=("timeouts", "register"))
    RunController._explain(controller, late)
    assert "storageclass" in late.message
    assert "kubectl get storageclass; or raise startupSeconds" in late.fix


def test_the_launcher_reads_the_events_of_a_controller_that_does_not_start() -> None:
    """A missing run secret is told by its name, at once."""
    waits = pod("secret")
    waits.metadata.labels = {"app.kubernetes.io/component": "controller", "fedskd.io/run": "r"}
    asked: Any = SimpleNamespace(events=lambda _: told("secret"), namespace="n")
    mine = V1Job.model_validate(
        {"metadata": {"name": "c", "labels": {}}, "status": {}, "spec": {
            "template": {"metadata": {}, "spec": {"containers": [{"name": "controller"}]}}}}
    )  # fmt: skip
    (line,) = ControllerWatch(asked, "r").look([waits], [mine])
    assert 'secret "nope" not found' in line.what.reason  # type: ignore[union-attr]
    assert inspection.explained(asked, waits).standing == "stuck"
