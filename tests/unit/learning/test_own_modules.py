"""Networks of a scenario's own code, as ``fedskd-sim models`` shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedskd_sim import launch
from fedskd_sim.cli import main
from fedskd_sim.learning.offers import OWN, loss
from fedskd_sim.learning.sessions.steps import TrainingStep

SCENARIO = """\
name: own
code: [mine.py]
data: {name: synthetic-skin, samples: 20, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: ARCHITECTURE}}
  - {name: b, architecture: {name: ARCHITECTURE}}
algorithm: {name: local, rounds: 1}
training: {warmup_epochs: 1, batch_size: 20}
"""
NETWORK = """\
from fedskd_sim import architecture
from torch import nn

@architecture("mine")
def build(channels, image_size, classes, *, width=4.0):
    width = int(width)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
    )
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    OWN.use(None)


def test_taps_of_an_own_network_are_proposed(tmp_path: Path) -> None:
    """Of one that gives plain logits; whoever leaves them out is told where they are found; a
    whole number is handed over as a float.
    """
    (tmp_path / "mine.py").write_text(NETWORK, encoding="utf-8")
    place = tmp_path / "s.yaml"
    place.write_text(SCENARIO.replace("ARCHITECTURE", "mine"), encoding="utf-8")
    shown = CliRunner().invoke(
        main, ["models", "mine", "--scenario", str(place), "--set", "options.width=8"]
    )
    assert shown.exit_code == 0, shown.output
    assert "mine.py" in shown.output
    assert "8 x 64 x 64" in shown.output
    assert shown.output.rstrip().rpartition("\n")[2].startswith("proposed: taps: [")
    OWN.use(None)
    without = CliRunner().invoke(main, ["models", "mine"])
    assert without.exit_code == 15
    refused = CliRunner().invoke(main, ["validate", str(place)])
    assert "or name its taps: 'fedskd-sim models NAME', for own code" in refused.output


def test_a_network_that_fails_is_told_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the user's own code, from within the scenario's folder too."""
    (tmp_path / "mine.py").write_text(NETWORK.replace("int(width)", "1 // 0"), encoding="utf-8")
    place = tmp_path / "s.yaml"
    place.write_text(SCENARIO.replace("ARCHITECTURE", "mine"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in (str(place), place.name):
        refused = CliRunner().invoke(main, ["validate", name])
        assert refused.exit_code == 12, refused.output
        assert "by zero (mine.py, line 6)" in refused.stderr


def test_code_of_a_cell_is_left_in_the_run_folder(tmp_path: Path) -> None:
    """To be read by people."""

    @loss("twice", replaces=True)
    def twice(step: TrainingStep, role: str) -> object:
        return 2 * step.cross_entropy(role)

    place = tmp_path / "s.yaml"
    text = SCENARIO.replace("code: [mine.py]\n", "").replace("local", "local, loss: twice")
    place.write_text(text.replace("ARCHITECTURE", "cnn-plain"), encoding="utf-8")
    launch(place, on="memory", code=[twice], out=tmp_path / "run")
    assert "return 2 * step.cross_entropy(role)" in (
        tmp_path / "run" / "code" / "cell.py"
    ).read_text(encoding="utf-8")
