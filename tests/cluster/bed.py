"""What a cluster test works with: a namespace of its own, installed runs, pods that try
something, and waits with deadlines.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

import fedskd_sim

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "fedskd-sim"
SCENARIOS = ROOT / "scenarios"
TAG = os.environ.get("FEDSKD_TEST_TAG", fedskd_sim.__version__)
INSTANCE = "app.kubernetes.io/instance"
CONTROLLER = "app.kubernetes.io/component=controller,fedskd.io/run"
HOSPITAL = "fedskd.io/hospital"
IMAGES = {name: {"tag": TAG} for name in ("controller", "hospital")}
KEPT = {"custody": {"claim": "kept-{hospital}"}}
"""Settings of three hospitals on the claims of the fixture."""
PATIENCE_S = 600
"""How long anything may take that comes by itself: many times what it takes on a quiet machine."""
COMMAND_S = 900
"""How long a command may take, which may be a run."""
LOOK_S = 0.5
GROUPS = {"jobs": "/apis/batch/v1"}
"""Where the API server has kinds that are not of its core."""
Object = dict[str, Any]
Result = TypeVar("Result")


def call(*command: object, given: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [*map(str, command)],
        input=given,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
        **options,
    )


def command(*arguments: object) -> list[str]:
    """Give the line that starts the program."""
    return [sys.executable, "-m", "fedskd_sim", *map(str, arguments)]


def cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, to its end."""
    return call(*command(*arguments), **options)


def kubectl(*arguments: object, given: str = "") -> str:
    """Return what kubectl prints; AssertionError if it refuses."""
    done = call("kubectl", *arguments, given=given)
    assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


@cache
def api() -> str:
    """Start a proxy to the API server, which ends with the tests, and give its address. Waits
    look through it many times a second, which would each be a kubectl otherwise.
    """
    proxy = subprocess.Popen(
        ["kubectl", "proxy", "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(proxy.kill)
    assert proxy.stdout
    return "http://" + proxy.stdout.readline().split()[-1]


def read(path: str, **query: str) -> str:
    """Read what the API server has at a path; empty if there is nothing yet. What it cannot
    answer now is asked again.
    """

    def look() -> list[str]:
        try:
            with urlopen(f"{api()}{path}?{urlencode(query)}", timeout=PATIENCE_S) as answer:
                return [answer.read().decode()]
        except HTTPError as error:
            return [""] if error.code in (400, 404) else []
        except (URLError, HTTPException, ConnectionError, TimeoutError):
            return []

    return until(f"answer to {path}", look)[0]


def until(what: str, look: Callable[[], Result]) -> Result:
    """Look again and again until there is something; TimeoutError says what there was not. The last
    look begins when the time is over, however long the machine has stood still before.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        late = time.monotonic() > deadline
        if found := look():
            return found
        if late:
            raise TimeoutError(f"no {what} within {PATIENCE_S} s")
        time.sleep(LOOK_S)


def at_once(looks: Mapping[str, Callable[[], Result]]) -> dict[str, Result]:
    """Do several things beside each other, which mostly wait; gives what came of each."""
    with ThreadPoolExecutor(len(looks)) as pool:
        begun = {name: pool.submit(look) for name, look in looks.items()}
        return {name: one.result() for name, one in begun.items()}


@contextmanager
def away(program: str = "kube-apiserver") -> Iterator[None]:
    """Let the API server, or another program of the cluster, stand still; skips where its process
    is not known (it is listed beside the test cluster's KUBECONFIG). Ends when the API server
    answers.
    """
    if not listed().is_file():
        pytest.skip(f"the process of {program} is not known here")
    found = dict(line.split()[::-1] for line in listed().read_text(encoding="utf-8").splitlines())
    process = int(found[program])
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
        read("/readyz")


def listed() -> Path:
    """Name the list of the test cluster's processes, where it is on this machine."""
    return Path(os.environ.get("KUBECONFIG", "")).parent / "pids"


def process_of(pod: Object) -> int:
    """Find the hospital's process of a pod on this machine, by the host name that it was given;
    skips where the cluster is elsewhere.
    """
    mark = f"HOSTNAME={pod['spec']['hostname']}\0".encode()
    uid = pod["metadata"]["uid"]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = mark in (entry / "environ").read_bytes()
            if inside and uid in (entry / "cgroup").read_text(encoding="utf-8").replace("_", "-"):
                return int(entry.name)
        except OSError:
            continue
    assert not listed().is_file(), f"no process of {pod['metadata']['name']}, which runs here"
    pytest.skip("the processes of pods cannot be seen from here")


def rotate_log(pod: Object) -> None:
    """Leave only the end of the log of a hospital that is done, as a kubelet does which has rotated
    it; skips where the cluster is elsewhere.
    """
    if not listed().is_file():
        pytest.skip("the logs of pods cannot be reached from here")
    uid = pod["metadata"]["uid"]
    (file,) = listed().parent.glob(f"node-*/pod-logs/*_{uid}/hospital/0.log")

    def held() -> bool:
        return '"holding"' in file.read_text(encoding="utf-8")

    until("a hospital that holds", held)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[-3:]), encoding="utf-8")


@contextmanager
def stands_still(pod: Object) -> Iterator[None]:
    """Let a hospital's process stand still, and go on if it is still there."""
    process = process_of(pod)
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def placebo(
    size: int = 3,
    gpus: int = 0,
    hop: float = 300,
    faults: Sequence[Mapping[str, object]] = (),
    **algorithm: object,
) -> str:
    """Write a scenario of ``size`` hospitals h0, h1, ... of which the first ``gpus`` ask for a
    GPU. A model may stay unconfirmed for longer than a machine with many pods stands still.
    """
    hospitals = [
        {
            "name": f"h{index}",
            "architecture": "buffer",
            "resources": {"memory": "256Mi", "gpu": int(index < gpus)},
        }
        for index in range(size)
    ]
    timeouts = {
        "register": 300,
        "hop": hop,
        "acknowledgement": 300,
        "retry": 1,
        "goodbye": 5,
        "stop": 5,
    }
    return json.dumps(
        {
            "name": "placebo",
            "hospitals": hospitals,
            "algorithm": {"name": "placebo", **algorithm},
            "timeouts": timeouts,
            "faults": list(faults),
        }
    )


def nodes(resource: str) -> dict[str, int]:
    """Find the nodes that offer a resource, with how much."""
    items = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    offers = {
        item["metadata"]["name"]: int(item["status"]["allocatable"].get(resource, 0))
        for item in items
    }
    return {name: count for name, count in offers.items() if count}


@contextmanager
def offered(node: str, resource: str) -> Iterator[Callable[[int], None]]:
    """Let a node offer a resource, as often as wished, and take it back at the end."""

    def offer(count: int) -> None:
        done = call(ROOT / "k8s" / "fake-gpus.sh", node, count, resource)
        assert done.returncode == 0, done.stderr

    try:
        yield offer
    finally:
        offer(0)


@dataclass(frozen=True)
class Bed:
    """A namespace that enforces the restricted standard."""

    namespace: str
    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Bed:
        """Make a namespace with a name of its own."""
        name = f"fedskd-test-{token_hex(3)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "fedskd.io/purpose": "test"}
        body = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        }
        kubectl("create", "-f", "-", given=json.dumps(body))
        return cls(name, folder)

    def kubectl(self, *arguments: object, **options: Any) -> str:
        """Call kubectl in this namespace."""
        return kubectl("-n", self.namespace, *arguments, **options)

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """List objects, oldest first; ``kind`` may be several, with commas."""
        found = []
        for name in kind.split(","):
            path = f"{GROUPS.get(name, '/api/v1')}/namespaces/{self.namespace}/{name}"
            told = json.loads(read(path, labelSelector=selector))
            of = {"kind": told["kind"].removesuffix("List")}
            found += [of | item for item in told["items"] or ()]
        return sorted(found, key=lambda item: item["metadata"]["creationTimestamp"])

    def helm(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Call helm in this namespace."""
        return call("helm", "-n", self.namespace, *arguments)

    def install(
        self,
        scenario: str | Path,
        defaults: Object | None = None,
        overrides: Object | None = None,
        *,
        release: str = "",
        **values: Any,
    ) -> Run:
        """Install the chart; hospitals ask for little and hold for a second only, unless the
        settings say otherwise.
        """
        file, settings = self.folder / "scenario.yaml", self.folder / "values.json"
        file.write_text(
            scenario if isinstance(scenario, str) else scenario.read_text(encoding="utf-8"),
            encoding="utf-8",
        )
        little = {"requests": {"cpu": "10m", "memory": "20Mi"}, **(defaults or {})}
        short: Object = {
            "holdSeconds": 1,
            "lingerSeconds": 0,
            "terminationGracePeriodSeconds": 5,
            "startupSeconds": PATIENCE_S,
        }
        short["images"] = {"controller": {"tag": TAG}}
        short["hospitals"] = {"defaults": little, "overrides": overrides or {}}
        settings.write_text(json.dumps(short | values), encoding="utf-8")
        release = release or f"t{token_hex(2)}"
        done = self.helm(
            "install", release, CHART, "--set-file", f"scenario={file}", "--values", settings
        )
        assert done.returncode == 0, done.stderr
        return Run(self, release)

    def probe(
        self, code: str, labels: dict[str, str] | None = None, secret: str = "", claim: str = ""
    ) -> str:
        """Run Python in a restricted pod of its own to its end, and return what it printed; a
        secret is at ``/key``, a claim at ``/data``.
        """
        name = f"probe-{token_hex(3)}"
        volumes: list[Object] = []
        mounts: list[Object] = []
        if claim:
            volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
            mounts.append({"name": "data", "mountPath": "/data", "readOnly": True})
        if secret:
            kept = {"secretName": secret, "defaultMode": 0o440}
            volumes.append({"name": "key", "secret": kept})
            mounts.append({"name": "key", "mountPath": "/key", "readOnly": True})
        container = {
            "name": "probe",
            "image": f"localhost/fedskd-controller:{TAG}",
            "command": ["python", "-c", code],
            "imagePullPolicy": "IfNotPresent",
            "volumeMounts": mounts,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        user = {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        spec = {
            "restartPolicy": "Never",
            "securityContext": user,
            "containers": [container],
            "volumes": volumes,
        }
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": spec,
        }
        self.kubectl("create", "-f", "-", given=json.dumps(body))
        phase = until("end of the probe", lambda: self._ended(name))
        output = self.kubectl("logs", name)
        self.kubectl("delete", "pod", name, "--wait=false")
        assert phase == "Succeeded", output
        return output

    def _ended(self, pod: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}"
        phase = str(json.loads(read(path))["status"]["phase"])
        return phase if phase in ("Succeeded", "Failed") else ""

    def remove(self) -> None:
        """Delete the namespace, and all that is in it, behind the test's back."""
        kubectl("delete", "namespace", self.namespace, "--wait=false")

    def tell(self) -> str:
        """Say all that is worth knowing about the namespace when a test has failed."""
        pods = call("kubectl", "-n", self.namespace, "get", "pods", "-o", "wide").stdout
        events = call(
            "kubectl", "-n", self.namespace, "get", "events", "--sort-by=.lastTimestamp"
        ).stdout
        logs = call(
            "kubectl",
            "-n",
            self.namespace,
            "logs",
            "-l",
            "app.kubernetes.io/name=fedskd-sim",
            "--tail=20",
            "--prefix",
        ).stdout
        return "\n".join((pods, events[-4000:], logs[-8000:]))


@dataclass(frozen=True)
class Run:
    """A release of the chart."""

    bed: Bed
    release: str

    @property
    def selector(self) -> str:
        """Select every object of this release."""
        return f"{INSTANCE}={self.release}"

    def jobs(self) -> list[Object]:
        """List the Jobs, the controller's included."""
        return self.bed.items("jobs", self.selector)

    def pods(self, name: str = "") -> list[Object]:
        """List the pods of one hospital, or of all."""
        return self.bed.items("pods", f"{self.selector},{HOSPITAL}" + (f"={name}" if name else ""))

    def pod(self, name: str) -> Object:
        """Give the newest pod of a hospital."""
        return self.pods(name)[-1]

    def controllers(self) -> list[Object]:
        """List the controller's pods."""
        return self.bed.items("pods", f"{self.selector},{CONTROLLER}")

    def log(self) -> list[Object]:
        """Read the events that the controllers have logged."""
        text = ""
        for pod in self.controllers():
            name = pod["metadata"]["name"]
            text += read(f"/api/v1/namespaces/{self.bed.namespace}/pods/{name}/log")
        return [
            json.loads(line)
            for line in text.splitlines()
            if line.startswith("{") and line.endswith("}")
        ]

    def events(self, name: str, **wanted: object) -> list[Object]:
        """Find events of one kind in the controller's log."""
        return [
            event
            for event in self.log()
            if event["event"] == name and wanted.items() <= event.items()
        ]

    def heard(self, name: str, **wanted: object) -> Object:
        """Wait for an event in the controller's log."""
        return until(f"event {name} {wanted or ''}", lambda: self.events(name, **wanted))[0]

    def reached(self, round_: int, **wanted: object) -> None:
        """Wait for a step of a round, or of one after it: a controller that comes later does not
        tell of what was before.
        """

        def there() -> bool:
            return any(event["round"] >= round_ for event in self.events("progress", **wanted))

        until(f"round {round_} {wanted or ''}", there)

    def code(self) -> int:
        """Wait until the controller's Job has ended, and give the exit code of its last pod."""
        until("end of the run", self._over)
        states = [
            status["state"]
            for pod in self.controllers()
            for status in pod["status"].get("containerStatuses", ())
        ]
        return int(
            [state["terminated"]["exitCode"] for state in states if "terminated" in state][-1]
        )

    def _over(self) -> bool:
        jobs = [
            job
            for job in self.jobs()
            if job["metadata"]["labels"].get("app.kubernetes.io/component") == "controller"
        ]
        conditions = [one for job in jobs for one in job["status"].get("conditions", ())]
        return any(
            one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions
        )

    def said(self) -> str:
        """Give the text of the error that ended the run."""
        return " ".join(event["message"] for event in self.events("error"))

    def calls(self) -> Counter[str]:
        """Give the calls that the controller made, as its log has them."""
        return Counter(self.heard("api")["calls"])

    def run_key(self) -> str:
        """Read the run secret."""
        return base64.b64decode(
            self.bed.kubectl("get", "secret", self.secret, "-o", "jsonpath={.data.run-key}")
        ).decode()

    @property
    def secret(self) -> str:
        """Name the run secret."""
        return f"{self.release}-run-key"

    @property
    def run(self) -> str:
        """Give the run's hash."""
        return str(self.controllers()[-1]["metadata"]["labels"]["fedskd.io/run"])
