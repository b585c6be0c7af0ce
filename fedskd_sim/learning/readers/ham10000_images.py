"""HAM10000 (Tschandl et al. 2018, CC BY-NC 4.0) as it was released: four source collections act as
four hospitals.

Expected: a table with the columns ``lesion_id``, ``image_id``, ``dx`` and ``dataset`` (the
collection), and an image ``IMAGE_ID.jpg`` for every row in any folders below that of the table,
such as HAM10000_images_part_1 and _part_2.

Five folds are drawn here, always the same: images of one lesion share a fold, and diagnoses of
every collection are spread evenly. Nine lesions of the release have images in two collections, and
so at two hospitals, but never in two folds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers import csvfile, cut, imagefiles, npz, splits
from fedskd_sim.learning.readers.csvfile import CsvRow
from fedskd_sim.learning.samples import Facts, Images
from fedskd_sim.scenario import Ham10000Images

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
NEEDED = ("lesion_id", "image_id", "dx", "dataset")


def facts(dataset: Ham10000Images, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read the table and look for the hospital's images without opening them.

    Raises:
        DataMissing: no folder given, or the table is not in it.
        DataCorrupt: the table is damaged or names an unknown diagnosis or an image twice, or an
            image is missing or there twice.
        InvalidValue: no such site, validation and test are the same fold, or too small a part.
        NoTrainingSamples: nothing of the part trains.

    """
    path = npz.find(dataset.file, folder)
    table, labels = _table(path)
    chosen, images = (
        _splits(dataset, table, labels, (scenario_seed, name)),
        imagefiles.by_name(path.parent),
    )
    imagefiles.all_there(_paths(path, table, chosen.rows, images))
    unknown = len(images.keys() - {row["image_id"].casefold() for row in table})
    besides = {"images that the table does not name": {splits.UNLABELLED: unknown}}
    counts = splits.counts(name, splits.Source(dataset.file, CLASSES, labels, besides), chosen)
    return Facts(CLASSES, dataset.size, 3, labels[chosen.train], counts)


def load(dataset: Ham10000Images, folder: Path | None, scenario_seed: int, name: str) -> Images:
    """Read the hospital's images; raises as `facts`, and DataCorrupt for an image that cannot be
    read.
    """
    path = npz.find(dataset.file, folder)
    table, labels = _table(path)
    chosen = _splits(dataset, table, labels, (scenario_seed, name))
    rows = chosen.rows
    pixels = imagefiles.pixels(
        _paths(path, table, rows, imagefiles.by_name(path.parent)), dataset.size, dataset.cache
    )
    ids = tuple(table[row]["image_id"] for row in rows)
    return Images(pixels, labels[rows], chosen.places, CLASSES, ids, chosen.subjects)


def _table(path: Path) -> tuple[list[CsvRow], NDArray[np.int64]]:
    """Read the table and the label of each row."""
    table = csvfile.rows(path, NEEDED)
    unknown = [row for row in table if row["dx"] not in CLASSES]
    if unknown:
        text = (
            f"{path}: {unknown[0]['image_id']} has dx {unknown[0]['dx']!r}, which is none of "
            f"{', '.join(CLASSES)}"
        )
        raise npz.corrupt(text)
    splits.check_once(path, table, "image_id")
    splits.check_spelling(path, table, "lesion_id", "dataset")
    return table, np.array([CLASSES.index(row["dx"]) for row in table])


def _splits(
    dataset: Ham10000Images, table: list[CsvRow], labels: NDArray[np.int64], draw: tuple[int, str]
) -> splits.Splits:
    sites, groups = (np.array([row[key] for row in table]) for key in ("dataset", "lesion_id"))
    known, site = np.unique(sites, return_inverse=True)
    folds = cut.draw_folds(groups, site * len(CLASSES) + labels)
    return cut.by_fold(
        dataset, cut.Columns(labels, groups, folds, sites, tuple(map(str, known))), *draw
    )


def _paths(
    path: Path, table: list[CsvRow], rows: splits.Rows, images: imagefiles.Names
) -> list[Path]:
    """Return the image of each row; for one that is missing, where it could be."""
    return [imagefiles.of_name(images, table[row]["image_id"], path.parent) for row in rows]
