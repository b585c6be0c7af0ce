"""Volumes in NIfTI files, one per row of a table; sites act as hospitals.

Expected in one folder: a table with the columns ``file`` (a path below the table's folder),
``label``, ``site`` and ``subject``, and optionally ``fold`` (0 to 4, no subject in two folds);
without it five folds are drawn here, always the same, spread evenly over sites and labels. Volumes
are read on axes to the right, the front and the top, and all have one geometry then: that of
``space``, or without it that of the hospital's first volume. An atlas, if there is one, is a NIfTI
file of whole numbers with that geometry: 0 is background, every other number a region.

Intensities are standardised per volume over the voxels that count: those of the atlas, or without
one those that are not 0. Voxels that are not finite are set to 0 after that and do not count; how
many there are stands in the record of the warm-up, and a volume of which more than a tenth is not
finite is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.geometry import Geometry, difference
from fedskd_sim.learning.readers import csvfile, cut, names, niftifiles, npz, splits, tree
from fedskd_sim.learning.readers.csvfile import Row
from fedskd_sim.learning.readers.niftifiles import bad
from fedskd_sim.learning.samples import Arrays, Facts
from fedskd_sim.scenario import Nifti

NEEDED = ("file", "label", "site", "subject")
MOST_MISSING = 0.1


def facts(dataset: Nifti, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read the table, the headers of the hospital's volumes, and the atlas.

    Raises:
        DataMissing: no folder given, or the table, the atlas or a volume is not in it.
        DataCorrupt: the table is damaged, a subject stands in two folds, a file is no volume of
            real numbers, or two files, or a file and ``space``, differ in their geometry.
        InvalidValue: no such site, or validation and test are the same fold.

    """
    path = npz.find(dataset.file, folder)
    table, classes, labels = _table(path)
    chosen = _splits(dataset, (path, table), labels, (scenario_seed, name))
    besides = {
        "volumes that the table does not name": {
            splits.UNLABELLED: _count_unnamed(dataset, path, table)
        }
    }
    counts = splits.counts(name, splits.Source(dataset.file, classes, labels, besides), chosen)
    geometry = _geometry(dataset, [path.parent / table[row]["file"] for row in chosen.rows])
    if geometry is None:
        return Facts(classes, 1, 1, labels[chosen.train], counts, "volume", (1, 1, 1))
    atlas = _atlas(dataset, path.parent, geometry)
    return Facts(
        classes,
        min(geometry.grid),
        1,
        labels[chosen.train],
        counts,
        "volume",
        geometry.grid,
        atlas,
        geometry,
    )


def load(dataset: Nifti, folder: Path | None, scenario_seed: int, name: str) -> Arrays:
    """Read the hospital's volumes (N, 1, D, H, W); raises as `facts`, and DataCorrupt for a
    volume that cannot be used.
    """
    path = npz.find(dataset.file, folder)
    table, classes, labels = _table(path)
    chosen = _splits(dataset, (path, table), labels, (scenario_seed, name))
    rows = chosen.rows
    files = [path.parent / table[row]["file"] for row in rows]
    geometry = _geometry(dataset, files)
    atlas = None if geometry is None else _atlas(dataset, path.parent, geometry)
    counts = None if atlas is None else atlas > 0
    volumes, missing = (
        np.empty((len(files), 1, *(geometry.grid if geometry else (1, 1, 1))), np.float32),
        [],
    )
    for row, file in enumerate(files):
        values = niftifiles.values(niftifiles.open_volume(file))
        missing.append(int((~np.isfinite(values)).sum()))
        volumes[row, 0] = standardise(values, counts, file)
    remark = (
        f"{sum(missing)} voxels of {sum(map(bool, missing))} volumes are not finite and masked"
        if sum(missing)
        else ""
    )
    return Arrays(
        volumes,
        labels[rows],
        chosen.places,
        classes,
        tuple(table[row]["file"] for row in rows),
        chosen.subjects,
        remark,
    )


def standardise(
    values: NDArray[np.floating], counts: NDArray[np.bool_] | None, file: Path
) -> NDArray[np.float32]:
    """Bring a volume (D, H, W) to mean 0 and spread 1 over the voxels that count; all others and
    missing ones become 0.

    Raises:
        DataCorrupt: too much of it is missing, it is the same everywhere, or its spread is no
            finite number.

    """
    known = np.isfinite(values)
    inside = known & ((values != 0) if counts is None else counts)
    missing = int((~known).sum())
    if missing > MOST_MISSING * values.size:
        raise bad(f"{file}: {missing} of {values.size} voxels are not finite numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(values[inside].std()) if inside.any() else 0.0
    if not spread:
        raise bad(f"{file} has the same value everywhere that counts")
    if not np.isfinite(spread):
        raise bad(f"{file} has numbers too large to compute with", "rescale it")
    found = np.zeros(values.shape, np.float32)
    found[inside] = (values[inside] - values[inside].mean()) / spread
    return found


def _table(path: Path) -> tuple[list[Row], tuple[str, ...], NDArray[np.int64]]:
    """Read the table, the names of its classes in order, and the label of each row."""
    table = csvfile.rows(path, NEEDED, ("fold",))
    names.check_once(path, [{"file": _normal(row["file"])} for row in table], "file")
    names.check_spelling(path, table, "label", "site", "subject")
    classes, labels = np.unique([row["label"] for row in table], return_inverse=True)
    return table, tuple(map(str, classes)), labels.astype(np.int64)


def _splits(
    dataset: Nifti, source: tuple[Path, list[Row]], labels: NDArray[np.int64], draw: tuple[int, str]
) -> splits.Splits:
    path, table = source
    sites, subjects = (np.array([row[key] for row in table]) for key in ("site", "subject"))
    known, site = np.unique(sites, return_inverse=True)
    folds = _folds(path, table)
    if folds is None:
        folds = cut.draw_folds(subjects, site * (labels.max() + 1) + labels)
    elif len({*zip(subjects, folds, strict=True)}) > len({*subjects}):
        raise npz.corrupt(f"{path}: a subject stands in more than one fold")
    return cut.by_fold(
        dataset, cut.Columns(labels, subjects, folds, sites, tuple(map(str, known))), *draw
    )


def _normal(file: str) -> str:
    """Write the path of a file in one way: both halves of a pair are one file."""
    path = PurePath(os.path.normpath(file))
    return str(path.with_suffix(".hdr") if path.suffix == ".img" else path)


def _count_unnamed(dataset: Nifti, path: Path, table: list[Row]) -> int:
    """Count the volumes below the table's folder that neither it nor the scenario names."""
    known = {_normal(row["file"]) for row in table} | {_normal(dataset.atlas)}
    files = tree.ending(path.parent, ".nii", ".nii.gz", ".hdr")
    return sum(_normal(str(file.relative_to(path.parent))) not in known for file in files)


def _folds(path: Path, table: list[Row]) -> NDArray[np.int64] | None:
    """Read the table's folds; None if it has none."""
    if "fold" not in table[0]:
        return None
    folds = [csvfile.whole(path, row, "fold") for row in table]
    if not set(folds) <= set(range(cut.FOLDS)):
        raise npz.corrupt(
            f"{path}: folds go from {min(folds)} to {max(folds)}, not from 0 to {cut.FOLDS - 1}"
        )
    return np.array(folds)


def _geometry(dataset: Nifti, files: Sequence[Path]) -> Geometry | None:
    """Give the common geometry of volumes; None without any."""
    space = dataset.space
    first = (
        None
        if space is None
        else Geometry("data.space", space.grid, np.array([*space.affine, (0, 0, 0, 1)], np.float64))
    )
    for file in files:
        found = niftifiles.open_volume(file).geometry
        first = first or found
        if apart := difference(found, first):
            where = ("data", "space" if space else "file")
            raise bad(
                apart,
                "bring all volumes to one space, for example by resampling to a template",
                where,
            )
    return first if files else None


def _atlas(dataset: Nifti, folder: Path, geometry: Geometry) -> NDArray[np.int64] | None:
    """Read the atlas, its regions numbered from 1 on in the order of their numbers, and compare
    it with the volumes.
    """
    if not dataset.atlas:
        return None
    volume, where = niftifiles.open_volume(folder / dataset.atlas), ("data", "atlas")
    if apart := difference(volume.geometry, geometry):
        raise bad(apart, "resample the atlas to the volumes' space with nearest neighbours", where)
    found = niftifiles.values(volume)
    if (
        not np.isfinite(found).all()
        or (found != np.round(found)).any()
        or found.min() < 0
        or found.max() < 1
    ):
        text = f"{volume.path} does not have whole region numbers from 1 on, with 0 outside"
        raise bad(text, "give a label volume", where)
    _, numbers = np.unique(np.append(found, 0), return_inverse=True)
    return numbers[:-1].reshape(found.shape)
