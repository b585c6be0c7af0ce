"""Image files of a data set as it was released: found by name, read, cut to a square and brought to
one size.

Whatever a file holds is brought to 8 bits per colour by the range that its format gives its
numbers, or refused; nothing is cut off or made up. What the EXIF orientation says is done. Of DICOM
see `dicomfiles`.

Decoded images are kept from run to run, under the digest of the files that they were decoded from:
hashing takes about a fiftieth of decoding. A file of this cache tells in its name what it was made
from, and the digest of what is in it: one that is damaged is not used.
"""

from __future__ import annotations

import filecmp
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, __version__
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT
from xxhash import xxh3_128_hexdigest

from fedskd_sim import Preview, files_below
from fedskd_sim.datasets import dicomfiles
from fedskd_sim.datasets.refusals import corrupt
from fedskd_sim.errors import InvalidValue

Pixels = NDArray[np.uint8]
Decode = Callable[[Sequence[Path], int], Pixels]
THREADS = 8
FORM = 1
"""Goes up whenever decoding gives other pixels than before."""


def kept(folder: str, paths: Sequence[Path], size: int, decode: Decode, by: str) -> Pixels:
    """Return images (N, size, size, 3) as they were decoded once, or decode and keep them; ``by``
    names the program that decodes, with its version.

    Raises:
        InvalidValue: the folder cannot be written.
        DataCorrupt: a file cannot be read; and as ``decode``.

    """
    place, name = _place(folder), _name(paths, size, by)
    for file in place.glob(f"{name}-*.npy"):
        with suppress(Exception):  # a damaged file may raise anything, and is decoded anew
            found: Pixels = np.load(file)
            whole = found.shape == (len(paths), size, size, 3) and found.dtype == np.uint8
            if whole and file.stem == f"{name}-{xxh3_128_hexdigest(found.data)}":
                return found
    found = decode(paths, size)
    _keep(place, f"{name}-{xxh3_128_hexdigest(found.data)}.npy", found)
    return found


def _place(folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:  # nobody has that name
        raise _useless(f"{folder!r}: {error}") from error


def _useless(text: str) -> InvalidValue:
    fix = "name a folder that can be written and has room, or leave it out"
    return InvalidValue(text, key=("data", "cache"), fix=fix)


def _name(paths: Sequence[Path], size: int, by: str) -> str:
    """Return the digest of files in their order, the size in pixels, and what decodes them."""
    with ThreadPoolExecutor(THREADS) as pool:
        digests = [*pool.map(_digest, paths)]
    return xxh3_128_hexdigest("\n".join([f"{FORM} {size} {by}", *digests]).encode())


def _digest(path: Path) -> str:
    try:
        return xxh3_128_hexdigest(path.read_bytes())
    except OSError as error:
        raise corrupt(f"the image {path} cannot be read: {error}") from error


def _keep(place: Path, name: str, pixels: Pixels) -> None:
    """Write a file whole or not at all, for nobody else to read: it shows patients."""
    part = place / f".{name}.{token_hex(4)}"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            np.save(file, pixels)
        part.replace(place / name)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _useless(f"{str(place)!r} keeps no images: {error.strerror or error}") from error


SUFFIXES = (".jpg", ".jpeg", ".png")
ENDINGS = (*SUFFIXES, ".tif", ".tiff", *dicomfiles.SUFFIXES)
"""Of images that people bring, in small letters."""
MOST_THREADS = 16
"""More would only take memory."""
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
PLAIN = ("1", "L", "P", "RGB", "YCbCr", "LA", "PA", "RGBA")
"""Pillow's modes that are 8-bit colours, if nothing in them is transparent."""
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
DEEP_BITS = 16
LEAST_WHITE = 1 / 16
"""If nothing in an image of 16 bits reaches this share of their range, it was measured with fewer
bits."""
PHOTOGRAPHS = ("JPEG", "MPO")
"""Formats whose first image is the photograph, whatever previews follow it."""
OPAQUE = 255
UNSIGNED = 1
UNCERTAIN = {
    "F": "has numbers with fractions, and nothing says which is white",
    "I": "has signed numbers or such of 32 bits, and nothing says which is white",
    "CMYK": "has the colours of a printer, which are others for every paper",
}

Names = Mapping[str, Sequence[Path]]


def by_name(folder: Path) -> dict[str, list[Path]]:
    """Find all images below a folder, hidden ones apart, by their name without its suffix,
    folded in case.
    """
    found: dict[str, list[Path]] = {}
    for file in files_below(folder):
        if file.suffix.lower() in SUFFIXES:
            found.setdefault(file.stem.casefold(), []).append(file)
    return found


def below(folder: Path) -> list[Path]:
    """Return all images below a folder, DICOM too, hidden ones apart."""
    return [file for file in files_below(folder) if file.suffix.lower() in ENDINGS]


def of_name(names: Names, image: str, folder: Path) -> Path:
    """Return the file of an image; for one that is missing, where it could be.

    Raises:
        DataCorrupt: several files have that name, or one that differs in case only, and they are
            not the same bytes.

    """
    alike = names.get(image.casefold(), ())
    exact = [path for path in alike if path.stem == image]
    first = (exact or [folder / f"{image}.jpg"])[0]
    for other in alike:
        if other != first and not (exact and _same(first, other)):
            text = (
                f"{first} and {other} differ"
                if exact
                else f"the image {first} is not there, but {other} is"
            )
            fix = "keep one of each name below the table's folder, written as there"
            raise corrupt(text, fix)
    return first


def all_there(paths: Sequence[Path]) -> None:
    """Refuse a data set of which images are missing; raises DataCorrupt, naming the first."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise corrupt(f"the image {missing[0]} is not there{others}")


def preview(paths: Sequence[Path], size: int) -> Preview:
    """Tell what images will be.

    Raises:
        DataCorrupt: one is missing.
        LibraryMissing: one is DICOM, and pydicom is not installed.

    """
    all_there(paths)
    if any(map(_is_dicom, paths)):
        dicomfiles.version()
    return Preview(np.empty((0, size, size, 3), np.uint8))


def _is_dicom(path: Path) -> bool:
    known = path.suffix.lower()
    return known in dicomfiles.SUFFIXES or (known not in ENDINGS and dicomfiles.is_dicom(path))


def pixels(paths: Sequence[Path], size: int, cache: str = "") -> NDArray[np.uint8]:
    """Read images as (N, size, size, 3): the middle square of each, scaled with antialiasing.

    A pool of threads decodes them, as many as PyTorch may use, which is the hospital's
    ``resources.cpu``: Pillow lets others go on meanwhile. In the folder ``cache``, if there is any,
    they are kept.

    Raises:
        DataCorrupt: an image is missing, truncated, no image, or one whose numbers are no certain
            colours; names the file, of several the first.
        InvalidValue: nothing can be kept in ``cache``.
        LibraryMissing: an image is DICOM, and pydicom is not installed.

    """
    if not cache:
        return _decoded(paths, size)
    more = f", pydicom {dicomfiles.version()}" if any(map(_is_dicom, paths)) else ""
    return kept(cache, paths, size, _decoded, f"Pillow {__version__}{more}")


def _decoded(paths: Sequence[Path], size: int) -> NDArray[np.uint8]:
    found = np.empty((len(paths), size, size, 3), np.uint8)
    Image.init()  # before threads could do it at the same time
    pool = ThreadPoolExecutor(min(MOST_THREADS, torch.get_num_threads()))
    try:
        for row, image in enumerate(pool.map(partial(_read, size=size), paths)):
            found[row] = image
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    """Read one image as (size, size, 3)."""
    try:
        if _is_dicom(path):
            seen: Image.Image | str = Image.fromarray(dicomfiles.read(path)).convert("RGB")
        else:
            with Image.open(path) as image:
                seen = _doubt(image) or _colours(image)
    except UNREADABLE as error:
        raise corrupt(f"the image {path} cannot be read: {error}") from error
    if isinstance(seen, str):
        fix = (
            "save one opaque image in it, of 8 bits in grey or colour, or of 16 bits of which "
            "0 is black and 65535 white"
        )
        raise corrupt(f"the image {path} {seen}", fix)
    return np.asarray(ImageOps.fit(seen, (size, size), Image.Resampling.BICUBIC))


def _same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError as error:
        raise corrupt(f"{one} and {other} cannot be compared: {error}") from error


def _doubt(image: Image.Image) -> str:
    """Say what about the form of an image leaves open which colours it has; empty if nothing
    does.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in PHOTOGRAPHS:
        return f"has {frames} frames"
    if image.mode not in (*PLAIN, *DEEP):
        return UNCERTAIN.get(
            image.mode, f"has pixels of the kind {image.mode}, which is no certain colour"
        )
    return UNCERTAIN["I"] if any(form != UNSIGNED for form in _numbers(image, SAMPLEFORMAT)) else ""


def _colours(image: Image.Image) -> Image.Image | str:
    """Return an image in 8-bit colours, the right way up, or say what keeps it from being one."""
    bits, dark = (
        next(iter(_numbers(image, BITSPERSAMPLE)), DEEP_BITS),
        _numbers(image, PHOTOMETRIC_INTERPRETATION) == (0,),
    )
    deep = f";{DEEP_BITS}" in str(getattr(image, "tile", ""))
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP:
        return (
            "has a transparent colour"
            if "transparency" in upright.info
            else _to_8_bits(np.asarray(upright), bits, dark=dark)
        )
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        if np.asarray(upright)[..., -1].min() < OPAQUE:
            return "is transparent in places, and nothing says what lies behind it"
    colours = upright.convert("RGB")
    largest = int(np.asarray(colours).max()) << 8 if deep else 0
    return _faint(largest) if 0 < largest < (1 << DEEP_BITS) * LEAST_WHITE else colours


def _to_8_bits(values: NDArray[Any], bits: int, *, dark: bool) -> Image.Image | str:
    """Bring grey values of a number of bits to 8; ``dark``: the largest is black."""
    white = (1 << bits) - 1
    largest = int(values.max(initial=0))
    if bits == DEEP_BITS and 0 < largest < white * LEAST_WHITE:
        return _faint(largest)
    light = white - values.astype(np.uint32) if dark else values.astype(np.uint32)
    return Image.fromarray(((light * 255 + white // 2) // white).astype(np.uint8)).convert("RGB")


def _faint(largest: int) -> str:
    return (
        f"has {DEEP_BITS} bits but no number much above {largest}: it was measured with fewer, and "
        "nothing says how many"
    )


def _numbers(image: Image.Image, tag: int) -> tuple[int, ...]:
    """Return the numbers of a TIFF tag; none for other formats."""
    found = getattr(image, "tag_v2", {}).get(tag, ())
    return tuple(found) if isinstance(found, tuple) else (int(found),)
