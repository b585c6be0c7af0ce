"""A folder of the launching machine is not what pods read."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.errors import InvalidValue
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
    assert "hospitals.defaults.data: {claim: data-{hospital}}" in done.stderr


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
