"""What a cluster says of pods, claims, nodes and calls that come to nothing: one table of its
words, what they mean for a run, and what to do; pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from fedskd_sim.runtimes.supervisor import Standing

Place = Literal["container", "scheduler", "job", "event", "end", "call", "user"]
NO_NODE, UNMADE = "no node can take it", "its pod cannot be created"
NO_IMAGE, MISSING = "its image cannot be pulled", "something it mounts or reads does not exist"
NO_VOLUME = "its claim has no volume yet"
STARTING, QUEUED = "its containers are being made", "waits in a queue of the cluster"
IMAGE_FIX = (
    "correct images.hospital of the chart's values, or bring the image to where the nodes find it"
)
MAKE_FIX = "make it, or correct its name in the chart's values"
LESS_FIX = (
    "ask for less, or correct where the pod may go: resources of the scenario, hospitals.defaults "
    "of the chart's values"
)
REFUSED_FIX = (
    "change what the cluster refuses: resources of the scenario, hospitals.defaults of the chart's "
    "values"
)
QUOTA_FIX = "remove what has ended and still counts, or have the quota raised: kubectl get quota"
DISK_FIX = (
    "give it more room: hospitals.defaults.sizeLimit, or requests and limits of ephemeral-storage, "
    "of the chart's values"
)
KEEP_FIX = (
    "let hospitals keep what they have on claims (hospitals.defaults.custody.claim of the chart's "
    "values), and the next pod goes on"
)
EVENTS_FIX = "see the events of the namespace: kubectl get events"
LOGIN_FIX = "log in to the cluster again, or correct the user of the context in KUBECONFIG"
RIGHTS = "ask for the rights in the namespace that the chart's README lists"
ROLE_FIX = (
    "install the chart with rbac.create, or give the controller's account the rights of its Role"
)


class Reason(NamedTuple):
    """One thing that a cluster may say."""

    place: Place
    """Where: why a container waits, the scheduler's message, a Job without a pod, an event of a
    pod, its claim or its node, how a pod ended, the answer to a call of the controller (``call``)
    or of the user."""
    says: str
    """A regular expression for its reason or message."""
    standing: Standing
    """How a pod of which this is said stands."""
    told: str
    """In our words; empty where the cluster's are enough."""
    fix: str


REASONS = (
    Reason("container", "^ErrImageNeverPull$", "hopeless",
           "its image is not on the node and may not be pulled", IMAGE_FIX),
    Reason("container", "^InvalidImageName$", "hopeless", "its image has no valid name", IMAGE_FIX),
    Reason("container", "^(ErrImagePull|ImagePullBackOff|RegistryUnavailable|ImageInspectError)$",
           "stuck", NO_IMAGE, IMAGE_FIX),
    Reason("container", "^CreateContainerConfigError$", "stuck", MISSING, MAKE_FIX),
    Reason("container", "^CreateContainerError$", "stuck", "its container cannot be made",
           EVENTS_FIX),
    Reason("container", "^RunContainerError$", "stuck", "its container cannot be started",
           EVENTS_FIX),
    # events of a pod that was scheduled and does not start, of its claims, of its node
    Reason("event", "^FailedMount: .*not found", "stuck", MISSING, MAKE_FIX),
    Reason("event", "^FailedMount: .*failed to sync (secret|configmap) cache: timed out", "pending",
           STARTING, EVENTS_FIX),
    Reason("event", "Multi-Attach error", "pending", "its volume is still on another node",
           "wait until the pod there has gone; a node that is lost keeps it until it is deleted"),
    Reason("event", "^(FailedMount|FailedAttachVolume|FailedMapVolume): ", "stuck",
           "what it mounts cannot be mounted", EVENTS_FIX),
    Reason("event", "^(FailedCreatePodSandBox|NetworkNotReady): ", "stuck",
           "its node cannot make it", "look at that node and at its network plugin"),
    Reason("event", "^ProvisioningFailed: .*storageclass.*not found", "stuck", NO_VOLUME,
           "name a storage class that there is in the claim: kubectl get storageclass"),
    Reason("event", "^FailedBinding: ", "stuck", NO_VOLUME,
           "name a storage class in the claim, or make a volume for it"),
    Reason("event", "^(ProvisioningFailed|ExternalProvisioning|Provisioning): ", "pending",
           NO_VOLUME, "see what its claim waits for: kubectl describe pvc"),
    Reason("event", "^(NodeNotReady|NodeHasDiskPressure|NodeHasInsufficientMemory|SystemOOM|"
           "KernelDeadlock|DeletingNode|RemovingNode|NodeShutdown): ", "pending",
           "its node is not well", "look at that node: kubectl describe node"),
    # what a scheduler says: claims and volumes first, then nodes that may come back
    Reason("scheduler", 'persistentvolumeclaim "[^"]*" not found', "stuck", NO_NODE,
           "make the claim, or correct its name in the chart's values"),
    Reason("scheduler", "unbound immediate PersistentVolumeClaims", "pending", NO_NODE,
           "see what its claim waits for: kubectl describe pvc"),
    Reason("scheduler", r"were unschedulable|untolerated taint \{node\.kubernetes\.io/", "pending",
           NO_NODE, "wait until the nodes are back, or let the pod go elsewhere"),
    Reason("scheduler", "volume node affinity conflict", "unschedulable", NO_NODE,
           "the volume of its claim is on another node than those it may go to: correct where the "
           "pod may go, or make the claim anew"),
    Reason("scheduler", "", "unschedulable", NO_NODE, LESS_FIX),
    # why a Job has no pod: a quota may become free, a webhook may come back
    Reason("job", "exceeded quota", "pending", UNMADE, QUOTA_FIX),
    Reason("job", "violates PodSecurity|security context constraint|is invalid|"
           "forbidden: (maximum|minimum)", "hopeless", UNMADE, REFUSED_FIX),
    Reason("job", "failed calling webhook", "stuck", UNMADE,
           "look at that webhook, which is not the chart's"),
    Reason("job", 'serviceaccount "[^"]*" not found', "stuck", UNMADE,
           "install the chart with serviceAccount.create, or make the accounts"),
    Reason("job", "", "stuck", UNMADE, REFUSED_FIX),
    # how pods end
    Reason("end", "OOMKilled", "failed", "",
           "give it more memory: resources.memory of that hospital in the scenario"),
    Reason("end", "container 'fetch'", "failed", "",
           "see hospitals.defaults.data.fetch of the chart's values, or of that hospital's own"),
    Reason("end", "exceeds the limit|local storage usage|low on resource: ephemeral", "failed", "",
           DISK_FIX),
    Reason("end", "low on resource", "failed", "",
           "ask for as much as it takes, or for nodes that have more: resources of the scenario, "
           "hospitals.defaults.requests of the chart's values"),
    Reason("end", "node no longer exists|DeletionByPodGC", "failed", "its node is gone",
           f"use nodes that stay, or {KEEP_FIX}"),
    Reason("end", "[Pp]reempt", "failed", "",
           f"give pods a priority (priorityClassName in hospitals.defaults.pod), or {KEEP_FIX}"),
    Reason("end", "Eviction API: evicting|Taint manager|[Nn]ode (was )?(shut|is shutting)"
           "|node shutdown", "failed", "", KEEP_FIX),
    Reason("end", "was deleted|is being deleted|was replaced", "failed", "", KEEP_FIX),
    Reason("end", "Pod was rejected|OutOf|UnexpectedAdmissionError|Predicate", "failed",
           "its node refused it", EVENTS_FIX),
    # refusals of the API server, as "status: message"
    Reason("call", "^401", "stuck", "the controller's account is not known",
           "see whether the account of the chart's values is there, and the cluster's clocks"),
    Reason("call", "^403.*exceeded quota", "pending", "", QUOTA_FIX),
    Reason("call", "^403.*(is forbidden: User|cannot [a-z]+ resource)", "hopeless", "", ROLE_FIX),
    Reason("call", "^403", "hopeless", "", REFUSED_FIX),
    Reason("call", "^4(00|22)", "hopeless", "",
           "correct the chart's values, or the hospital's resources in the scenario"),
    Reason("call", "", "stuck", "", ROLE_FIX),
    Reason("user", "^401", "stuck", "the cluster does not know who you are", LOGIN_FIX),
    Reason("user", "^403.*exceeded quota", "pending", "the cluster forbids it", QUOTA_FIX),
    Reason("user", "^403", "hopeless", "the cluster forbids it", RIGHTS),
    Reason("user", "", "stuck", "the cluster does not answer",
           "check KUBECONFIG, --context and the network, and try again"),
    # what is known of a pod that nothing is said of
    Reason("end", QUEUED, "queued", "", "wait, or see its place in the queue: fedskd-sim status"),
    Reason("end", STARTING, "pending", "", EVENTS_FIX),
)  # fmt: skip
"""Of one place the first row that fits counts."""
SOURCES = ("container", "scheduler", "job", "event", "end")
"""From where the words for a hospital's end may come."""


OF_PODS = re.compile(f"its (pod|container|node)|of its pods|{QUEUED}|{STARTING}")
"""What words for a pod begin with; a hospital's own are of its error."""


def reason(place: Place, said: str) -> Reason | None:
    """Return what words of a cluster mean, by where they stand; None where no row fits."""
    return next((row for row in REASONS if row.place == place and re.search(row.says, said)), None)


def answer(place: Place, said: str) -> Reason:
    """Return the same of a place whose last row fits anything: ``scheduler``, ``job``, ``call``,
    ``user``.
    """
    return next(row for row in REASONS if row.place == place and re.search(row.says, said))


def fix_of(text: str, otherwise: str = "see the log of that hospital") -> str:
    """Return what to do about a pod, from the words for it (our own, then the cluster's);
    ``otherwise`` where the table has nothing.
    """
    for row in REASONS:
        ours = row.told in text if row.told else OF_PODS.search(text)
        said = row.place == "container" or re.search(row.says.lstrip("^"), text)
        if row.place in SOURCES and ours and said:
            return row.fix
    return otherwise


class Told(NamedTuple):
    """A row of the table, and the cluster's own words."""

    reason: Reason
    said: str

    @property
    def text(self) -> str:
        """Both in one line."""
        return f"{self.reason.told}: {self.said}"


def last_event(pod: Any, events: Iterable[Any], *kinds: str) -> Told | None:
    """Find what was said last of a pod (V1Pod), of its claims and of its node, where the table has
    it.

    Of each only the newest event (CoreV1Event) counts: what failed before something went on is
    over.

    Args:
        pod: of whom it was said.
        events: in any order, of others too.
        kinds: what is looked at: ``Pod``, ``PersistentVolumeClaim``, ``Node``; the first of them
            with a row goes before the others.

    """
    newest: dict[str, Any] = {}
    for event in sorted(events, key=_when):
        about = event.involved_object
        if about.kind in kinds and _concerns(pod, about):
            newest[about.kind] = event
    for kind in kinds:
        if kind in newest:
            said = f"{newest[kind].reason}: {newest[kind].message}"
            if row := reason("event", said):
                return Told(row, said)
    return None


def claims_of(pod: Any) -> set[str]:
    """Name the claims that a pod (V1Pod) mounts."""
    mounted = (volume.persistent_volume_claim for volume in pod.spec.volumes or ())
    return {claim.claim_name for claim in mounted if claim}


def _concerns(pod: Any, about: Any) -> bool:
    match about.kind:
        case "Pod":
            return bool(about.uid == pod.metadata.uid)
        case "PersistentVolumeClaim":
            return about.name in claims_of(pod)
    return bool(about.name == pod.spec.node_name)


def _when(event: Any) -> float:
    series = event.series and event.series.last_observed_time
    when = series or event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return float(when.timestamp()) if when else 0.0
