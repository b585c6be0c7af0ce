"""Volumes in NIfTI files, one per row of a table; sites act as hospitals.

Expected in one folder: a table with the columns ``file`` (a path below the table's folder), ``label``, ``site`` and ``subject``,
and optionally ``fold`` (0 to 4, no subject in two folds); without it five folds are drawn here, always the same, spread evenly over
sites and labels. All volumes have one grid. An atlas, if there is one, is a NIfTI file of whole numbers on that grid with the same
affine: 1..R are regions, 0 is background.

Intensities are standardised per volume over the voxels that count: those of the atlas, or without one those that are not 0.
Voxels that are not finite are set to 0 after that and do not count; how many there are stands in the record of the warm-up, and a
volume of which more than a tenth is not finite is refused.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import DataCorrupt, DataMissing
from fedskd_sim.learning.readers import csvfile, cut, npz
from fedskd_sim.learning.readers.csvfile import Row
from fedskd_sim.learning.samples import Arrays, Facts
from fedskd_sim.scenario import Nifti

NEEDED = ("file", "label", "site", "subject")
AXES = 3
MOST_MISSING = 0.1
AFFINE_TOLERANCE = 1e-3
UNREADABLE = (OSError, ValueError, EOFError, zlib.error)


def facts(dataset: Nifti, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read the table, the headers of the hospital's volumes, and the atlas.

    Raises:
        DataMissing: no folder given, or the table, the atlas or a volume is not in it.
        DataCorrupt: the table is damaged, a subject stands in two folds, volumes have different grids, or the atlas has another.
        InvalidValue: no such site, or validation and test are the same fold.

    """
    path = npz.find(dataset.file, folder)
    table, classes, labels = _table(path)
    splits = _splits(dataset, (path, table), labels, (scenario_seed, name))
    grid = _grid([_opened(path.parent / table[row]["file"]) for row in np.concatenate(splits)])
    return Facts(classes, min(grid), 1, labels[splits[0]], "volume", grid, _atlas(dataset, path.parent, table, grid))


def load(dataset: Nifti, folder: Path | None, scenario_seed: int, name: str) -> Arrays:
    """Read the hospital's volumes (N, 1, D, H, W); raises as `facts`, and DataCorrupt for a volume that cannot be used."""
    path = npz.find(dataset.file, folder)
    table, classes, labels = _table(path)
    rows, splits = npz.compact(_splits(dataset, (path, table), labels, (scenario_seed, name)))
    files = [path.parent / table[row]["file"] for row in rows]
    atlas = _atlas(dataset, path.parent, table, _grid([_opened(file) for file in files]))
    raw = [_values(file) for file in files]
    missing = [int((~np.isfinite(values)).sum()) for values in raw]
    counts = None if atlas is None else atlas > 0
    volumes = np.stack([standardised(values, counts, file) for values, file in zip(raw, files, strict=True)])
    remark = f"{sum(missing)} voxels of {sum(map(bool, missing))} volumes are not finite and masked" if sum(missing) else ""
    return Arrays(volumes[:, None], labels[rows], splits, classes, tuple(table[row]["file"] for row in rows), remark)


def standardised(values: NDArray[np.float32], counts: NDArray[np.bool_] | None, file: Path) -> NDArray[np.float32]:
    """Bring a volume (D, H, W) to mean 0 and spread 1 over the voxels that count; all others and missing ones become 0.

    Raises:
        DataCorrupt: too much of it is missing, or it is the same everywhere.

    """
    known = np.isfinite(values)
    inside = known & ((values != 0) if counts is None else counts)
    missing = int((~known).sum())
    if missing > MOST_MISSING * values.size:
        raise _bad(f"{file}: {missing} of {values.size} voxels are not finite numbers")
    spread = float(values[inside].std()) if inside.any() else 0.0
    if not spread:
        raise _bad(f"{file} has the same value everywhere that counts")
    found = np.zeros_like(values)
    found[inside] = (values[inside] - values[inside].mean()) / spread
    return found


def _table(path: Path) -> tuple[list[Row], tuple[str, ...], NDArray[np.int64]]:
    """Read the table, the names of its classes in order, and the label of each row."""
    table = csvfile.rows(path, NEEDED)
    classes, labels = np.unique([row["label"] for row in table], return_inverse=True)
    if len({row["file"] for row in table}) < len(table):
        raise npz.corrupt(f"{path}: a file stands there twice")
    return table, tuple(map(str, classes)), labels.astype(np.int64)


def _splits(dataset: Nifti, source: tuple[Path, list[Row]], labels: NDArray[np.int64], draw: tuple[int, str]) -> npz.Splits:
    path, table = source
    sites, subjects = (np.array([row[key] for row in table]) for key in ("site", "subject"))
    known, site = np.unique(sites, return_inverse=True)
    folds = _folds(path)
    if folds is None:
        folds = cut.drawn_folds(subjects, site * (labels.max() + 1) + labels)
    elif len({*zip(subjects, folds, strict=True)}) > len({*subjects}):
        raise npz.corrupt(f"{path}: a subject stands in more than one fold")
    return cut.by_fold(dataset, cut.Columns(labels, subjects, folds, sites, tuple(map(str, known))), *draw)


def _folds(path: Path) -> NDArray[np.int64] | None:
    """Read the table's folds; None if it has none."""
    header = path.read_text(encoding="utf-8-sig").partition("\n")[0]
    if "fold" not in [name.strip() for name in header.replace("\t", ",").split(",")]:
        return None
    folds = [csvfile.whole(path, row, "fold") for row in csvfile.rows(path, ("fold",))]
    if not set(folds) <= set(range(cut.FOLDS)):
        raise npz.corrupt(f"{path}: folds go from {min(folds)} to {max(folds)}, not from 0 to {cut.FOLDS - 1}")
    return np.array(folds)


def _opened(file: Path) -> Any:
    """Open a file's header."""
    import nibabel as nib  # noqa: PLC0415 - hospitals with other data need not import it

    if not file.is_file():
        raise DataMissing(f"{file} is not there", fix="put it there, or take its row out of the table", key=("data", "file"))
    try:
        image: Any = nib.load(file)
        shape = tuple(image.shape)
    except (*UNREADABLE, nib.filebasedimages.ImageFileError) as error:
        raise _bad(f"{file} cannot be read: {error}") from error
    if len(shape) != AXES:
        raise _bad(f"{file} has the shape {shape}, not three axes")
    return image


def _grid(images: list[Any]) -> tuple[int, ...]:
    """Give the common grid of volumes."""
    if not images:
        return (1, 1, 1)
    first = images[0]
    for image in images:
        if image.shape != first.shape:
            text = f"{image.get_filename()} has a grid of {image.shape} voxels, {first.get_filename()} one of {first.shape}"
            raise _bad(text, "bring all volumes to one grid")
    return tuple(int(cells) for cells in first.shape)


def _values(file: Path) -> NDArray[np.float32]:
    try:
        values: NDArray[np.float32] = np.asarray(_opened(file).dataobj, dtype=np.float32)
    except UNREADABLE as error:
        raise _bad(f"{file} cannot be read: {error}") from error
    return values


def _atlas(dataset: Nifti, folder: Path, table: list[Row], grid: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Read the atlas and compare it with the volumes."""
    if not dataset.atlas:
        return None
    image, volume = _opened(folder / dataset.atlas), _opened(folder / table[0]["file"])
    where = ("data", "atlas")
    if image.shape != grid:
        text = f"{dataset.atlas} has a grid of {image.shape} voxels, the volumes one of {grid}"
        raise _bad(text, "resample the atlas to the volumes' grid with nearest neighbours", where)
    if not np.allclose(image.affine, volume.affine, atol=AFFINE_TOLERANCE):
        text = f"{dataset.atlas} has another affine than {table[0]['file']}: the same voxel is another place"
        raise _bad(text, "resample the atlas to the volumes' space with nearest neighbours", where)
    found = _values(folder / dataset.atlas)
    if not np.isfinite(found).all() or (found != np.round(found)).any() or found.min() < 0 or found.max() < 1:
        text = f"{dataset.atlas} does not have whole region numbers from 1 on, with 0 outside"
        raise _bad(text, "give a label volume", where)
    return found.astype(np.int64)


def _bad(text: str, fix: str = "repair or convert the file", key: tuple[str, ...] = ("data", "file")) -> DataCorrupt:
    return DataCorrupt(text, fix=fix, key=key)
