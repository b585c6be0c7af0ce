"""Derm7pt (Kawahara et al. 2019; terms of its owners, not for commercial use) as it was released:
dermoscopic or clinical images of about a thousand cases.

Expected: the folder ``meta`` with ``meta.csv``, and beside ``meta`` the folder ``images``.
``meta.csv`` has the columns ``case_num``, ``diagnosis``, ``derm`` and ``clinic``; the last two are
paths of images. Beside it lie ``train_indexes.csv``, ``valid_indexes.csv`` and
``test_indexes.csv``, whose column ``indexes`` counts rows of ``meta.csv`` from 0.

Diagnoses are grouped into five as the data's authors do. The official splits are kept. Nothing
says where a case is from, so hospitals share the set by ``partition``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Preview
from fedskd_sim.datasets import csvfile, imagefiles
from fedskd_sim.datasets.csvfile import CsvRow
from fedskd_sim.datasets.refusals import FIX, corrupt, normal_form
from fedskd_sim.errors import DataMissing

CLASSES = ("basal cell carcinoma", "nevus", "melanoma", "miscellaneous", "seborrheic keratosis")
MISCELLANEOUS = ("dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion")
INDEXES = ("train_indexes.csv", "valid_indexes.csv", "test_indexes.csv")
SPLITS = np.array(["train", "validation", "test", "none"])
"""In the order of `INDEXES`, and last that of a row in none of them."""
Rows = NDArray[np.integer[Any]]


def read(
    folder: Path,
    *,
    file: str = "release_v0/meta/meta.csv",
    view: str = "derm",
    size: int = 64,
    cache: str = "",
) -> Cohort:
    """Read the tables; images of the view, derm or clinic, are decoded when they are asked for, or
    taken from the folder ``cache``.
    """
    path = folder / file
    table = csvfile.rows(path, ("case_num", "diagnosis", view))
    labels, split = [_class_of(path, row) for row in table], _split(path, len(table))
    _check_images(path, table, view, [*zip(labels, split, strict=True)])

    def paths(rows: Rows) -> list[Path]:
        return [path.parent.parent / "images" / table[row][view] for row in rows]

    def preview(rows: Rows) -> Preview:
        imagefiles.all_there(paths(rows))
        return Preview(np.empty((0, size, size, 3), np.uint8))

    cases = [row["case_num"] for row in table]
    return Cohort(
        lambda rows: imagefiles.pixels(paths(rows), size, cache),
        labels,
        CLASSES,
        subjects=cases,
        splits=SPLITS[split],
        ids=cases,
        preview=preview,
    )


def _check_images(path: Path, table: list[CsvRow], view: str, whose: list[tuple[str, int]]) -> None:
    """Refuse an image that is written in two ways, or of two diagnoses or splits."""
    first: dict[str, int] = {}
    for row, place in enumerate(image[view] for image in table):
        before = first.setdefault(normal_form(place), row)
        other = table[before][view]
        if other != place:
            text = f"{path}: a {view} is written in two ways: {other!r} in row {before + 1}"
            raise corrupt(f"{text} and {place!r} in row {row + 1}", FIX)
        if whose[before] != whose[row]:
            both = f"case {table[before]['case_num']} and case {table[row]['case_num']}"
            text = f"{path}: {place} is the image of {both}"
            raise corrupt(f"{text}, which differ in diagnosis or split")


def _class_of(path: Path, row: CsvRow) -> str:
    """Return the class of a diagnosis."""
    named = row["diagnosis"]
    if named.split()[-1] == "nevus":
        return "nevus"
    if named.split()[0] == "melanoma":
        return "melanoma"
    if named in MISCELLANEOUS:
        return "miscellaneous"
    if named not in CLASSES:
        raise corrupt(f"{path}: case {row['case_num']} has the unknown diagnosis {named!r}")
    return named


def _split(path: Path, rows: int) -> NDArray[np.int64]:
    """Read the split of every row; -1 for a row in none."""
    split = np.full(rows, -1, np.int64)
    for number, file in enumerate(INDEXES):
        place = path.parent / file
        if not place.is_file():
            fix = "put the release's folder there as it was downloaded (see docs/data.md)"
            raise DataMissing(f"{place} is not there", fix=fix)
        places = np.array(
            [csvfile.whole(place, row, "indexes") for row in csvfile.rows(place, ("indexes",))]
        )
        if not 0 <= places.min() <= places.max() < rows:
            raise corrupt(
                f"{place} goes from {places.min()} to {places.max()}, but {path.name} has {rows} "
                "rows"
            )
        if len(np.unique(places)) < len(places) or (split[places] >= 0).any():
            raise corrupt(f"{place} has a row that stands there twice, or in another split")
        split[places] = number
    return split
