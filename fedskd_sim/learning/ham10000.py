"""HAM10000 (Tschandl et al. 2018, CC BY-NC 4.0) from one ``.npz``: four source collections act as four hospitals.

Expected arrays, N rows each: ``image`` uint8 (N, S, S, 3), ``label`` (N,) into ``label_names``, ``site`` (N,) into
``site_names``, ``fold`` (N,) in 0..4, and ``split_group`` (N,): images of one lesion or near-duplicates share it, and no group may
stand in two folds.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import DataCorrupt, DataMissing, InvalidValue
from fedskd_sim.learning.samples import Facts, Images
from fedskd_sim.scenario import Ham10000, nearest
from fedskd_sim.seeds import seed

ENVIRONMENT = "FEDSKD_DATA"
NEEDED = ("image", "label", "label_names", "site", "site_names", "split_group", "fold")
Rows = NDArray[np.int64]


def facts(dataset: Ham10000, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read everything but the images of a site.

    Raises:
        DataMissing: no folder given, or the file is not in it.
        DataCorrupt: the file is truncated or lacks arrays, or a lesion stands in two folds.
        InvalidValue: no such site, or validation and test are the same fold.

    """
    with _opened(_path(dataset, folder)) as arrays:
        train, _, _ = _splits(dataset, arrays, scenario_seed, name)
        return Facts(_names(arrays, "label"), _image_shape(arrays)[1], 3, _array(arrays, "label")[train])


def load(dataset: Ham10000, folder: Path | None, scenario_seed: int, name: str) -> Images:
    """Read the images of one site; raises as `facts`."""
    with _opened(_path(dataset, folder)) as arrays:
        splits = _splits(dataset, arrays, scenario_seed, name)
        rows = np.concatenate(splits)
        ends = np.cumsum([len(split) for split in splits])
        own = np.split(np.arange(len(rows)), ends[:-1])
        pixels = _array(arrays, "image")[rows]
        return Images(pixels, _array(arrays, "label")[rows], (own[0], own[1], own[2]), _names(arrays, "label"))


def _path(dataset: Ham10000, folder: Path | None) -> Path:
    given = folder or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    fix = f"give the folder that holds {dataset.file} with --data DIR or {ENVIRONMENT}"
    if given is None:
        raise DataMissing(f"{dataset.file}: no data folder was given", fix=fix, key=("data", "file"))
    if not (given / dataset.file).is_file():
        raise DataMissing(f"{given / dataset.file} is not there", fix=fix, key=("data", "file"))
    return given / dataset.file


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise _corrupt(f"{path} cannot be opened: {error.strerror}") from error
    with stream:
        try:
            arrays = np.load(stream, allow_pickle=False)
            missing = [name for name in NEEDED if name not in arrays]
        except (zipfile.BadZipFile, ValueError, OSError, EOFError, TypeError) as error:
            raise _corrupt(f"{path} cannot be read: {error}") from error
        if missing:
            raise _corrupt(f"{path} lacks {', '.join(missing)}")
        yield arrays


def _array(arrays: Any, name: str) -> NDArray[Any]:
    try:
        found: NDArray[Any] = arrays[name]
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise _corrupt(f"array {name} cannot be read: {error}") from error
    return found


def _image_shape(arrays: Any) -> tuple[int, int]:
    """Read the number of images and their size from the array's header alone."""
    try:
        with arrays.zip.open("image.npy") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise _corrupt(f"array image cannot be read: {error}") from error
    match shape:
        case (int(rows), int(height), int(width), 3) if height == width and dtype == np.uint8:
            return rows, height
    raise _corrupt(f"image has shape {shape} of {dtype}, not (N, S, S, 3) of uint8")


def _consistent(arrays: Any) -> None:
    """Refuse arrays of different lengths, and numbers without a name."""
    rows, _ = _image_shape(arrays)
    for name in ("label", "site", "split_group", "fold"):
        found = _array(arrays, name)
        if found.shape != (rows,) or (name != "split_group" and found.dtype.kind not in "iu"):
            raise _corrupt(f"{name} has shape {found.shape} of {found.dtype}, not ({rows},) of whole numbers as image asks for")
    for name in ("label", "site"):
        found, count = _array(arrays, name), len(_names(arrays, name))
        if found.size and not 0 <= found.min() <= found.max() < count:
            raise _corrupt(f"{name} goes from {found.min()} to {found.max()}, but {name}_names has {count} names")


def _names(arrays: Any, name: str) -> tuple[str, ...]:
    return tuple(str(entry) for entry in _array(arrays, f"{name}_names"))


def _splits(dataset: Ham10000, arrays: Any, scenario_seed: int, name: str) -> tuple[Rows, Rows, Rows]:
    _consistent(arrays)
    sites = _names(arrays, "site")
    if dataset.site not in sites:
        text = f"there is no site {dataset.site!r}" if dataset.site else "it does not say which site"
        fix = nearest(dataset.site, sites, "") + f" choose one of {', '.join(sites)}"
        raise InvalidValue(text, fix=fix.lstrip(), key=("data", "site"))
    if dataset.test_fold == dataset.validation_fold:
        given = "test_fold" if "test_fold" in dataset.model_fields_set else "validation_fold"
        fix = "choose two different folds"
        raise InvalidValue(f"fold {dataset.test_fold} cannot both validate and test", fix=fix, key=("data", given))
    fold, group = _array(arrays, "fold"), _array(arrays, "split_group")
    if len(np.unique(np.stack([group, fold]), axis=1).T) != len(np.unique(group)):
        raise _corrupt("a split_group stands in more than one fold")
    mine = _array(arrays, "site") == sites.index(dataset.site)
    held_out = np.isin(fold, [dataset.test_fold, dataset.validation_fold])
    train = np.flatnonzero(mine & ~held_out)
    if dataset.limit is not None and len(train) > dataset.limit:
        draw = np.random.default_rng(seed(scenario_seed, "limit", name))
        train = np.sort(draw.choice(train, dataset.limit, replace=False))
    return (
        train,
        np.flatnonzero(mine & (fold == dataset.validation_fold)),
        np.flatnonzero(mine & (fold == dataset.test_fold)),
    )


def _corrupt(text: str) -> DataCorrupt:
    return DataCorrupt(text, fix="fetch or convert the file again (README, Data)", key=("data", "file"))
