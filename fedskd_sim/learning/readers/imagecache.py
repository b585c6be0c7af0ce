"""Decoded images kept from run to run, under the digest of the files that they were decoded from.

Hashing files takes about a fiftieth of decoding them. A file of the cache tells in its name what it
was made from, and the digest of what is in it: one that is damaged is not used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.readers.npz import corrupt

Pixels = NDArray[np.uint8]
Decode = Callable[[Sequence[Path], int], Pixels]
THREADS = 8
FORM = 1
"""Goes up whenever decoding gives other pixels than before."""


def kept(folder: str, paths: Sequence[Path], size: int, decode: Decode, by: str) -> Pixels:
    """Give images (N, size, size, 3) as they were decoded once, or decode and keep them; ``by``
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
    """Give the digest of files in their order, of the size in pixels, and of what decodes them."""
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
