"""Three-dimensional data: volumes made from a seed, and NIfTI files with a table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, NonNegative, Part, Positive, Share

Fold = Annotated[int, Field(ge=0, le=4)]


class SyntheticVolumes(Part):
    """Volumes with an atlas of regions, made from the scenario's seed; nothing is downloaded or stored."""

    name: Literal["synthetic-volumes"]
    """Regions of a ball that light up together in a way that depends on the class, seen through the hospital's own scanner."""
    samples: Annotated[int, Field(ge=10)] = 120
    """Volumes of this hospital; 60 % train, 20 % validate, 20 % test."""
    size: Annotated[int, Field(ge=8, le=64)] = 16
    """Voxels along each axis; every hospital must have the same."""
    regions: Annotated[int, Field(ge=4, le=200)] = 12
    """Regions of the atlas; every hospital must have the same."""
    classes: Annotated[int, Field(ge=2, le=8)] = 2
    """Number of diagnoses; every hospital must have the same."""
    effect: Positive = 0.6
    """How strongly the regions of a class's pattern go up and down together, in units of the noise between regions."""
    site_shift: NonNegative = 0.6
    """Strength of this hospital's own gain, shading and blur; 0 makes all scanners alike."""
    label_skew: Share = 0.6
    """0: all classes equally frequent; 1: class frequencies drawn freely for each hospital (flat Dirichlet)."""


class Nifti(Part):
    """Volumes in NIfTI files, a table that tells their label, site and subject, and an atlas (see README, Data)."""

    name: Literal["nifti"]
    """Sites act as hospitals."""
    file: str = "participants.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA: columns file, label, site, subject; or fold, too."""
    atlas: str = ""
    """A NIfTI file of region numbers on the volumes' grid, inside the same folder; none: regions are the cells of a grid."""
    site: str = ""
    """The site this hospital owns."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a subject."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training volumes, drawn from the seed; null takes all."""
