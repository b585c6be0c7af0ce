"""Three-dimensional data: volumes made from a seed, and NIfTI files with a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from fedskd_sim.errors import InvalidValue
from fedskd_sim.scenario.part import Count, NonNegative, Part, Positive, Samples, Share

Fold = Annotated[int, Field(ge=0, le=4)]


class SyntheticVolumes(Part):
    """Volumes with an atlas of regions, made from the scenario's seed; nothing is downloaded or
    stored.
    """

    name: Literal["synthetic-volumes"]
    """Regions of a ball that light up together in a way that depends on the class, seen through the
    hospital's own scanner."""
    samples: Samples = 120
    """Volumes of this hospital; 60 % train, 20 % validate, 20 % test."""
    size: Annotated[int, Field(ge=8, le=64)] = 16
    """Voxels along each axis; every hospital must have the same."""
    regions: Annotated[int, Field(ge=4, le=200)] = 12
    """Regions of the atlas; every hospital must have the same."""
    classes: Annotated[int, Field(ge=2, le=8)] = 2
    """Number of diagnoses; every hospital must have the same."""
    effect: Positive = 0.6
    """How strongly the regions of a class's pattern go up and down together, in units of the noise
    between regions."""
    site_shift: NonNegative = 0.6
    """Strength of this hospital's own gain, shading and blur; 0 makes all scanners alike."""
    label_skew: Share = 0.6
    """0: all classes equally frequent; 1: class frequencies drawn freely for each hospital (flat
    Dirichlet)."""


Row = tuple[float, float, float, float]


class Space(Part):
    """Where the voxels of every volume lie once its axes point to the right, the front and the
    top; hospitals share it.
    """

    grid: tuple[Count, Count, Count]
    """Voxels along the three axes."""
    affine: tuple[Row, Row, Row]
    """From the indices of a voxel to its place in millimetres, three rows of four numbers;
    ``validate`` writes it."""


class Nifti(Part):
    """Volumes in NIfTI files, a table that tells their label, site and subject, and an atlas
    (see docs/data.md).
    """

    name: Literal["nifti"]
    """Sites act as hospitals."""
    file: str = "participants.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA: columns file, label, site,
    subject; or fold, too."""
    atlas: str = ""
    """A NIfTI file of region numbers on the volumes' grid, inside the same folder; none: regions
    are the cells of a grid."""
    space: Space | None = None
    """Where the voxels of every volume lie, which compares hospitals that cannot see each other's
    files; needed in a cluster."""
    site: str = ""
    """The site this hospital owns."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a subject."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training volumes, drawn from the seed; null takes all."""


def spaces_differ(hospitals: Sequence[Any]) -> Iterator[InvalidValue]:
    """Find hospitals whose ``space`` is another than that of the first with volumes in files."""
    known = [
        (index, hospital)
        for index, hospital in enumerate(hospitals)
        if isinstance(hospital.data, Nifti)
    ]
    for index, hospital in known[1:]:
        if hospital.data.space != known[0][1].data.space:
            text = f"{hospital.name!r} has another space than {known[0][1].name!r}"
            yield InvalidValue(
                text,
                key=("hospitals", index, "data", "space"),
                fix="write it once, in the top level's data",
            )


def spaceless(hospitals: Sequence[Any]) -> Iterator[InvalidValue]:
    """Find hospitals with volumes in files whose ``space`` is not said, which hospitals that are
    apart need.
    """
    for index, hospital in enumerate(hospitals):
        if isinstance(hospital.data, Nifti) and hospital.data.space is None:
            text = (
                f"nothing says where the voxels of {hospital.name!r} lie, and in a cluster nobody "
                "sees the files of two hospitals"
            )
            fix = (
                "add the 'space' that 'fedskd-sim validate' shows where the files are to the top "
                "level's data"
            )
            yield InvalidValue(text, key=("hospitals", index, "data"), fix=fix)
