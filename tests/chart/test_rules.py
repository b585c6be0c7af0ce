"""Alert rules and dashboard: they parse, they fire when they should, and they speak only of what
hospitals export.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fedskd_sim.messages import HopId
from fedskd_sim.observe.metrics import GAUGES, PHASES, HospitalMetrics, Transfer
from fedskd_sim.records import Measure, Record
from fedskd_sim.ring.topology import Topology

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "fedskd-sim"
RULES = CHART / "files" / "rules" / "fedskd.yaml"
RULE_TESTS = Path(__file__).parent / "rules" / "fedskd_test.yaml"
DASHBOARD = CHART / "files" / "dashboards" / "fedskd.json"
SCENARIO = ROOT / "scenarios" / "placebo-ok.yaml"
SCRAPING = ROOT / "k8s" / "monitoring" / "prometheus.yml"
ROUND_THE_CLOCK = {"up", "ALERTS"}
"""What Prometheus itself knows about every target and rule."""
TARGET_LABELS = {
    "namespace",
    "pod",
    "run",
    "fedskd_io_hospital",
    "fedskd_io_architecture",
    "fedskd_io_run",
}
OWN_LABELS = {
    "scenario", "hospital", "model", "split", "device", "fedskd_phase", "le",
    "algorithm", "seed", "version", "next",
}  # fmt: skip

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool on PATH")


def yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml(RULES)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text(encoding="utf-8")))


def dashboard_queries() -> list[str]:
    """Give every query of the dashboard as Grafana would send it, with something chosen for each
    variable.
    """
    page = dashboard()
    queries = [
        target["expr"] for panel in page["panels"] for target in panel.get("targets", ())
    ] + [one["expr"] for one in page["annotations"]["list"] if "expr" in one]
    chosen = {"$__rate_interval": "1m", "$window": "5m"}
    for variable, value in chosen.items():
        queries = [query.replace(variable, value) for query in queries]
    return [re.sub(r"\$\w+", ".*", query) for query in queries]


def variable_queries() -> list[str]:
    return [
        variable["definition"]
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]


def exported() -> dict[str, set[str]]:
    """Let a hospital export all it can, and give the names of the series by family."""
    metrics = HospitalMetrics("s", "north", Topology(("north", "south"), 1))
    metrics.phase("visit", 1)
    measures = {name: Measure(1.0, 2.0) for name in GAUGES}
    metrics.may_spend(2.0)
    record = Record(
        "s", 1, "visit", 1, 1, "north", "south", "buffer", "trained",
        reason="", samples=1, steps=1, bytes=1, digest_in="", digest_out="", measures=measures,
        private={"queries": 1, "epsilon": 1.0},
    )  # fmt: skip
    metrics.count_step(record)
    metrics.took("session", 1.0)
    metrics.took("evaluation", 1.0)
    metrics.takes_of_card("auto", 1)
    metrics.count_transfer(Transfer(HopId("r", 1, "south", 1, 1), "south", 0.0, 1.0, 1, 1))
    return {
        family.name: {sample.name for sample in family.samples}
        for family in metrics.registry.collect()
    }


def metric_names(query: str) -> set[str]:
    """Give the metrics of a query: what is neither in braces nor in a grouping."""
    bare = re.sub(r"\{[^}]*\}", "", query)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"\b(?:fedskd_\w+|up|ALERTS)\b", bare))


def label_names(query: str) -> set[str]:
    """Give the labels of a query, of its selectors and its groupings."""
    selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=(?!=))\s*\"", query)
    grouped = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", query)
    return {*selected, *(name.strip() for group in grouped for name in group.split(","))}


@needs_promtool
def test_the_rules_are_valid() -> None:
    """Prometheus' own tool accepts the rules without a complaint."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@needs_promtool
def test_the_rules_fire_and_keep_quiet() -> None:
    """Every case of the rules' unit tests holds."""
    promtool("test", "rules", RULE_TESTS)


def test_every_alert_has_a_case_for_each_outcome() -> None:
    """There is a unit test in which an alert fires and one in which it does not, for every
    alert.
    """
    cases = [case for test in yaml(RULE_TESTS)["tests"] for case in test["promql_expr_test"]]
    for name in {rule["alert"] for rule in rules()}:
        outcomes = {
            bool(case["exp_samples"])
            for case in cases
            if f'alertname="{name}", alertstate="firing"' in case["expr"]
        }
        assert outcomes == {True, False}, name


@pytest.mark.parametrize(
    "rule", rules(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
)
def test_every_alert_says_what_and_how_bad(rule: dict[str, Any]) -> None:
    """An alert has a severity, a summary that names the place, and a description that speaks of
    labels it really has.
    """
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}
    text = " ".join(rule["annotations"].values())
    spoken = set(re.findall(r"\$labels\.(\w+)", text))
    assert {"namespace", "run"} <= spoken
    grouped = re.match(r"\w+ by \(([^)]*)\)", rule["expr"].strip())
    kept = (
        {name.strip() for name in grouped[1].split(",")} if grouped else TARGET_LABELS | OWN_LABELS
    )
    if "histogram_quantile" not in rule["expr"]:
        assert spoken <= kept
    assert "le" not in spoken


@needs_promtool
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    """Prometheus' own tool parses each query, with Grafana's variables filled in."""
    records = [
        {"record": f"dashboard:query:{number}", "expr": query}
        for number, query in enumerate(dashboard_queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": records}]}))
    assert len(records) > 30
    promtool("check", "rules", file)


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in rules()), *dashboard_queries()])
def test_every_query_asks_for_what_is_exported(query: str) -> None:
    """Metrics, labels and phases of every alert and panel are those that a hospital and its
    target have.
    """
    names = metric_names(query)
    assert names, query
    assert names <= ROUND_THE_CLOCK | set.union(*exported().values())
    made = {"alertname", "alertstate", "hop", "level"}
    assert label_names(query) <= OWN_LABELS | TARGET_LABELS | made
    for phases in re.findall(r'fedskd_phase(?:=~|!~|!=|=)"([^"]*)"', query):
        assert set(phases.split("|")) <= set(PHASES)


def test_every_variable_asks_for_what_is_exported() -> None:
    """The dashboard's choices come from metrics that every hospital exports, and from labels
    that they have.
    """
    series = set.union(*exported().values())
    for query in variable_queries():
        found = re.fullmatch(r"label_values\((\w+)(\{.*\})?, (\w+)\)", query)
        assert found, query
        assert found[1] in series
        assert found[3] in OWN_LABELS | TARGET_LABELS


def test_the_dashboard_leaves_no_metric_out() -> None:
    """Each family of metrics is on a panel."""
    shown = set.union(*map(metric_names, dashboard_queries()))
    assert not {family for family, names in exported().items() if not names & shown}


def test_the_phase_panel_knows_every_phase() -> None:
    """The numbers that the panel gives to phases are those of the list, and each has its name."""
    panel = next(panel for panel in dashboard()["panels"] if panel["title"] == "Phase")
    numbers = dict(
        re.findall(r'(\d+) \* max by .*fedskd_phase="(\w+)"', panel["targets"][0]["expr"])
    )
    mappings = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    names = {number: mapping["text"].replace("-", "_") for number, mapping in mappings.items()}
    assert names == {str(number): phase for number, phase in enumerate(PHASES)}
    assert {"0": PHASES[0], **numbers} == names


def test_the_dashboard_fits_any_grafana() -> None:
    """No panel is tied to one data source, panels have numbers of their own, and none lies on
    another.
    """
    page = dashboard()
    assert "id" not in page
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])
    parts = [
        part
        for panel in page["panels"]
        if panel["type"] != "row"
        for part in (panel, *panel["targets"])
    ]
    assert {part["datasource"]["uid"] for part in parts} == {"${datasource}"}
    taken = set()
    for place in (panel["gridPos"] for panel in page["panels"]):
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.skipif(not shutil.which("helm"), reason="no helm on PATH")
def test_the_chart_hands_both_on_as_they_are() -> None:
    """The chart's PrometheusRule has the very rules, its ConfigMap the very dashboard, and its
    PodMonitor gives the labels.
    """
    switches = [
        f"--set=metrics.{part}.enabled=true" for part in ("rules", "dashboard", "podMonitor")
    ]
    command = ["helm", "template", "r", str(CHART), f"--set-file=scenario={SCENARIO}", *switches]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    bodies = [body for body in YAML(typ="safe", pure=True).load_all(done.stdout) if body]
    boards = [
        body["data"]["fedskd.json"] for body in bodies if "fedskd.json" in body.get("data", {})
    ]
    assert [json.loads(board) for board in boards] == [dashboard()]
    specs = {body["kind"]: body.get("spec") for body in bodies}
    assert specs["PrometheusRule"] == yaml(RULES)
    steps = specs["PodMonitor"]["podMetricsEndpoints"][0]["relabelings"]
    given = {re.sub(r"[./]", "_", label) for label in specs["PodMonitor"]["podTargetLabels"]}
    given |= {step.get("targetLabel") for step in steps}
    assert given >= TARGET_LABELS - {"namespace", "pod"}


def test_the_test_clusters_prometheus_gives_the_labels() -> None:
    """The configuration in k8s/ gives every target the labels that alerts and dashboard ask for."""
    job = yaml(SCRAPING)["scrape_configs"][0]
    given = {step["target_label"] for step in job["relabel_configs"] if "target_label" in step}
    assert given >= TARGET_LABELS


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl on PATH")
@pytest.mark.parametrize(("folder", "file"), [("k8s", RULES), ("k8s/grafana", DASHBOARD)])
def test_the_test_cluster_loads_the_charts_files(folder: str, file: Path) -> None:
    """The kustomization holds no copy of its own: it can be built, and a ConfigMap has the
    chart's very file.
    """
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / folder)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    bodies = list(YAML(typ="safe", pure=True).load_all(done.stdout))
    maps = [body["data"] for body in bodies if body["kind"] == "ConfigMap"]
    assert file.read_text(encoding="utf-8") in [data.get(file.name) for data in maps]
