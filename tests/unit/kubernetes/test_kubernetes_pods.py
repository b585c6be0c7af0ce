"""What pods mean for a run: their standing, and what the controller concludes."""

from __future__ import annotations

import io
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from kubernetes.client import V1Job, V1Pod

from fedskd_sim import clock
from fedskd_sim.kubernetes.pod_tracker import PodTracker
from fedskd_sim.kubernetes.pods import finding, finished, nowhere, refusal
from fedskd_sim.kubernetes.reasons import fix_of
from fedskd_sim.messages import Done, Failed
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes.supervisor import MOST_DEATHS, OWN_WORD_S, Rules

FULL = (
    "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint "
    "{nvidia.com/gpu: present}. "
    "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, "
    "1 Preemption is not helpful for scheduling."
)
NEVER = (
    "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: "
    "0/2 nodes are available: 2 Preemption is not helpful for scheduling."
)
CORDONED = (
    "0/2 nodes are available: 2 node(s) were unschedulable. preemption: "
    "0/2 nodes are available: 2 Preemption is not helpful for scheduling."
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STUCK_S = 60.0


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock stand still: nothing grows old but as a test says."""
    monkeypatch.setattr(clock, "now", lambda: 1000.0)


def pod(
    phase: str, uid: str = "1", created: datetime = NOW, *, deleted: bool = False, **status: Any
) -> V1Pod:
    """Make a pod of the hospital 'north' as the API gives it."""
    metadata: dict[str, Any] = {
        "name": "p",
        "uid": uid,
        "labels": {"fedskd.io/hospital": "north"},
        "creationTimestamp": created,
    }
    if deleted:
        metadata["deletionTimestamp"] = NOW
    return V1Pod.model_validate(
        {
            "metadata": metadata,
            "spec": {"containers": [{"name": "hospital"}]},
            "status": {"phase": phase, **status},
        }
    )


def container(**state: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": "hospital",
            "image": "i",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
    ]


def unscheduled(message: str) -> list[dict[str, Any]]:
    return [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    ]


CASES = {
    "pending": pod("Pending"),
    "full": pod("Pending", conditions=unscheduled(FULL)),
    "never": pod("Pending", conditions=unscheduled(NEVER)),
    "no claim": pod(
        "Pending",
        conditions=unscheduled('0/2 nodes are available: persistentvolumeclaim "d" not found.'),
    ),
    "no image": pod(
        "Pending",
        containerStatuses=container(waiting={"reason": "ImagePullBackOff", "message": "not found"}),
    ),
    "no secret": pod(
        "Pending",
        containerStatuses=container(
            waiting={"reason": "CreateContainerConfigError", "message": "secret"}
        ),
    ),
    "never an image": pod(
        "Pending",
        containerStatuses=container(waiting={"reason": "ErrImageNeverPull", "message": "no"}),
    ),
    "cordoned": pod("Pending", conditions=unscheduled(CORDONED)),
    "starting": pod(
        "Pending", containerStatuses=container(waiting={"reason": "ContainerCreating"})
    ),
    "running": pod("Running", containerStatuses=container(running={})),
    "leaving": pod("Running", deleted=True, containerStatuses=container(running={})),
    "done": pod("Succeeded", containerStatuses=container(terminated={"exitCode": 0})),
    "killed": pod(
        "Failed", containerStatuses=container(terminated={"exitCode": 137, "reason": "OOMKilled"})
    ),
    "no data": pod(
        "Failed", containerStatuses=container(terminated={"exitCode": 21, "reason": "Error"})
    ),
    "crash": pod(
        "Failed",
        containerStatuses=container(
            terminated={
                "exitCode": 127,
                "message": '{"event": "starting"}\nlibGL.so.1: cannot open shared object file\n\n',
            }
        ),
    ),
    "no store": pod(
        "Failed",
        initContainerStatuses=[
            one | {"name": "fetch"}
            for one in container(terminated={"exitCode": 22, "message": "curl: (22) 404"})
        ],
    ),
}


@pytest.mark.parametrize(
    ("case", "standing", "text"),
    [
        ("pending", "pending", "being made"),
        ("full", "pending", "Insufficient nvidia.com/gpu"),
        ("never", "unschedulable", "didn't match"),
        ("no image", "stuck", "cannot be pulled: not found"),
        ("no claim", "stuck", "no node can take it"),
        ("never an image", "hopeless", "may not be pulled"),
        ("cordoned", "pending", "were unschedulable"),
        ("no secret", "stuck", "does not exist: secret"),
        ("starting", "pending", ""),
        ("running", "running", ""),
        ("leaving", "leaving", "deleted"),
        ("done", "succeeded", ""),
        ("killed", "failed", "exit code 137 (OOMKilled)"),
        ("no data", "failed", "exit code 21"),
        ("crash", "failed", "exit code 127: libGL.so.1: cannot open shared object file"),
        ("no store", "failed", "its container 'fetch' ended with exit code 22: curl: (22) 404"),
    ],
)
def test_a_pod_has_one_standing_and_the_clusters_own_words(
    case: str, standing: str, text: str
) -> None:
    """Waiting for room, never to start, at work or ended: each is told apart, with the reason
    that the cluster gives.
    """
    found = finding(CASES[case])
    assert found.standing == standing
    assert text in found.text


def test_a_full_cluster_is_not_an_impossible_one() -> None:
    """Only a pod for which no node would do even when empty is impossible; a message without
    that count says nothing.
    """
    assert nowhere(NEVER)
    assert not nowhere(FULL)
    assert not nowhere("0/2 nodes are available: 2 Insufficient cpu.")


class Watched:
    """A pod tracker, and what it concludes of one hospital's pod."""

    def __init__(self, *, started: bool = False) -> None:
        self.log = io.StringIO()
        patience = {"hopeless": 0.0, "unschedulable": 0.0, "stuck": STUCK_S}
        rules = Rules(("north", "south"), patience=patience)
        self.pod_tracker = PodTracker(rules, EventLog(self.log))
        if started:
            self.pod_tracker.began({"north": "1", "south": "9"})

    def age(self, seconds: float) -> None:
        """Let what is known be older."""
        state = self.pod_tracker._state
        seen = {name: replace(one, since=one.since - seconds) for name, one in state.seen.items()}
        deaths = {
            name: {uid: since - seconds for uid, since in dead.items()}
            for name, dead in state.deaths.items()
        }
        self.pod_tracker._state = replace(state, seen=seen, deaths=deaths)

    def concludes(
        self, case: V1Pod, kind: str = "MODIFIED", after: float = 0.0
    ) -> Failed | Done | None:
        self.pod_tracker.saw(kind, case)
        self.age(after)
        return self.pod_tracker.conclusion()


LATER = OWN_WORD_S + 1


@pytest.mark.parametrize(
    ("case", "started", "code"),
    [
        ("full", False, None),
        ("never", False, 38),
        ("no image", False, None),
        ("never an image", False, 38),
        ("cordoned", False, None),
        ("killed", False, None),
        ("killed", True, 41),
        ("no data", False, 21),
        ("no store", False, None),
        ("running", True, None),
        ("leaving", True, None),
    ],
)
def test_the_controller_concludes_what_a_hospital_cannot_say(
    case: str, *, started: bool, code: int | None
) -> None:
    """A pod that will never run ends the run; a lost one does after the start only, before it
    the Job makes another.
    """
    concluded = Watched(started=started).concludes(CASES[case], after=LATER)
    assert (concluded.code if isinstance(concluded, Failed) else None) == code


def test_a_hospitals_own_word_goes_before_its_exit_code() -> None:
    """An exit code that stands for an error is told only after the hospital had time to tell the
    error itself.
    """
    watched = Watched(started=True)
    assert watched.concludes(CASES["no data"]) is None
    assert isinstance(watched.concludes(CASES["no data"], after=LATER), Failed)
    assert watched.pod_tracker.conclusion() is None


def fails(case: str, times: int, after: float = 0.0, **changes: Any) -> Failed | Done | None:
    """Let as many pods of one hospital fail before the start; gives the last conclusion."""
    watched, found = Watched(), None
    for number in range(times):
        failed = deepcopy(CASES[case])
        failed.metadata.uid = str(number)
        for name, value in changes.items():
            setattr(failed.metadata, name, value)
        found = watched.concludes(failed)
    watched.age(after)
    return found or watched.pod_tracker.conclusion()


def test_what_fails_each_time_ends_before_the_patience_does() -> None:
    """Three pods that failed by themselves before the start end the run with the last one's words;
    those that somebody took away do not count, and data that are fetched may come later.
    """
    ended = fails("killed", MOST_DEATHS)
    assert isinstance(ended, Failed)
    assert (ended.code, "3 of its pods have failed" in ended.reason) == (41, True)
    assert "resources.memory" in fix_of(ended.reason)
    assert fails("killed", MOST_DEATHS - 1) is None
    assert fails("killed", MOST_DEATHS, deletion_timestamp=NOW) is None
    assert fails("no store", MOST_DEATHS) is None
    unfetched = fails("no store", MOST_DEATHS, after=STUCK_S)
    assert isinstance(unfetched, Failed)
    assert "data.fetch" in fix_of(unfetched.reason)
    assert "log" in fix_of("its container ended with exit code 1")
    for case, fix in {
        "no image": "images.hospital",
        "no secret": "make it",
        "never": "ask",
        "no claim": "make the claim",
    }.items():
        assert fix in fix_of(finding(CASES[case]).text)


def test_a_finished_hospital_is_done_even_if_its_word_was_lost() -> None:
    """A pod that has succeeded counts as done, once."""
    watched = Watched(started=True)
    assert watched.concludes(CASES["done"]) == Done(1, "north")
    assert watched.pod_tracker.conclusion() is None


def test_a_deleted_or_replaced_pod_ends_a_run_that_has_started() -> None:
    """What it had learned is lost; before the start both are nothing. It is another pod by its
    identity, whatever clocks say.
    """
    fresh = pod("Running", uid="2")
    gone = Watched(started=True).concludes(CASES["running"], "DELETED", after=LATER)
    replaced = Watched(started=True).concludes(fresh)
    ahead = pod("Running", created=datetime.fromtimestamp(NOW.timestamp() + 60, UTC))
    assert Watched(started=True).concludes(ahead) is None
    assert isinstance(gone, Failed)
    assert isinstance(replaced, Failed)
    assert (gone.code, replaced.code) == (41, 41)
    assert Watched().concludes(CASES["running"], "DELETED", after=LATER) is None
    assert Watched().concludes(fresh) is None


def test_why_no_pod_is_made_is_told() -> None:
    """A pod that security refuses ends the run with the cluster's words; one over a quota waits;
    the summary names everybody.
    """
    watched = Watched()
    watched.pod_tracker.note_refusals({"north": 'violates PodSecurity "restricted"'})
    concluded = watched.pod_tracker.conclusion()
    assert isinstance(concluded, Failed)
    assert "violates PodSecurity" in concluded.reason
    away = Watched()
    away.pod_tracker.note_refusals({"north": 'failed calling webhook "w": connection refused'})
    assert away.pod_tracker.conclusion() is None
    away.age(STUCK_S)
    ended = away.pod_tracker.conclusion()
    assert isinstance(ended, Failed)
    assert (ended.code, "connection refused" in ended.reason) == (38, True)
    waiting = Watched()
    waiting.pod_tracker.note_refusals({"south": "exceeded quota: gpus"})
    assert waiting.pod_tracker.conclusion() is None
    assert (
        waiting.pod_tracker.summary()
        == "south: its pod cannot be created: exceeded quota: gpus; north: no pod"
    )
    assert list(waiting.pod_tracker.without_pod()) == ["north"]
    assert "exceeded quota: gpus" in waiting.log.getvalue()


REASONS = {
    'pods "a" is forbidden: violates PodSecurity "restricted:latest"': "hopeless",
    'pods "a" is forbidden: maximum memory usage per Container is 100Mi, but limit is '
    "256Mi": "hopeless",
    'pods "a" is forbidden: unable to validate against any security context constraint': "hopeless",
    'Pod "a" is invalid: spec.containers[0].image: Required value': "hopeless",
    'pods "a" is forbidden: exceeded quota: gpus': "pending",
    'Internal error occurred: failed calling webhook "w": context deadline exceeded': "stuck",
    "etcdserver: request timed out": "stuck",
    'serviceaccount "x" not found': "stuck",
}


@pytest.mark.parametrize("text", REASONS)
def test_only_what_cannot_heal_is_final(text: str) -> None:
    """What the cluster tries again is given time; what it would refuse every time is not."""
    assert refusal(text).standing == REASONS[text]


def test_a_job_that_was_let_go_has_not_ended() -> None:
    """Every hospital's Job has the condition that it is not suspended; only the end ends it."""

    def job(*conditions: tuple[str, str]) -> Any:
        status = {"conditions": [{"type": kind, "status": value} for kind, value in conditions]}
        return V1Job.model_validate({"metadata": {"name": "j"}, "status": status})

    assert not finished(job())
    assert not finished(job(("Suspended", "False")))
    assert finished(job(("Suspended", "False"), ("Failed", "True")))
    assert finished(job(("Complete", "True")))
