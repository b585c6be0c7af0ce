"""Whether hospitals can learn together from what each of them has: the same classes, and inputs of
one shape, space and atlas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fedskd_sim.errors import FedskdError, LabelSpacesDiffer
from fedskd_sim.learning.geometry import difference
from fedskd_sim.learning.networks.models import ImageShape
from fedskd_sim.learning.samples import Facts
from fedskd_sim.scenario import Hospital


def shape_of(found: Facts) -> ImageShape:
    """Give the part of the facts that decides what a model looks like."""
    return ImageShape(found.channels, found.size, len(found.classes), found.kind, found.grid)


def compare(
    index: int, hospital: Hospital, found: Facts, first: tuple[str, Facts]
) -> Iterator[FedskdError]:
    """Compare a hospital's data with that of the first."""
    key = ("hospitals", index, "data")
    if found.classes != first[1].classes:
        text = (
            f"{hospital.name!r} has the classes {_list_classes(found)}, {first[0]!r} has "
            f"{_list_classes(first[1])}"
        )
        yield LabelSpacesDiffer(text, key=key, fix="give all hospitals the same classes")
    elif apart := _apart(found, first[1]):
        fix = (
            "bring the volumes of all hospitals to one space, for example by resampling to a "
            "template"
        )
        yield LabelSpacesDiffer(apart, key=key, fix=fix)
    elif shape_of(found)._replace(classes=0) != shape_of(first[1])._replace(classes=0):
        text = f"{hospital.name!r} has {inputs_of(found)}, {first[0]!r} has {inputs_of(first[1])}"
        yield LabelSpacesDiffer(
            text,
            key=key,
            fix="give all hospitals images or volumes of one size, or the regions of one atlas",
        )
    elif not np.array_equal(_atlas(found), _atlas(first[1])):
        text = f"{hospital.name!r} has another atlas than {first[0]!r}"
        yield LabelSpacesDiffer(text, key=key, fix="give all hospitals the same atlas")


def _apart(found: Facts, first: Facts) -> str:
    """Say how the volumes of two hospitals lie otherwise; empty if they do not, or are no
    volumes.
    """
    if found.kind != "volume" or first.kind != "volume" or found.geometry is first.geometry is None:
        return ""
    if found.geometry is None or first.geometry is None:
        known = found.geometry or first.geometry
        return (
            f"{known.source if known else ''} says where its voxels lie, and the volumes of "
            "another hospital do not"
        )
    return difference(found.geometry, first.geometry)


def _atlas(found: Facts) -> Any:
    return () if found.atlas is None else found.atlas


def inputs_of(found: Facts) -> str:
    """Say in words what goes into a model."""
    if found.kind == "volume":
        return f"volumes of {' x '.join(map(str, found.grid))} voxels"
    return (
        f"images of {found.size} pixels{' in grey' * (found.channels == 1)}"
        if found.kind == "image"
        else f"connectivity of {found.size} regions"
    )


def _list_classes(found: Facts) -> str:
    return f"{', '.join(found.classes)} ({len(found.classes)})"
