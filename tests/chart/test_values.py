"""The chart's values: what null means, which setting wins, and what is written of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import yaml
from test_chart import CHART, CI, RING, ROOT, bodies_of, jobs_of, of_schema, refused, rendered, run

REFERENCE = run_path(str(ROOT / "docs" / "chart_reference.py"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
PARTS = {one.place for one in REFERENCE["values"]() if one.is_part}
PLACES = [one.place for one in REFERENCE["values"]()]
needs_helm = pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on the PATH")


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "scenario.yaml").write_text(RING, encoding="utf-8")
    return tmp_path / "scenario.yaml"


def given(folder: Path, values: dict[str, Any]) -> tuple[str, Path]:
    """Write values into a file; gives how helm is told of it."""
    (folder / "values.json").write_text(json.dumps(values), encoding="utf-8")
    return "--values", folder / "values.json"


def nested(places: list[tuple[str, ...]], value: object = None) -> dict[str, Any]:
    """Put one value at all places."""
    found: dict[str, Any] = {}
    for place in places:
        inner = found
        for key in place[:-1]:
            inner = inner.setdefault(key, {})
        inner[place[-1]] = value
    return found


def known(text: str) -> str:
    """Hide the one thing that is drawn at random."""
    return re.sub(r"run-key: .*", "run-key: X", text)


def test_every_key_of_the_values_is_tried() -> None:
    """The places below are those of values.yaml, of every depth."""
    assert {place for place in PLACES if len(place) == 1} == {(key,) for key in VALUES}
    assert max(map(len, PLACES)) == 4


@needs_helm
@pytest.mark.parametrize("depth", range(1, 5))
def test_null_is_the_default(depth: int, scenario: Path) -> None:
    """Of whatever depth all keys are null, the chart renders what it does without values: the same
    run, the same objects.
    """
    chosen = [place for place in PLACES if len(place) == depth and place != ("scenario",)]
    assert chosen
    nulls = given(scenario.parent, nested(chosen))
    assert known(rendered(scenario, *nulls)) == known(rendered(scenario))


@needs_helm
def test_null_is_the_default_of_what_is_switched_on(scenario: Path) -> None:
    """Monitor, rules and dashboard are the same where all else of them is null."""
    chosen = [place for place in PLACES if place[0] == "metrics" and len(place) == 3]
    on = [place for place in chosen if place[-1] == "enabled"]
    values = nested(chosen)
    for _, kind, _ in on:
        values["metrics"][kind]["enabled"] = True
    wanted = rendered(scenario, *given(scenario.parent, nested(on, value=True)))
    assert known(rendered(scenario, *given(scenario.parent, values))) == known(wanted)
    assert {"PodMonitor", "PrometheusRule"} <= {
        body["kind"] for body in yaml.safe_load_all(wanted) if body
    }


@needs_helm
def test_no_scenario_is_said_of_null_too(scenario: Path) -> None:
    """The one value without a default is asked for."""
    done = run("helm", "template", "r", CHART, *given(scenario.parent, {"scenario": None}))
    assert "no scenario: install with --set-file scenario=FILE" in done.stderr


@needs_helm
def test_null_takes_entries_away_of_what_is_laid_over_objects(scenario: Path) -> None:
    """Inside labels, annotations, resources and patches null removes what is there by default."""
    places = [
        ("metrics", "dashboard", "labels", "grafana_dashboard"),
        ("protection", "annotations", "karpenter.sh/do-not-disrupt"),
        ("controller", "resources", "limits"),
        ("hospitals", "defaults", "gpu", "pod", "tolerations"),
    ]
    values = nested(places) | {"metrics": {"dashboard": {"enabled": True}}}
    values["metrics"]["dashboard"]["labels"] = {"grafana_dashboard": None}
    text = rendered(scenario, *given(scenario.parent, values))
    (controller,) = bodies_of(text, "Job")
    template = controller["spec"]["template"]
    assert [*template["metadata"]["annotations"]] == [
        "cluster-autoscaler.kubernetes.io/safe-to-evict"
    ]
    assert "limits" not in template["spec"]["containers"][0]["resources"]
    assert "grafana_dashboard" not in text.replace("fedskd.json", "")
    north = jobs_of(text, scenario.parent)[0]["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in [one["key"] for one in north["tolerations"]]


@needs_helm
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_hospitals_null_is_told_by_its_key(depth: int, scenario: Path) -> None:
    """A hospital's own settings have no default in the chart; null among them is refused, each by
    its place.
    """
    keys = [place[2:] for place in PLACES if place[:2] == ("hospitals", "defaults")]
    chosen = [("hospitals", "overrides", "north", *key) for key in keys if len(key) == depth]
    assert chosen
    told = of_schema(refused(scenario, *given(scenario.parent, nested(chosen))))
    assert "null" in told
    for place in chosen:
        assert re.search(rf"{re.escape('.'.join(place))}\W", told)


@needs_helm
def test_the_most_specific_label_wins(scenario: Path) -> None:
    """A member's own label wins over one of all objects, and neither takes away those by which the
    run's objects are known.
    """
    mine = {"app.kubernetes.io/instance": "x", "fedskd.io/run": "x"}
    common = {"team": "common", "all": "yes", **mine}
    settings = {f"{kind}Labels": {"team": kind, **mine} for kind in ("pod", "job")}
    values = {
        "commonLabels": common,
        "controller": settings,
        "hospitals": {"defaults": settings},
        "metrics": {"podMonitor": {"enabled": True, "labels": {"team": "monitor"}}},
    }
    text = rendered(scenario, *given(scenario.parent, values))
    for body in [*bodies_of(text, "Job"), *jobs_of(text, scenario.parent)]:
        for kind, metadata in (
            ("job", body["metadata"]),
            ("pod", body["spec"]["template"]["metadata"]),
        ):
            labels = metadata["labels"]
            assert (labels["team"], labels["all"]) == (kind, "yes")
            assert labels["app.kubernetes.io/instance"] == "a-release-of-some-length"
            assert labels["fedskd.io/run"] != "x"
    assert bodies_of(text, "Pod")[0]["metadata"]["labels"]["team"] == "pod"
    assert bodies_of(text, "PodMonitor")[0]["metadata"]["labels"]["team"] == "monitor"


@needs_helm
def test_only_with_a_queue_may_the_controller_change_pods(scenario: Path) -> None:
    """It marks pods of a ring that has failed, so that the queue gives their room back."""
    for queue, verbs in (("", ["list", "watch"]), ("research", ["list", "watch", "patch"])):
        (role,) = bodies_of(rendered(scenario, "--set", f"kueue.queue={queue}"), "Role")
        assert next(one["verbs"] for one in role["rules"] if one["resources"] == ["pods"]) == verbs


def test_the_readme_says_what_values_yaml_says() -> None:
    """Its table, and the defaults that stand in for null, are those of values.yaml."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    told = "run python docs/chart_reference.py"
    assert REFERENCE["readme"](text) == text, told
    kept = (CHART / "files" / "defaults.json").read_text(encoding="utf-8")
    assert kept == REFERENCE["defaults"](), told


def test_every_part_of_the_values_has_words() -> None:
    """No key stands in the README without a word of what it is, its own or its part's."""
    words = {one.place: one.words for one in REFERENCE["values"]()}
    silent = [
        place
        for place, told in words.items()
        if place not in PARTS and not told and not words[place[:-1]]
    ]
    assert silent == []


@needs_helm
@pytest.mark.parametrize("name", CI)
def test_ct_can_install_it(name: str) -> None:
    """Values under ci/ are whole: helm lints and renders them alone, as chart-testing does, and
    they name no image or resource of others.
    """
    done = run("helm", "lint", CHART, "--strict", "--values", CI[name])
    assert done.returncode == 0, done.stdout
    done = run("helm", "template", "r", CHART, "--namespace", "ns", "--values", CI[name])
    assert done.returncode == 0, done.stderr
    kinds = {body["kind"] for body in yaml.safe_load_all(done.stdout) if body}
    assert not kinds & {"PodMonitor", "PrometheusRule"}
    assert set(re.findall(r"image: (\S+?):", done.stdout)) == {"localhost/fedskd-controller"}


@needs_helm
def test_values_under_ci_are_held_against_the_schema(scenario: Path) -> None:
    """What the schema does not know is refused in such a file as anywhere."""
    values = yaml.safe_load(next(iter(CI.values())).read_text(encoding="utf-8"))
    told = of_schema(refused(scenario, *given(scenario.parent, {**values, "gpus": 1})))
    assert re.search(r"gpus'? (is )?not allowed", told)
