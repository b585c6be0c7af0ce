"""A folder of the launching machine is not what pods read: what is split for them, and what is
refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedskd_sim.cli import main
from fedskd_sim.errors import InvalidValue, OutputNotEmpty
from fedskd_sim.kubernetes.loading import claim_of
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.operate.poddata import check_seen

MOUNTED = (
    "hospitals: {defaults: {data: {claim: 'data-{hospital}'}}}",
    "hospitals: {overrides: {north: {data: {hostPath: /data}}}}",
)
NOT = ("", "hospitals: {defaults: {data: {}}}", "hospitals: {overrides: {north: {}}}", "{", "[1]")


@pytest.mark.parametrize(
    "command", [("launch", "quickstart"), ("compare", "quickstart", "--algorithms", "local,fedskd")]
)
def test_a_folder_that_no_pod_sees_is_refused_at_once(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """Before anything is read or reached it is said that no pod sees the folder, and what does."""
    done = CliRunner().invoke(main, [*command, "--on", "kubernetes", "--data", str(tmp_path)])
    assert done.exit_code == InvalidValue.exit_code
    assert done.stderr.startswith("error: --data: no pod sees ")
    assert "fedskd-sim data push" in done.stderr
    assert "hospitals.defaults.data" in done.stderr


def test_beside_what_pods_mount_a_folder_is_for_the_checks_here(tmp_path: Path) -> None:
    """Values that say where pods find data, all or one of them, let the folder pass; others do
    not, whatever they are.
    """
    file = tmp_path / "values.yaml"
    check_seen(None, [])
    for text in MOUNTED:
        file.write_text(text, encoding="utf-8")
        check_seen(tmp_path, [file])
    for text in NOT:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InvalidValue, match="no pod sees"):
            check_seen(tmp_path, [file])


ROWS = """\
name: rows
data: {name: table, file: patients.csv, numbers: {age: [50, 10]}}
hospitals:
- {name: north, architecture: tab-mlp, data: {site: n}}
- {name: south, architecture: tab-mlp, data: {site: s}}
algorithm: {name: local, rounds: 1}
training: {warmup_epochs: 1}
"""


def table(folder: Path) -> None:
    """Write forty patients of two sites."""
    lines = ["age,label,site,patient,fold"]
    for row in range(40):
        site, label = "ns"[row % 2], ("well", "ill")[row // 2 % 2]
        lines.append(f"{30 + row},{label},{site},{site}{row},{row // 4 % 5}")
    (folder / "patients.csv").write_text("\n".join(lines) + "\n", "utf-8")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_a_run_of_parts_is_the_run_of_the_whole(tmp_path: Path) -> None:
    """Records, samples, weights and predictions, byte for byte; and a second split leaves the first
    alone.
    """
    table(tmp_path)
    scenario, parts = tmp_path / "rows.yaml", tmp_path / "parts"
    scenario.write_text(ROWS, "utf-8")
    done = call("data", "split", scenario, "--data", tmp_path, "--out", parts)
    assert done.exit_code == 0, done.output
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["north", "south"]
    assert b"s1" not in (parts / "north" / "part.json").read_bytes()
    runs = {}
    for data in (tmp_path, parts):
        out = tmp_path / f"run-{data.name}"
        ran = call("launch", scenario, "--on", "memory", "--data", data, "--out", out)
        assert ran.exit_code == 0, ran.output
        kinds = ("records", "samples", "weights", "predictions")
        runs[data] = {
            str(file.relative_to(out)): file.read_bytes()
            for kind in kinds
            for file in sorted((out / kind).iterdir())
        }
    assert len(runs[parts]) == 8
    assert runs[parts] == runs[tmp_path]
    again = call("data", "split", scenario, "--data", tmp_path, "--out", parts)
    assert again.exit_code == OutputNotEmpty.exit_code
    assert "another --out" in again.stderr


def test_data_that_hospitals_make_are_not_split(tmp_path: Path) -> None:
    """With the line of the hospital's data."""
    done = call("data", "split", "roi-synthetic", "--out", tmp_path / "parts")
    assert done.exit_code == InvalidValue.exit_code
    assert "synthetic-roi" in done.stderr
    assert "nothing to split" in done.stderr
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("data", [{"hostPath": "/data"}, {"fetch": {"command": ["x"]}}])
def test_only_claims_are_pushed_to(data: dict[str, object]) -> None:
    """Whoever mounts something else is told how parts are made for it."""
    plan = object.__new__(Plan)
    object.__setattr__(plan, "defaults", {"data": data})
    object.__setattr__(plan, "overrides", {"north": {"data": {"claim": "c-{hospital}"}}})
    with pytest.raises(InvalidValue, match=f"from a {next(iter(data))}") as error:
        claim_of(plan, "south")
    assert "data split" in error.value.fix
    assert claim_of(plan, "north") == "c-north"
