"""What the models of a hospital take, and the grid on which the ring compares their maps."""

from __future__ import annotations

from pathlib import Path

from fedskd_sim.errors import DataMissing, Key
from fedskd_sim.learning.comparable import shape_of
from fedskd_sim.learning.data import facts
from fedskd_sim.learning.networks.models import AXES, ImageShape, outline
from fedskd_sim.learning.samples import Facts
from fedskd_sim.scenario import Scenario, Similarity


def image_shape(scenario: Scenario, name: str, folder: Path | None) -> ImageShape:
    """Tell what images a hospital has; raises as `fedskd_sim.learning.data.facts`, and
    DataMissing without data.
    """
    return shape_of(require_facts(scenario, name, folder))


def require_facts(scenario: Scenario, name: str, folder: Path | None) -> Facts:
    """Tell what is known of a hospital's data; raises as `image_shape`."""
    found = facts(scenario.hospital(name).data, name, scenario.seed, folder)
    if found is None:
        raise no_data(name, ("data",))
    return found


def pixel_grid(scenario: Scenario, shape: ImageShape) -> tuple[int, ...] | None:
    """Give the canonical grid of the pixel level: the scenario's, or the coarsest of the maps
    compared; None for ROI data.
    """
    if shape.kind == "roi":
        return None
    similarity = scenario.circulating.similarity if scenario.circulating else Similarity()
    if similarity.pixel_grid:
        return (similarity.pixel_grid,) * len(AXES[shape.kind])
    kinds = {
        hospital.architecture.model_dump_json(): hospital.architecture
        for hospital in scenario.hospitals
        if not hospital.held_out
    }
    sizes = [
        outline(architecture, shape).at(similarity.pixel_tap)[1:] for architecture in kinds.values()
    ]
    return tuple(min(cells) for cells in zip(*sizes, strict=True))


def no_data(name: str, key: tuple[Key, ...]) -> DataMissing:
    """Say that a hospital has no data."""
    return DataMissing(
        f"{name!r} has no data",
        key=key,
        fix="add 'data: {name: synthetic-skin}', or another kind of data",
    )
