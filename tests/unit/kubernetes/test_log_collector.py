"""Whose records a hospital's are when its pod was replaced, and that a run whose records are not
whole is not given up.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType
from typing import Any

import pytest
from kubernetes.client import V1Job, V1Pod
from kubernetes.client.exceptions import ApiException
from test_kubernetes_jobs import PLAN

from fedskd_sim.errors import (
    ClusterUnavailable,
    FedskdError,
    HospitalCrashed,
    OutputNotWritable,
    RunUnreadable,
)
from fedskd_sim.kubernetes import folders as pod_folders
from fedskd_sim.kubernetes import log_collector
from fedskd_sim.kubernetes import runtime as runtimes
from fedskd_sim.kubernetes.job_annotations import STARTED, verdict_note
from fedskd_sim.kubernetes.log_collector import LogCollector, new_lines, once
from fedskd_sim.kubernetes.plan import FOLDER_PORT
from fedskd_sim.kubernetes.pods import newest
from fedskd_sim.kubernetes.reach import NO_LOG, Reach, Unreachable
from fedskd_sim.kubernetes.runtime import KubernetesRuntime
from fedskd_sim.observe.events import Error, Logged, Starting
from fedskd_sim.operate import execution, run_access
from fedskd_sim.records import Record, to_line
from fedskd_sim.records.files import read_records
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.handover import FolderServer, token_of
from fedskd_sim.scenario import load

SECRET = b"s" * 32
TWO = """
name: two
hospitals: [{name: north, architecture: buffer}, {name: south, architecture: buffer}]
algorithm: {name: placebo}
"""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def pod(uid: str, hospital: str = "north", phase: str = "Running", age: int = 0) -> V1Pod:
    """Make a pod; ``age`` counts the seconds from the first one's making to its own."""
    labels = (
        {"fedskd.io/hospital": hospital}
        if hospital
        else {"app.kubernetes.io/component": "controller"}
    )
    metadata = {
        "name": f"pod-{uid}",
        "uid": uid,
        "labels": labels,
        "creationTimestamp": BEGIN + timedelta(seconds=age),
    }
    return V1Pod.model_validate(
        {
            "metadata": metadata,
            "spec": {"containers": [{"name": "hospital"}]},
            "status": {"phase": phase},
        }
    )


def event(name: str, hospital: str = "north", **fields: Any) -> str:
    needed = {"seconds": 1.0} if name == "holding" else {}
    return json.dumps({"event": name, "time": 1.0, "hospital": hospital, **needed, **fields})


def record(hop: int, model: str = "north", host: str = "north", kind: str = "visit") -> Record:
    return Record("two", 1, kind, 1, hop, host, model, "buffer", "trained")


def entry(what: Record) -> str:
    return event("entry", what.host, kind="records", line=to_line(what))


def whole(host: str) -> list[str]:
    """Make the log of a hospital that took part to the end."""
    told = [
        record(0, host, host, "warm_up"),
        *(record(hop, model, host, "evaluation") for hop, model in enumerate(("north", "south"))),
    ]
    return [event("starting", host), *map(entry, told), event("done", host), event("holding", host)]


SERVERS = list[FolderServer]()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Serve nothing after a test."""
    yield
    while SERVERS:
        (last := SERVERS.pop()).close()
        shutil.rmtree(last.folder)


class Served:
    """Pods whose folders are served for real, on this machine."""

    all: Sequence[V1Pod]
    books: Mapping[str, list[Record]] = MappingProxyType({})
    """What pods hold, by their names; others hold nothing."""

    def config(self, release: str) -> tuple[str, dict[str, str]]:
        return "uid", {"plan.json": json.dumps(PLAN | {"release": release, "defaults": {}})}

    def secret(self, name: str) -> bytes:
        assert name == PLAN["secret"]
        return SECRET

    def ask(self, function: Callable[[], object]) -> object:
        try:
            return function()
        except OSError as error:
            raise Unreachable(str(error)) from error

    def connect(self, pod: str, port: int, patience: float) -> HTTPConnection:
        assert (port, patience > 0) == (FOLDER_PORT, True)
        (name,) = (
            one.metadata.labels["fedskd.io/hospital"]
            for one in self.all
            if one.metadata.name == pod
        )
        place = Path(mkdtemp())
        (place / "records").mkdir()
        if told := self.books.get(pod):
            text = "".join(to_line(one) + "\n" for one in told)
            (place / "records" / f"{name}.jsonl").write_text(text, encoding="utf-8")
        token = token_of(SECRET, PLAN["run"], name)
        SERVERS.append(FolderServer.start(place, name, token, 0))
        return HTTPConnection("127.0.0.1", SERVERS[-1].port)


class Cluster(Served):
    """A cluster as the launcher reaches it: pods with logs, and the controller's Job, which has
    ended well.
    """

    def __init__(self, logs: dict[str, list[str]], *pods: V1Pod) -> None:
        self.logs, self.all = logs, list(pods)
        self.books: dict[str, list[Record]] = {}

    def pods(self, release: str) -> list[V1Pod]:
        assert release == "two"
        return self.all

    def jobs(self, release: str) -> list[V1Job]:
        assert release == "two"
        metadata = {"name": "control", "labels": {}, "creationTimestamp": BEGIN}
        return [V1Job.model_validate({"metadata": metadata, "status": {"succeeded": 1}})]

    def lines(self, pod: str, member: str, *, follow: bool) -> Iterator[str]:
        assert follow in (True, False)
        assert member in ("north", "south", "controller")
        yield from self.logs[pod.removeprefix("pod-")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the folder of a run in a cluster that was not collected."""
    (tmp_path / "scenario.yaml").write_text(TWO, encoding="utf-8")
    made = folders.make(load(tmp_path / "scenario.yaml"), tmp_path / "run", "kubernetes")
    location.note(made, location.InCluster("two", "n", "c"))
    return made


def launcher(cluster: Cluster, folder: Path) -> KubernetesRuntime:
    place = KubernetesRuntime("two", "n", "c")
    place.reach = cluster
    place.attach(Order(load(folder / "scenario.yaml"), "", folder))
    return place


def hops(folder: Path, name: str = "north") -> list[int]:
    return [
        json.loads(line)["hop"]
        for line in (folder / "records" / f"{name}.jsonl").read_text().splitlines()
    ]


def test_a_pod_replaced_before_the_start_takes_no_records_with_it(folder: Path) -> None:
    """The first pod of a hospital has only events to tell; the records of its successor are the
    hospital's.
    """
    collector = LogCollector(Cluster({}), folder)
    for uid in ("1", "2"):
        collector.own(uid, "north")
    collector.sort("1", "north", event("starting"))
    for hop in (0, 1):
        collector.sort("2", "north", entry(record(hop)))
    collector.close()
    assert hops(folder) == [0, 1]
    assert not (folder / "logs" / "north.aside").exists()


def test_in_whatever_order_logs_are_read_the_longest_life_is_the_hospitals(folder: Path) -> None:
    """Of three lives the longest has the records, however their lines mix; of equal ones the
    first; every other line is aside.
    """
    lives = {
        "1": [record(hop) for hop in (0, 1)],
        "2": [record(hop) for hop in (0, 1, 2)],
        "3": [record(hop, "south") for hop in (5, 6, 7)],
    }
    draw = random.Random(0)
    for _ in range(40):
        collector = LogCollector(Cluster({}), folder)
        for uid in lives:
            collector.own(uid, "north")
        left = {uid: iter(told) for uid, told in lives.items()}
        order = [uid for uid, told in lives.items() for _ in told]
        draw.shuffle(order)
        for uid in order:
            collector.sort(uid, "north", entry(next(left[uid])))
        collector.close()
        assert hops(folder) == [0, 1, 2]
        aside = (folder / "logs" / "north.aside").read_text().splitlines()
        assert sorted(aside) == sorted(to_line(told) for uid in "13" for told in lives[uid])


def test_a_pod_replaced_in_mid_run_does_not_bury_what_was_done(folder: Path) -> None:
    """The successor of a pod that has worked begins again; the records of the first stay."""
    logs = {"1": [entry(record(hop)) for hop in range(5)], "2": [entry(record(0))]}
    once(Cluster(logs, pod("2", age=9), pod("1", phase="Failed")), "two", folder)
    assert hops(folder) == [0, 1, 2, 3, 4]
    assert (folder / "logs" / "north.aside").read_text() == to_line(record(0)) + "\n"


@pytest.mark.parametrize("names", [("north",), ("north", "south")])
def test_a_run_whose_pods_were_replaced_before_the_start_is_whole(
    names: tuple[str, ...], folder: Path, removed: list[str]
) -> None:
    """One hospital's pod, or all of them, begin again before the start: all records are there,
    and the release is removed once somebody has found them whole.
    """
    logs = {"c": [], "north": whole("north"), "south": whole("south")} | {
        f"old-{name}": [event("starting", name)] for name in names
    }
    pods = [pod("c", "", "Succeeded"), *(pod(f"old-{name}", name, "Failed") for name in names)]
    pods += [pod(name, name, age=30) for name in ("north", "south")]
    place = launcher(Cluster(logs, *pods), folder)
    place.wait(lambda _: None)
    place.stop()
    assert len(read_records(folder)) == 6
    assert removed == []
    place.accept()
    place.stop()
    assert removed == ["two"]


def rotated() -> tuple[Cluster, dict[str, list[Record]]]:
    """Make a cluster in which a kubelet has rotated the log of north, which holds what it has;
    south has a pod that came later.
    """
    logs = {"c": [], "north": whole("north")[:1] + whole("north")[-4:], "south": whole("south")}
    pods = [pod("c", "", "Succeeded"), pod("north"), pod("south", "south")]
    cluster = Cluster(logs, *pods)
    held = {
        name: [
            record(0, name, name, "warm_up"),
            record(0, "north", name, "evaluation"),
            record(1, "south", name, "evaluation"),
        ]
        for name in ("north", "south")
    }
    cluster.books = {"pod-north": held["north"], "pod-south": held["south"][:1]}
    return cluster, held


@pytest.mark.parametrize("failed", [False, True])
def test_records_are_what_hospitals_hold_and_not_what_is_left_of_logs(
    failed: bool,  # noqa: FBT001 - a parameter of the test
    folder: Path,
    removed: list[str],
) -> None:
    """Of a hospital whose log was rotated all its records come, whether the run has ended well or
    failed; a pod that has less than was logged has not taken part.
    """
    cluster, held = rotated()
    if failed:
        verdict = Error(HospitalCrashed.exit_code, own=False, message="'south' failed: it fell")
        (controller,) = cluster.jobs("two")
        controller.metadata.annotations = verdict_note(verdict) | {STARTED: "1.0"}
        cluster.jobs = lambda _: [controller]  # type: ignore[method-assign]
    place = launcher(cluster, folder)
    if failed:
        with pytest.raises(HospitalCrashed, match="it fell"):
            place.wait(lambda _: None)
    else:
        place.wait(lambda _: None)
    place.stop()
    for name, records in held.items():
        lines = (folder / "records" / f"{name}.jsonl").read_text().splitlines()
        assert lines == [to_line(one) for one in records]
    assert removed == (["two"] if failed else [])


def tried_once(action: Callable[[], None], _tries: int) -> str:
    try:
        action()
    except Unreachable as error:
        return str(error)
    return ""


def test_a_failed_run_stays_while_a_hospital_holds_what_cannot_be_fetched(
    folder: Path, removed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says whose records are missing and how they come home later."""
    cluster, _ = rotated()
    (controller,) = cluster.jobs("two")
    verdict = Error(HospitalCrashed.exit_code, own=False, message="'south' failed: it fell")
    controller.metadata.annotations = verdict_note(verdict) | {STARTED: "1.0"}
    cluster.jobs = lambda _: [controller]  # type: ignore[method-assign]

    def broken(*_: object) -> None:
        raise ConnectionError("it broke")

    cluster.connect = broken  # type: ignore[method-assign]
    monkeypatch.setattr(pod_folders, "retry", tried_once)
    place = launcher(cluster, folder)
    with pytest.raises(HospitalCrashed) as caught:
        place.wait(lambda _: None)
    place.stop()
    assert removed == []
    assert "fedskd-sim collect two" in caught.value.__notes__[-1]
    assert not json.loads((folder / "place.json").read_text()).get("collected")


@pytest.mark.parametrize("broken", [True, False])
def test_a_release_goes_when_what_came_home_was_found_whole(
    broken: bool,  # noqa: FBT001 - a parameter of the test
    folder: Path,
    removed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proof that fails removes nothing, and says how to fetch again and how to give it up."""

    def prove(*_: object) -> str:
        assert removed == []
        if broken:
            raise RunUnreadable("records are missing")
        return "all of them"

    monkeypatch.setattr(execution, "prove", prove)
    monkeypatch.setattr(execution, "report", lambda *_, **__: None)
    place, attendant = launcher(rotated()[0], folder), execution.Attendant("collect")
    if broken:
        with pytest.raises(RunUnreadable) as caught:
            execution.follow(place, place._order, attendant, launched=True)
        (note, *_) = caught.value.__notes__
        assert "fedskd-sim collect" in note
        assert "fedskd-sim stop" in note
    else:
        execution.follow(place, place._order, attendant, launched=True)
    assert removed == ([] if broken else ["two"])


def test_a_log_that_was_rotated_while_nobody_read_it_is_read_on() -> None:
    """Whatever line it begins with when it is read again, no line is lost and none is told twice,
    also where lines are equal, or a connection broke in the middle of one.
    """
    draw, lines = random.Random(0), [f"line {number // 2}" for number in range(400)]
    for _ in range(200):
        known, got, end = array("q"), list[str](), 0
        while end < len(lines):
            begin, end = draw.randint(0, max(0, end - 2)), draw.randint(end, len(lines))
            got += new_lines(known, iter(lines[begin:end]))
        assert got == lines
    known = array("q")
    assert [*new_lines(known, ["a", "b", "ha"])] == ["a", "b", "ha"]
    assert [*new_lines(known, ["b", "half", "c"])] == ["half", "c"]
    assert [*new_lines(known, ["x", "y"])] == ["x", "y"]


@pytest.mark.parametrize(
    ("logs", "error"),
    [
        ({"north": whole("north"), "south": [event("holding", "south")]}, ClusterUnavailable),
        (
            {"north": whole("north"), "south": [*whole("south")[:-3], event("holding", "south")]},
            ClusterUnavailable,
        ),
        ({name: [event("holding", name)] for name in ("north", "south")}, RunUnreadable),
    ],
    ids=["one has none", "one lacks its last", "there are none"],
)
def test_a_run_without_all_its_records_neither_ends_well_nor_is_removed(
    logs: dict[str, list[str]], error: type[FedskdError], folder: Path, removed: list[str]
) -> None:
    """Whatever became of the logs: what is missing is named, and the release stays, so that it
    can be collected again.
    """
    pods = [pod("c", "", "Succeeded"), pod("north"), pod("south", "south")]
    place = launcher(Cluster({"c": [], **logs}, *pods), folder)
    with pytest.raises(error, match=r"south|no records"):
        place.wait(lambda _: None)
    place.stop()
    assert removed == []
    assert not json.loads((folder / "place.json").read_text()).get("collected")


def test_a_hospital_is_over_when_its_newest_pod_is(folder: Path) -> None:
    """A pod that failed before its successor was made ends no wait for its successor's last
    words and holds no results.
    """
    pods = [
        pod("2", age=30),
        pod("1", phase="Failed"),
        pod("3", "south", "Succeeded"),
        pod("0", "south", age=-5),
    ]
    place = launcher(Cluster({name: [] for name in "0123"}, *pods), folder)
    assert {name: pod.metadata.uid for name, pod in newest(pods).items()} == {
        "north": "2",
        "south": "3",
    }
    collector = LogCollector(place.reach, folder)
    follower = place._follower()
    assert not follower.settled(collector)
    follower.holding.add("north")
    assert follower.settled(collector)
    collector.close()
    assert place._folders()._pod_of("north") == "pod-2"
    with pytest.raises(LookupError, match="has left"):
        place._folders()._pod_of("south")


def test_of_two_pods_of_one_second_the_one_at_work_is_the_newest() -> None:
    """Creation times have whole seconds, and a Job makes the next pod when the last one has
    ended.
    """
    for pods in itertools.permutations([pod("1", phase="Failed"), pod("2")]):
        assert newest(pods)["north"].metadata.uid == "2"


def refreshed(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> Callable[[Path], None]:
    def runtime(release: str, namespace: str, context: str) -> KubernetesRuntime:
        place = KubernetesRuntime(release, namespace, context)
        place.reach = cluster
        return place

    monkeypatch.setattr(run_access, "connect", runtime)
    return run_access.refresh


def test_a_report_does_not_touch_what_a_launcher_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, removed: list[str]
) -> None:
    """While launch follows a run, report and stop read its folder as it is, and what launch
    writes afterwards is in it.
    """
    cluster = Cluster(
        {"c": [], "north": whole("north"), "south": whole("south")},
        pod("c", "", "Succeeded"),
        pod("north"),
    )
    cluster.all.append(pod("south", "south"))
    refresh, seen = refreshed(monkeypatch, cluster), []

    def watch(told: Logged) -> None:
        if told.what == Starting():
            before = sorted(path for path in folder.rglob("*.jsonl"))
            refresh(folder)
            seen.append(before == sorted(path for path in folder.rglob("*.jsonl")))

    launcher(cluster, folder).wait(watch)
    assert seen == [True, True]
    assert len(read_records(folder)) == 6
    assert removed == []


def test_a_report_keeps_what_pods_that_are_gone_have_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading anew adds what is new; the records of a pod that is gone, or whose log was cut,
    stay.
    """
    cluster = Cluster(
        {"1": [entry(record(0)), entry(record(1))], "2": [entry(record(0, host="south"))]},
        pod("1"),
        pod("2", "south"),
    )
    refresh = refreshed(monkeypatch, cluster)
    refresh(folder)
    cluster.logs["1"].append(entry(record(2)))
    del cluster.all[1]
    refresh(folder)
    assert (hops(folder), hops(folder, "south")) == ([0, 1, 2], [0])
    cluster.logs["1"] = cluster.logs["1"][2:]
    refresh(folder)
    assert hops(folder) == [0, 1, 2]
    assert not list(folder.glob(".reading-*"))


def test_a_reading_that_fails_leaves_everything_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks in the middle: no file is gone or shorter, and whose log it was is
    told.
    """
    cluster = Cluster({"1": [entry(record(0)), entry(record(1))]}, pod("1"))
    refresh = refreshed(monkeypatch, cluster)
    refresh(folder)

    def broken(pod: str, member: str, *, follow: bool) -> Iterator[str]:
        yield entry(record(0))
        raise Unreachable(f"{pod}, {member}, {follow}")

    monkeypatch.setattr(cluster, "lines", broken)
    (told,) = refresh(folder)
    assert "its log cannot be read now" in told
    assert hops(folder) == [0, 1]


def test_two_do_not_collect_into_one_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, removed: list[str]
) -> None:
    """A second follower is refused before it writes or removes anything, at its beginning as
    well as at the last moment.
    """
    cluster = Cluster({"1": [entry(record(0))]}, pod("1"))
    refreshed(monkeypatch, cluster)
    place = launcher(cluster, folder)
    monkeypatch.setattr(runtimes, "HELD_TRIES", 2)
    with folders.hold_lock(folder):
        with pytest.raises(OutputNotWritable, match="another process follows"):
            run_access.to_collect(str(folder), None, "n", "c")
        with pytest.raises(OutputNotWritable, match="another process follows"):
            place.wait(lambda _: None)
        place.stop()
    assert removed == []
    assert not list((folder / "records").iterdir())


def test_pods_that_go_on_are_one_life(folder: Path) -> None:
    """A hospital's second pod goes on from what the first kept, in whatever order their logs are
    read: its records are both's, and a step that was done again has one.
    """
    again = record(2)
    logs = {
        "1": [entry(record(hop)) for hop in range(3)],
        "2": [
            event("went_on", steps=2, of=9),
            entry(again),
            *(entry(record(hop)) for hop in range(3, 8)),
        ],
        "0": [entry(record(9))],
    }
    for order in ("102", "210"):
        collector = LogCollector(Cluster({}), folder)
        for uid in "012":
            collector.own(uid, "north")
        for uid in order:
            for line in logs[uid]:
                collector.sort(uid, "north", line)
        collector.join()
        collector.close()
        assert hops(folder) == [*range(8)], order
        assert (folder / "logs" / "north.aside").read_text() == to_line(record(9)) + "\n"


def test_who_watches_reads_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another look asks for no log again, and shows what has come since, of new pods too."""
    monkeypatch.setattr(log_collector, "QUIET_S", 0.05)
    cluster, told = Cluster({}, pod("1", phase="Succeeded")), [event("starting"), event("done")]
    asked = list[str]()
    cluster.logs["1"] = told

    def lines(name: str, _member: str, *, follow: bool) -> Iterator[str]:
        assert follow
        asked.append(name)
        yield from cluster.logs[name.removeprefix("pod-")]

    cluster.lines = lines
    with closing(log_collector.LogFollower(cluster, "two")) as follower:

        def news() -> list[str]:
            """Look until something has come; what comes late is seen at a later look."""
            looks = ([logged.hospital for logged in follower.news()] for _ in range(2000))
            return next(filter(None, looks))

        first = news()
        while len(first) < len(told):
            first += news()
        cluster.logs["2"] = [event("starting", "south")]
        cluster.all.append(pod("2", "south", "Succeeded"))
        assert (first, news()) == (["north", "north"], ["south"])
        assert [*follower.news()] == []
    assert asked == ["pod-1", "pod-2"]


class Logs:
    """An API server that has the logs of these containers, and a pod in which no other ran."""

    def __init__(self, **logs: str) -> None:
        self.logs = logs

    def read_namespaced_pod_log(self, _pod: str, _namespace: str, **asked: Any) -> Any:
        if asked["container"] not in self.logs:
            raise ApiException(status=NO_LOG)
        return Answer(self.logs[asked["container"]])


class Answer(io.BytesIO):
    """What comes of a log."""

    def __init__(self, text: str) -> None:
        super().__init__(text.encode())

    def stream(self, size: int) -> Iterator[bytes]:
        yield from iter(partial(self.read, size), b"")


@pytest.mark.parametrize("fetched", [True, False])
def test_a_hospital_that_never_ran_keeps_nobody_waiting(fetched: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    """Of a pod that failed before its hospital began there is the log of what was to fetch its
    data, or none; it is read to its end either way.
    """
    reach: Any = object.__new__(Reach)
    reach.namespace = "n"
    reach._core = Logs(fetch="curl: (22) 404\n") if fetched else Logs()
    collector = LogCollector(reach, tmp_path)
    collector._phases["1"] = "Failed"
    collector._read("1", "north", "pod-1")
    (tmp_path / "logs").mkdir()
    assert list(collector.events(0)) == []
    assert collector.complete
    collector.close()
    kept = tmp_path / "logs" / "north.err"
    assert (kept.read_text() if kept.exists() else "") == ("curl: (22) 404\n" if fetched else "")
