"""Volumes in NIfTI files, one per row of a table; sites act as hospitals.

Expected in one folder: a table with the columns ``file`` (a path below the table's folder),
``label``, ``site`` and ``subject``. It may have ``fold``, 0 to 4, with no subject in two folds;
without it five folds are drawn, always the same, evenly over sites and labels. An atlas, if there
is one, is a NIfTI file of whole numbers: 0 is background, every other number a region.

Volumes are read on axes to the right, the front and the top (RAS+), only swapped and flipped
(``nibabel.as_closest_canonical``), never resampled. All of a hospital, and the atlas, have one
geometry: that of ``space`` or of the first volume. A file is refused if it has no affine, or two
that contradict each other, more than one volume, or numbers that are not real.

Intensities are standardised per volume over the voxels that count: those of the atlas, or without
one those that are not 0. Voxels that are not finite are set to 0 after that and do not count. The
record of the warm-up has their number. A volume of which more than a tenth is not finite is
refused.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import Logger, LogRecord
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Geometry, Preview, files_below
from fedskd_sim.datasets import csvfile
from fedskd_sim.datasets.csvfile import CsvRow
from fedskd_sim.datasets.refusals import check_once
from fedskd_sim.errors import DataCorrupt, DataMissing

AXES = 3
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By NIfTI's code of the unit: unknown (taken as mm), metre, millimetre, micrometre."""
UNIT_BITS = 7
SPACINGS_DIFFER = 0.01
"""Of the edge of a voxel, by which a header may contradict itself."""
DENSEST = 1100
"""By so much can the usual compressions shrink a file at most, and a little more."""


class Volume(NamedTuple):
    """A file whose header has been read: where its voxels lie on canonical axes, and how they
    are turned to lie so.
    """

    path: Path
    image: Any
    turn: NDArray[np.float64]
    geometry: Geometry


def open_volume(path: Path) -> Volume:
    """Read a header.

    Raises:
        DataMissing: no such file.
        DataCorrupt: it is no NIfTI file, or not one volume of real numbers whose place is certain.

    """
    import nibabel as nib  # noqa: PLC0415 - hospitals with other data need not import it

    if not path.is_file():
        fix = "put it there, or take its row out of the table"
        raise DataMissing(f"{path} is not there", fix=fix)
    with _told_unless_refused(path, nib.imageglobals.logger):
        return _opened(path)


def _opened(path: Path) -> Volume:
    """Read a header that is there; raises DataCorrupt as `open_volume`."""
    import nibabel as nib  # noqa: PLC0415 - as above

    try:
        image: Any = nib.load(path)
    except Exception as error:  # a damaged header may raise anything
        raise bad(f"{path} cannot be read: {error}") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise bad(f"{path} is no NIfTI file but a {type(image).__name__}", "convert it to NIfTI")
    _check_numbers(path, image)
    _check_size(path, image)
    grid = tuple(int(cells) for cells in image.shape[:AXES])
    affine = _affine(path, image.header, grid)
    turn = nib.orientations.io_orientation(affine)
    inverse = nib.orientations.inv_ornt_aff(turn, grid)
    sizes = np.empty(AXES, int)
    sizes[turn[:, 0].astype(int)] = grid
    return Volume(path, image, turn, Geometry(str(path), tuple(map(int, sizes)), affine @ inverse))


@contextmanager
def _told_unless_refused(path: Path, logger: Logger) -> Iterator[None]:
    """Keep what nibabel logs and warns of a file back until it is known to be good, and tell it
    then with its path; of one that is refused the error says what is wrong.
    """
    said: list[LogRecord] = []

    def keep(record: LogRecord) -> bool:
        said.append(record)
        return False

    logger.addFilter(keep)
    try:
        with warnings.catch_warnings(record=True) as warned:
            yield
    finally:
        logger.removeFilter(keep)
    for record in said:
        logger.log(record.levelno, "%s: %s", path, record.getMessage())
    for one in warned:
        warnings.warn_explicit(f"{path}: {one.message}", one.category, one.filename, one.lineno)


def read_values(volume: Volume) -> NDArray[np.float64]:
    """Read the scaled voxels (D, H, W) on canonical axes; raises DataCorrupt."""
    import nibabel as nib  # noqa: PLC0415 - as above

    try:
        with np.errstate(all="ignore"):
            found = np.asarray(volume.image.dataobj, dtype=np.float64).reshape(
                volume.image.shape[:AXES]
            )
    except Exception as error:  # a damaged file may raise anything
        raise bad(f"{volume.path} cannot be read: {error}") from error
    turned: NDArray[np.float64] = nib.orientations.apply_orientation(found, volume.turn)
    return turned


def bad(text: str, fix: str = "repair or convert the file", key: str = "file") -> DataCorrupt:
    """Say what is wrong with a volume, or with what another key says."""
    return DataCorrupt(text, fix=fix, key=("data", key))


def _check_numbers(path: Path, image: Any) -> None:
    """Refuse anything but one volume of real numbers."""
    shape, kind = tuple(image.shape), image.get_data_dtype()
    if len(shape) < AXES or min(shape) < 1 or any(cells != 1 for cells in shape[AXES:]):
        fix = "give one volume per file, for example the mean over time"
        raise bad(f"{path} has the shape {shape}, not three axes and one frame", fix)
    if kind.kind not in "iuf":
        name = (
            "colours"
            if kind.names
            else "complex numbers"
            if kind.kind == "c"
            else f"numbers of the kind {kind}"
        )
        raise bad(
            f"{path} has {name}, not one real number per voxel",
            "save the channel or the magnitude that is meant",
        )


def _check_size(path: Path, image: Any) -> None:
    """Refuse a header that promises more voxels than the file can hold, before there is room
    made for them.
    """
    told = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    file = Path(image.file_map["image"].filename or path)
    size = file.stat().st_size if file.is_file() else 0
    if told > size * (DENSEST if file.suffix in (".gz", ".bz2", ".zst") else 1):
        raise bad(
            f"{path} says that it has {told} bytes of voxels, and {file.name} has {size} bytes"
        )


def _affine(path: Path, header: Any, grid: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the affine (4, 4) in mm: the sform, or without one the qform, unless they contradict
    each other.
    """
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    try:
        found = {
            name: np.asarray(getattr(header, f"get_{name}")(), np.float64)
            for name, code in codes.items()
            if code > 0
        }
    except ValueError as error:
        raise bad(f"{path} has a qform that is no rotation: {error}") from error
    if not found:
        text = f"{path} says nowhere which side is left (sform and qform have code 0)"
        raise bad(text, "save it with the affine of the original")
    for name, affine in found.items():
        if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) <= AXES:
            raise bad(f"{path} has a {name} that puts all voxels on a plane, or nowhere")
    _check_agreement(path, found, codes, grid)
    first = next(iter(found.values()))
    edges = np.linalg.norm(first[:AXES, :AXES], axis=0)
    told = np.abs(np.asarray(header.get_zooms()[:AXES], np.float64))
    if "qform" not in found and not np.allclose(edges, told, rtol=SPACINGS_DIFFER, atol=0):
        text = f"{path} has voxels of {_times(told)} by its pixdim, of {_times(edges)} by its sform"
        raise bad(text, "find out which is right, and save it so")
    unit = int(header["xyzt_units"]) & UNIT_BITS
    if unit not in MILLIMETRES:
        raise bad(f"{path} has lengths in the unknown unit {unit}")
    return np.diag([MILLIMETRES[unit]] * AXES + [1.0]) @ first


def _check_agreement(
    path: Path, found: dict[str, Any], codes: dict[str, int], grid: tuple[int, ...]
) -> None:
    """Refuse two affines of one space that differ, and of two spaces in which left and right, or
    axes, are others.
    """
    import nibabel as nib  # noqa: PLC0415 - as above

    if len(found) > 1:
        turns = [nib.orientations.io_orientation(affine) for affine in found.values()]
        same_space = codes["sform"] == codes["qform"]
        one, other = (Geometry("", grid, affine) for affine in found.values())
        if not np.array_equal(*turns) or (same_space and one.difference(other)):
            said = f"{one} and {other}"
            text = (
                f"{path} says two things about where its voxels lie, by sform and by qform: {said}"
            )
            raise bad(
                text, "find out which is right, and save it as both (nibabel: set_sform, set_qform)"
            )


def _times(edges: NDArray[np.float64]) -> str:
    return " x ".join(f"{edge:.6g}" for edge in edges)


NEEDED = ("file", "label", "site", "subject")
MOST_MISSING = 0.1
Rows = NDArray[np.integer[Any]]


def read(
    folder: Path,
    *,
    file: str = "participants.csv",
    atlas: str = "",
    space: Geometry | Literal[""] = "",
) -> Cohort:
    """Read the table; headers, and the volumes of those that are asked for, later. All have to lie
    in ``space``, if it is known, and else where the first of them lies.
    """
    path = folder / file
    table = csvfile.rows(path, NEEDED, ("fold",))
    check_once(path, [{"file": _normal(row["file"])} for row in table], "file")

    def files(rows: Rows) -> list[Path]:
        return [path.parent / table[row]["file"] for row in rows]

    def preview(rows: Rows) -> Preview:
        common = _geometry(files(rows), space)
        regions = _atlas(path.parent / atlas, common) if atlas else None
        return Preview(np.empty((0, 1, *common.grid), np.float32), regions, common)

    def volumes(rows: Rows) -> tuple[NDArray[np.float32], str]:
        seen = preview(rows)
        return _volumes(files(rows), seen.like.shape[1:], seen.atlas)

    label, site, subject = ([row[name] for row in table] for name in NEEDED[1:])
    return Cohort(
        volumes,
        label,
        subjects=subject,
        sites=site,
        folds=[csvfile.whole(path, row, "fold") for row in table] if "fold" in table[0] else None,
        ids=[row["file"] for row in table],
        besides={
            "volumes that the table does not name": [("", "")] * _count_unnamed(path, table, atlas)
        },
        preview=preview,
    )


def _volumes(
    files: Sequence[Path], shape: tuple[int, ...], atlas: NDArray[np.int64] | None
) -> tuple[NDArray[np.float32], str]:
    """Read volumes (N, 1, D, H, W), standardised, and count the voxels that are masked."""
    found, missing = np.empty((len(files), *shape), np.float32), []
    for row, file in enumerate(files):
        values = read_values(open_volume(file))
        missing.append(int((~np.isfinite(values)).sum()))
        found[row, 0] = standardise(values, None if atlas is None else atlas > 0, file)
    told = f"{sum(missing)} voxels of {sum(map(bool, missing))} volumes are not finite and masked"
    return found, told * any(missing)


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


def _normal(file: str) -> str:
    """Write the path of a file in one way: both halves of a pair are one file."""
    path = PurePath(os.path.normpath(file))
    return str(path.with_suffix(".hdr") if path.suffix == ".img" else path)


def _count_unnamed(path: Path, table: list[CsvRow], atlas: str) -> int:
    """Count the volumes below the table's folder that neither it nor the scenario names."""
    known = {_normal(row["file"]) for row in table} | {_normal(atlas)}
    files = files_below(path.parent, ".nii", ".nii.gz", ".hdr")
    return sum(_normal(str(file.relative_to(path.parent))) not in known for file in files)


def _geometry(files: Sequence[Path], space: Geometry | Literal[""]) -> Geometry:
    """Return the common geometry of one volume or more."""
    first = space or open_volume(files[0]).geometry
    for file in files:
        if apart := open_volume(file).geometry.difference(first):
            fix = "bring all volumes to one space, for example by resampling to a template"
            raise bad(apart, fix, "space" if space else "file")
    return first


def _atlas(path: Path, geometry: Geometry) -> NDArray[np.int64]:
    """Read the atlas, its regions numbered from 1 on in the order of their numbers, and compare
    it with the volumes.
    """
    volume = open_volume(path)
    if apart := volume.geometry.difference(geometry):
        fix = "resample the atlas to the volumes' space with nearest neighbours"
        raise bad(apart, fix, "atlas")
    found = read_values(volume)
    whole = np.isfinite(found).all() and (found == np.round(found)).all()
    if not whole or found.min() < 0 or found.max() < 1:
        text = f"{path} does not have whole region numbers from 1 on, with 0 outside"
        raise bad(text, "give a label volume", "atlas")
    _, numbers = np.unique(np.append(found, 0), return_inverse=True)
    return numbers[:-1].reshape(found.shape)
