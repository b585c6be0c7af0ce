"""Derm7pt (Kawahara et al. 2019) as it was released: dermoscopic or clinical images of about a
thousand cases.

Expected: the folder ``meta`` with ``meta.csv`` (columns ``case_num``, ``diagnosis``, and ``derm``
and ``clinic``, the paths of the images) and with ``train_indexes.csv``, ``valid_indexes.csv`` and
``test_indexes.csv`` (column ``indexes``, places in meta.csv from 0); beside it the folder
``images``. Diagnoses are grouped into five as the data's authors do. Nothing says where a case is
from, so hospitals share the set by ``partition``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import DataMissing
from fedskd_sim.learning.readers import csvfile, cut, imagefiles, npz, splits
from fedskd_sim.learning.readers.csvfile import CsvRow
from fedskd_sim.learning.samples import Facts, Images
from fedskd_sim.scenario import Derm7pt

CLASSES = ("basal cell carcinoma", "nevus", "melanoma", "miscellaneous", "seborrheic keratosis")
MISCELLANEOUS = ("dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion")
INDEXES = ("train_indexes.csv", "valid_indexes.csv", "test_indexes.csv")
"""In the order of `cut.TRAIN`, `cut.VALIDATION` and `cut.TEST`."""


def facts(dataset: Derm7pt, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read the tables and look for the hospital's images without opening them.

    Raises:
        DataMissing: no folder given, or a table is not there.
        DataCorrupt: a table is damaged, a diagnosis unknown, an index out of range, a case in two
            splits, or an image is missing.
        InvalidValue: too small a part.
        NoTrainingSamples: nothing of the part trains.

    """
    path = npz.find(dataset.file, folder)
    table, columns = _columns(path, dataset.view)
    chosen = cut.by_split(dataset, columns, scenario_seed, name)
    imagefiles.all_there(_paths(path, dataset.view, table, chosen.rows))
    counts = splits.counts(name, splits.Source(dataset.file, CLASSES, columns.labels), chosen)
    return Facts(CLASSES, dataset.size, 3, columns.labels[chosen.train], counts)


def load(dataset: Derm7pt, folder: Path | None, scenario_seed: int, name: str) -> Images:
    """Read the hospital's images; raises as `facts`, and DataCorrupt for an image that cannot be
    read.
    """
    path = npz.find(dataset.file, folder)
    table, columns = _columns(path, dataset.view)
    chosen = cut.by_split(dataset, columns, scenario_seed, name)
    rows = chosen.rows
    pixels = imagefiles.pixels(_paths(path, dataset.view, table, rows), dataset.size, dataset.cache)
    return Images(
        pixels,
        columns.labels[rows],
        chosen.places,
        CLASSES,
        cut.distinct([row["case_num"] for row in table], rows),
        chosen.subjects,
    )


def _columns(path: Path, view: str) -> tuple[list[CsvRow], cut.Columns]:
    """Read the table, and each row's label, case and split."""
    table = csvfile.rows(path, ("case_num", "diagnosis", view))
    labels = np.array([CLASSES.index(_class_of(path, row)) for row in table])
    splits.check_spelling(path, table, "case_num", view)
    cases, split = np.array([row["case_num"] for row in table]), _split(path, len(table))
    used = split >= 0
    if len({*zip(cases[used], split[used], strict=True)}) > len({*cases[used]}):
        raise npz.corrupt(f"{path}: a case_num stands in more than one split")
    first: dict[str, int] = {}
    for row, place in enumerate(image[view] for image in table):
        before = first.setdefault(place, row)
        if (labels[before], split[before]) != (labels[row], split[row]):
            both = f"case {table[before]['case_num']} and case {table[row]['case_num']}"
            raise npz.corrupt(
                f"{path}: {place} is the image of {both}, which differ in diagnosis or split"
            )
    return table, cut.Columns(labels, cases, split)


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
        raise npz.corrupt(f"{path}: case {row['case_num']} has the unknown diagnosis {named!r}")
    return named


def _split(path: Path, rows: int) -> NDArray[np.int64]:
    """Read the split of every row; -1 for a row in none."""
    split = np.full(rows, -1, np.int64)
    for number, file in enumerate(INDEXES):
        place = path.parent / file
        if not place.is_file():
            fix = "put the release's folder there as it was downloaded (see docs/data.md)"
            raise DataMissing(f"{place} is not there", fix=fix, key=("data", "file"))
        places = np.array(
            [csvfile.whole(place, row, "indexes") for row in csvfile.rows(place, ("indexes",))]
        )
        if not 0 <= places.min() <= places.max() < rows:
            raise npz.corrupt(
                f"{place} goes from {places.min()} to {places.max()}, but {path.name} has {rows} "
                "rows"
            )
        if len(np.unique(places)) < len(places) or (split[places] >= 0).any():
            raise npz.corrupt(f"{place} has a row that stands there twice, or in another split")
        split[places] = number
    return split


def _paths(path: Path, view: str, table: list[CsvRow], rows: splits.Rows) -> list[Path]:
    return [path.parent.parent / "images" / table[row][view] for row in rows]
