"""One NIfTI file: what its header says is checked, and its voxels are read on axes to the right,
the front and the top (RAS+).

Axes are only swapped and flipped (`nibabel.as_closest_canonical`); nothing is resampled. A file is
refused if it has no affine, or two that contradict each other, more than one volume, or numbers
that are not real.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger, LogRecord
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import DataCorrupt, DataMissing
from fedskd_sim.learning.geometry import TOLERANCE, Geometry, apart

AXES = 3
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By NIfTI's code of the unit: unknown (taken as mm), metre, millimetre, micrometre."""
UNIT_BITS = 7
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
        raise DataMissing(
            f"{path} is not there",
            fix="put it there, or take its row out of the table",
            key=("data", "file"),
        )
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


def values(volume: Volume) -> NDArray[np.float64]:
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


def bad(
    text: str, fix: str = "repair or convert the file", key: tuple[str, ...] = ("data", "file")
) -> DataCorrupt:
    """Say what is wrong with a file."""
    return DataCorrupt(text, fix=fix, key=key)


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
    """Give the affine (4, 4) in mm: the sform, or without one the qform, unless they contradict
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
    if "qform" not in found and not np.allclose(edges, told, rtol=TOLERANCE, atol=0):
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
        if not np.array_equal(*turns) or (
            same_space and apart(found["sform"], found["qform"], grid)
        ):
            said = " and ".join(str(Geometry("", grid, affine)) for affine in found.values())
            text = (
                f"{path} says two things about where its voxels lie, by sform and by qform: {said}"
            )
            raise bad(
                text, "find out which is right, and save it as both (nibabel: set_sform, set_qform)"
            )


def _times(edges: NDArray[np.float64]) -> str:
    return " x ".join(f"{edge:.6g}" for edge in edges)
