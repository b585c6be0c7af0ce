"""A table of images in files of their own; its sites act as hospitals.

Expected: a CSV table with the columns ``file``, ``label`` and, where they are there, ``site``,
``patient`` and ``fold``; keys of the scenario give them other names. A file is a path below the
folder ``images``, which lies beside the table. Its ending may be left out. Folds are 0 to 4, and no
patient is in two of them. Without the column five folds are drawn, always the same, evenly over
sites and labels.

Files are JPEG, PNG, TIFF or, with the extra ``dicom``, DICOM. A DICOM file has one frame, and is
read through its modality LUT and its first window; without a window from its smallest to its
largest value. MONOCHROME1 is inverted. Text that is burned into a picture is not looked for. In a
cluster hospitals need `pydicom` only where `fedskd-sim data push` has not brought them their part.

The table ``train_test_split`` of Fed-ISIC2019 (FLamby, du Terrail et al. 2022) has the columns
``image``, ``target`` and ``center``, and images as JPEG. Centres 0 to 5 have 12,413, 3,954, 3,363,
2,259, 819 and 439 of its 23,247 images; put the table beside their folder. Its column
``fold`` holds ``train`` or ``test`` and no validation, so ``fold_column: ""`` has five folds drawn.
It names no lesions: two images of one may be in two folds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from fedskd_sim import Cohort
from fedskd_sim.datasets import csvfile, imagefiles
from fedskd_sim.datasets.csvfile import CsvRow
from fedskd_sim.datasets.refusals import corrupt
from fedskd_sim.datasets.table import labelled


def read(  # noqa: PLR0913 - each is a key of the scenario
    folder: Path,
    *,
    file: str = "table.csv",
    images: str = "",
    file_column: str = "file",
    label_column: str = "label",
    labels: Mapping[str, Sequence[str]] | None = None,
    site_column: str = "site",
    patient_column: str = "patient",
    fold_column: str = "fold",
    size: int = 64,
    cache: str = "",
) -> Cohort:
    """Read the table, and look for images; those that are asked for are decoded, or taken from the
    folder ``cache``. Raises DataCorrupt.
    """
    path = folder / file
    about = [name for name in (site_column, patient_column, fold_column) if name]
    table = csvfile.rows(path, (file_column, label_column), about)
    files, unnamed = _found(path, path.parent / images, [row[file_column] for row in table])
    named, classes = labelled(path, table, label_column, labels)
    folds = fold_column in table[0]
    return Cohort(
        lambda rows: imagefiles.pixels([files[row] for row in rows], size, cache),
        named,
        classes,
        subjects=_column(table, patient_column),
        sites=_column(table, site_column),
        folds=[csvfile.whole(path, row, fold_column) for row in table] if folds else None,
        ids=[row[file_column] for row in table],
        besides={"images that the table does not name": [("", "")] * unnamed},
        preview=lambda rows: imagefiles.preview([files[row] for row in rows], size),
    )


def _column(table: Sequence[CsvRow], name: str) -> list[str] | None:
    return [row[name] for row in table] if name in table[0] else None


def _found(path: Path, where: Path, cells: Sequence[str]) -> tuple[list[Path], int]:
    """Return the file of each row, for one that is missing where it should be, and how many images
    no row names; raises DataCorrupt.
    """
    there = {str(one.relative_to(where)): one for one in imagefiles.below(where)}
    endless: dict[str, list[Path]] = {}
    for name, one in there.items():
        endless.setdefault(str(PurePath(name).with_suffix("")), []).append(one)
    files: dict[Path, int] = {}
    for row, cell in enumerate(cells, 1):
        name = os.path.normpath(cell)
        if Path(name).is_absolute() or os.pardir in Path(name).parts:
            text = f"{path}: row {row} has {cell!r}, which is not below {where}"
            raise corrupt(text, "write paths below that folder")
        alike = [there[name]] if name in there else endless.get(name, [])
        if len(alike) > 1:
            text = (
                f"{path}: row {row} has {cell!r}, which may be {alike[0].name} or {alike[1].name}"
            )
            raise corrupt(text, "write it with its ending")
        file = alike[0] if alike else where / name
        if files.setdefault(file, row) != row:
            text = f"{path}: rows {files[file]} and {row} both name {file}"
            raise corrupt(text, "keep one of them")
    return [*files], len({*there.values()} - files.keys())
