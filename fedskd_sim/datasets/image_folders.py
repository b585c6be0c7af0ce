"""Folders of images, one per site and in it one per class; sites act as hospitals.

Expected: ``SITE/CLASS/NAME.jpg`` below the folder ``images``. Files are JPEG, PNG, TIFF or, with
the extra ``dicom``, DICOM, whose names end with ``.dcm`` (as `image-table` reads them). With
``patients: true`` they are ``SITE/CLASS/PATIENT/NAME.jpg``. Without it each image is of another
patient, in whatever folders below the class it lies. A patient has one name at a site, under
whatever class.

Five folds are drawn, always the same, evenly over sites and classes. No patient is in two of them.
Images that lie elsewhere, and files of other kinds, are left out and counted. Hidden files and
folders are passed over.
"""

from __future__ import annotations

from pathlib import Path

from fedskd_sim import Cohort, files_below
from fedskd_sim.datasets import imagefiles
from fedskd_sim.errors import DataMissing

DEPTH = 3
"""A site, a class and a name."""
KEY = ("data", "images")


def read(
    folder: Path | None,
    *,
    images: str = "",
    patients: bool = False,
    size: int = 64,
    cache: str = "",
) -> Cohort:
    """Look for images; those that are asked for are decoded, or taken from the folder ``cache``.

    Raises:
        DataMissing: there is no such folder, or no image in a folder of a site and a class.

    """
    where = _place(folder, images)
    files, elsewhere, others = _found(where, DEPTH + patients)
    parts = [file.relative_to(where).parts for file in files]

    return Cohort(
        lambda rows: imagefiles.pixels([files[row] for row in rows], size, cache),
        [part[1] for part in parts],
        subjects=[f"{part[0]}/{part[2]}" for part in parts] if patients else None,
        sites=[part[0] for part in parts],
        ids=["/".join(part) for part in parts],
        besides={
            "images in no folder of a site and a class": [("", "")] * elsewhere,
            "files that are no images": [("", "")] * others,
        },
        preview=lambda rows: imagefiles.preview([files[row] for row in rows], size),
    )


def _place(folder: Path | None, images: str) -> Path:
    if folder is None:
        fix = "give the folder that holds the sites' folders with --data DIR or FEDSKD_DATA"
        raise DataMissing("no data folder was given", fix=fix, key=("data", "name"))
    where = folder / images
    if not where.is_dir():
        raise DataMissing(f"{where} is no folder", fix="name the sites' folder", key=KEY)
    return where


def _found(where: Path, depth: int) -> tuple[list[Path], int, int]:
    """Return the images that lie deep enough, and how many others and other files there are."""
    every, images = len(files_below(where)), imagefiles.below(where)
    deep = [file for file in images if len(file.relative_to(where).parts) >= depth]
    if not deep:
        path = "SITE/CLASS/PATIENT/NAME" if depth > DEPTH else "SITE/CLASS/NAME"
        fix = f"lay them as {path}.jpg, or name the folder of the sites as data.images"
        raise DataMissing(
            f"{where} has no images in folders of sites and classes", fix=fix, key=KEY
        )
    return deep, len(images) - len(deep), every - len(images)
