"""A hospital in a pod: what it tells to do about an error, and what is on its standard output."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedskd_sim.errors import ClusterUnavailable, DataMissing, InvalidValue, UnknownReader
from fedskd_sim.kubernetes.helm import Helm
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes.member import MemberOrder
from fedskd_sim.runtimes.podwords import tell_of_pod


def test_a_fix_is_one_for_a_pod() -> None:
    """A package belongs into its image, data into the chart's values; other fixes stay."""
    told = []
    for error in (
        UnknownReader("none", fix="install it"),
        DataMissing("none", fix="give --data"),
        InvalidValue("wrong", fix="mend it"),
    ):
        tell_of_pod(error, "bonn", Path("/data"))
        told.append(error.fix)
    assert "install it; in a cluster it has to be in the image of 'bonn'" in told[0]
    assert "hospitals.overrides.bonn.data), which are /data in its pod" in told[1]
    assert told[2] == "mend it"
    unsaid = DataMissing("none", fix="give --data")
    tell_of_pod(unsaid, "bonn", None)
    assert unsaid.fix.startswith("say in the chart's values where the data of 'bonn' are")


GOOD = """
name: two
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]
algorithm: {name: placebo}
"""
PRINTS = """
from pathlib import Path
from fedskd_sim.observe import events
from fedskd_sim.runtimes.member import MemberOrder
here = Path(".")
with MemberOrder(here, "bonn", "run", here, "", "", to_stdout=True).log() as log:
    print("loading ...", end="")
    log.event(events.Starting())
print("after")
"""


def test_nothing_but_the_log_is_on_standard_output(tmp_path: Path) -> None:
    """Half a line that a reader prints does not spoil the line behind it; afterwards standard
    output is what it was.
    """
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    line, after = done.stdout.splitlines()
    assert (json.loads(line)["run"], after, done.stderr) == ("run", "after", "loading ...")


def test_a_scenario_that_its_image_does_not_know_is_told_in_the_log(tmp_path: Path) -> None:
    """The launcher reads the place and the cause there, and what it means that it was good where
    it was launched.
    """
    file = tmp_path / "scenario.yaml"
    file.write_text(GOOD.replace("placebo", "mine"), encoding="utf-8")
    order, stream = MemberOrder(file, "a", "run", tmp_path, "", "", to_stdout=True), io.StringIO()
    with pytest.raises(InvalidValue):
        order.read_and_tell(EventLog(stream))
    logged = events.read(stream.getvalue())
    assert logged is not None
    assert isinstance(logged.what, events.Error)
    assert (logged.what.code, logged.what.key) == (12, ("algorithm", "name"))
    assert "another version of the program" in logged.what.fix


@pytest.mark.parametrize(
    ("told", "fix"),
    [
        ('Error: query: secrets is forbidden: User "u" cannot list "secrets"', "rights"),
        ("Error: Kubernetes cluster unreachable", "network"),
    ],
)
def test_a_right_that_is_missing_is_no_network_that_is(
    told: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Helm's words tell which of the two keeps it from looking for a run."""
    answer = subprocess.CompletedProcess([], 1, "", told)
    monkeypatch.setattr(Helm, "_call", lambda *_: answer)
    with pytest.raises(ClusterUnavailable) as caught:
        Helm("n").exists("run")
    assert fix in caught.value.fix
