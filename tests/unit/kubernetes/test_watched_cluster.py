"""A run in a cluster is watched from what its launcher brings home while it goes."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from test_log_collector import Cluster, event, record

from fedskd_sim.kubernetes.log_collector import LogCollector
from fedskd_sim.observe import events
from fedskd_sim.records import Measure, Record, Timing, to_line
from fedskd_sim.results.listing import ABROAD
from fedskd_sim.results.live.page import LivePage
from fedskd_sim.results.live.ring import words_of
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import location
from fedskd_sim.scenario import load

THREE = """
name: two
hospitals: [{name: north, architecture: buffer}, {name: south, architecture: buffer},
            {name: west, architecture: buffer}]
algorithm: {name: placebo, rounds: 1}
"""


class Home:
    """A launcher that follows pods into a folder, and a page of that folder."""

    def __init__(self, folder: Path, collector: LogCollector) -> None:
        self.collector, self.page, self.tags = collector, LivePage(folder), dict[str, str]()

    def tell(self, pod: str, hospital: str, *lines: str) -> None:
        """Sort lines of a pod's log into the folder, as they come."""
        for line in lines:
            self.collector.sort(pod, hospital, line)

    def look(self) -> dict[str, str]:
        """Ask as a browser does; the fragments that have changed."""
        answer = json.loads(self.page.answer(self.tags))
        assert answer["going"]
        self.tags |= {name: one["tag"] for name, one in answer["fragments"].items()}
        return {name: one["html"] for name, one in answer["fragments"].items()}


@pytest.fixture
def home(tmp_path: Path) -> Any:
    """Make the folder of a run in a cluster, whose launcher follows its pods."""
    (tmp_path / "scenario.yaml").write_text(THREE, encoding="utf-8")
    made = folders.make(load(tmp_path / "scenario.yaml"), tmp_path / "run", "kubernetes")
    location.note(made, location.InCluster("two", "n", "c"))
    with closing(LogCollector(Cluster({}), made)) as collector:
        for pod, name in (("n1", "north"), ("s1", "south"), ("s2", "south"), ("w1", "west")):
            collector.own(pod, name)
        yield Home(made, collector)


def logged(what: Any, hospital: str) -> str:
    return event(hospital=hospital, **{"name": events.fields_of(what).pop("event")} | asdict(what))


def entered(what: Record | Timing, kind: str) -> str:
    return event("entry", what.host, kind=kind, line=to_line(what))


def share(value: float, *where: Any) -> Record:
    return replace(record(*where), measures={"accuracy": Measure(value, 1.0)})


def test_models_records_and_losses_are_shown_as_they_come_home(home: Home) -> None:
    """The page says that the run goes on in a cluster, moves a model with the log of its host,
    counts stops with the entries in the log, and shows who was lost.
    """
    assert ABROAD in home.look()["head"]
    home.tell("s1", "south", logged(events.Arrived(1, 1, "north", "visit"), "south"))
    assert 'data-model="north" data-host="south" data-to=""' in home.look()["ring"]
    done = events.Finished(1, 1, "north", "visit", "trained", 0.5)
    stop = share(0.75, 1, "north", "south")
    home.tell("s1", "south", entered(stop, "records"), logged(done, "south"))
    found = home.look()
    assert 'data-model="north" data-host="south" data-to="west"' in found["ring"]
    assert home.page.seen.gathered.ways["north"].column("accuracy").tolist() == [0.75]
    sent = Timing("transfer", "south", "north", 1, 2, 1.0, 2.0, bytes=3, to="west")
    home.tell("s1", "south", entered(sent, "timings"))
    home.look()
    assert words_of("north", home.page.seen.models["north"]) == "north waits at west"
    home.tell("c", "controller", logged(events.LostEvent(2, {"west": 1}), ""))
    found = home.look()
    assert 'data-hospital="west" data-state="lost"' in found["ring"]
    assert "the ring goes on without west" in found["troubles"]


def test_the_longer_life_of_a_pod_takes_the_place_of_the_shorter(home: Home) -> None:
    """Entries of a pod that was replaced leave the page when its successor has told more, though
    the file is no shorter than before.
    """
    home.tell("s1", "south", entered(share(0.5, 0, "south", "south", "warm_up"), "records"))
    home.look()
    assert home.page.seen.gathered.ways["south"].column("accuracy").tolist() == [0.5]
    later = [share(0.25, 0, "south", "south", "warm_up"), share(0.75, 1, "north", "south")]
    home.tell("s2", "south", *(entered(one, "records") for one in later))
    home.look()
    ways = home.page.seen.gathered.ways
    assert ways["south"].column("accuracy").tolist() == [0.25]
    assert ways["north"].column("accuracy").tolist() == [0.75]
    assert not home.page.seen.troubles
