"""HAM10000 (Tschandl et al. 2018, CC BY-NC 4.0) as it was released: skin images in seven classes.

Expected: a table with the columns ``lesion_id``, ``image_id``, ``dx`` and ``dataset`` (the
collection), and for every row an image ``IMAGE_ID.jpg``. Images lie in any folders below that of
the table, such as HAM10000_images_part_1 and _part_2.

Four source collections act as hospitals. Five folds are drawn, always the same: images of one
lesion share a fold, and diagnoses of every collection are spread evenly. Nine lesions of the
release have images in two collections, and so at two hospitals, but never in two folds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Preview
from fedskd_sim.datasets import csvfile, imagefiles
from fedskd_sim.datasets.refusals import check_once

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
NEEDED = ("lesion_id", "image_id", "dx", "dataset")
Rows = NDArray[np.integer[Any]]


def read(
    folder: Path, *, file: str = "HAM10000_metadata.csv", size: int = 64, cache: str = ""
) -> Cohort:
    """Read the table, and look for images; those that are asked for are decoded, or taken from the
    folder ``cache``.
    """
    path = folder / file
    table = csvfile.rows(path, NEEDED)
    check_once(path, table, "image_id")
    images = imagefiles.by_name(path.parent)
    unknown = len(images.keys() - {row["image_id"].casefold() for row in table})

    def paths(rows: Rows) -> list[Path]:
        return [imagefiles.of_name(images, table[row]["image_id"], path.parent) for row in rows]

    def preview(rows: Rows) -> Preview:
        imagefiles.all_there(paths(rows))
        return Preview(np.empty((0, size, size, 3), np.uint8))

    return Cohort(
        lambda rows: imagefiles.pixels(paths(rows), size, cache),
        [row["dx"] for row in table],
        CLASSES,
        subjects=[row["lesion_id"] for row in table],
        sites=[row["dataset"] for row in table],
        ids=[row["image_id"] for row in table],
        besides={"images that the table does not name": [("", "")] * unknown},
        preview=preview,
    )
