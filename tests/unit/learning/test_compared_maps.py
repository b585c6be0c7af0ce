"""Maps of which a level can compare little or nothing are noted by `validate`, and not passed over:
a run over them would report a distance of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.errors import OutputNotEmpty
from fedskd_sim.learning.comparable import notes_of_maps, region_mass
from fedskd_sim.learning.data import facts
from fedskd_sim.learning.distillation.arrangements import atlas_pooling
from fedskd_sim.scenario import load

VOLUMES = """
name: compared
data: {name: synthetic-volumes, size: 16, samples: 30, regions: 12}
hospitals:
  - {name: a, architecture: vol-plain}
  - {name: cork, architecture: vol-r3d18}
algorithm: {name: fedskd, rounds: 1SIMILARITY}
"""
IMAGES = """
name: compared
data: {name: synthetic-skin, samples: 40, image_size: 48, classes: 3}
hospitals:
  - name: cork
    architecture:
      {name: "torchvision.models:SqueezeNet", options: {num_classes: $classes}, taps: TAPS}
  - {name: b, architecture: cnn-plain}
algorithm: {name: fedskd, rounds: 1, similarity: {region: 0.0SIMILARITY}}
"""


def notes(path: Any) -> list[str]:
    scenario = load(path).scenario
    known = [facts(one.data, one.name, scenario.seed, None) for one in scenario.hospitals]
    return [*notes_of_maps(scenario, [found for found in known if found])]


def test_regions_that_are_too_small_on_a_map_are_counted(scenario_file: Callable) -> None:
    """`validate` and `launch` say so, for every hospital of which less than half of the regions are
    compared; not where the level has no weight.
    """
    (note,) = notes(path := scenario_file(VOLUMES.replace("SIMILARITY", "")))
    assert note.startswith(
        "Note: cork's deep map is 2 x 1 x 1 for volumes of 16 x 16 x 16 voxels: 0 of 12 regions "
        "are compared at the region level. Choose a finer deep tap"
    )
    assert "set algorithm.similarity.region to 0" in note
    assert note in CliRunner().invoke(main, ["validate", str(path)]).output.splitlines()
    taken = path.parent / "taken"
    taken.mkdir()
    (taken / "something").touch()
    launched = CliRunner().invoke(
        main, ["launch", str(path), "--on", "memory", "--out", str(taken)]
    )  # it ends before it runs, since the folder is not empty
    assert launched.exit_code == OutputNotEmpty.exit_code
    assert launched.stderr.splitlines()[0] == note
    off = VOLUMES.replace("SIMILARITY", ", similarity: {region: 0.0}")
    assert notes(scenario_file(off)) == []
    assert notes(scenario_file(off.replace("{region: 0.0}", "{region_tap: mid}"))) == []


TAPPED = {
    "right": ("[features.5, features.10]", "", ""),
    "swapped": (
        "[features.10, features.5]", "",
        "Note: cork's middle map is 5 x 5, coarser than its deep map, 10 x 10",
    ),
    "a vector": (
        "[classifier, classifier]", "",
        "Note: the grid of the pixel level has one place: so has the mid map of cork. Nothing is",
    ),
    "set": ("[features.5, features.10]", ", pixel_grid: 1",
            "Note: algorithm.similarity.pixel_grid is one place, and nothing is compared at the"),
}  # fmt: skip


@pytest.mark.parametrize(("taps", "similarity", "said"), TAPPED.values(), ids=TAPPED)
def test_taps_that_teach_nothing_are_noted(
    taps: str, similarity: str, said: str, scenario_file: Callable
) -> None:
    """A grid of one place, and the two taps in the wrong order."""
    text = IMAGES.replace("TAPS", taps).replace("SIMILARITY", similarity)
    found = notes(scenario_file(text))
    assert [note.startswith(said) for note in found] == ([True] if said else []), found


def test_the_size_of_regions_is_that_of_the_pooling() -> None:
    """On grids that divide the atlas and on others."""
    labels = torch.randint(-1, 6, (7, 9, 8), generator=torch.Generator().manual_seed(1))
    for grid in ((7, 9, 8), (2, 4, 4), (1, 3, 5), (1, 1, 1)):
        mass = region_mass(labels.numpy(), grid)
        assert mass == pytest.approx(atlas_pooling(labels, grid).mass.numpy())
