"""Time series of regions as files have them, and the connectivity that they give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers import npz
from fedskd_sim.learning.readers.abide import LARGEST_R

FEWEST_POINTS = 3


def connectivity(signals: NDArray[np.float64]) -> NDArray[np.float32]:
    """Compute z = arctanh r of all pairs of regions (R, R) from their signals (T, R); 0 on the
    diagonal and for silent regions.
    """
    heard = np.flatnonzero(~silent(signals))
    z = np.zeros((signals.shape[1], signals.shape[1]), np.float32)
    r = (
        np.atleast_2d(np.corrcoef(signals[:, heard], rowvar=False))
        if len(heard)
        else np.zeros((0, 0))
    )
    z[np.ix_(heard, heard)] = np.arctanh(((r + r.T) / 2).clip(-LARGEST_R, LARGEST_R))
    np.fill_diagonal(z, 0)
    return z


def silent(signals: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which regions (R,) have no signal: constant, or not finite somewhere."""
    with np.errstate(all="ignore"):
        spread = signals.std(axis=0)
    found: NDArray[np.bool_] = (
        ~np.isfinite(spread) | (spread == 0) | (signals == signals[:1]).all(axis=0)
    )
    return found


def series(path: Path) -> NDArray[np.float64]:
    """Read the signals (T, R) of one subject.

    Raises:
        DataCorrupt: unreadable, no table of numbers, or too short.

    """
    return _numbers(path, _lines(path))


def quiet(path: Path) -> NDArray[np.bool_]:
    """Tell which regions (R,) are silent in one subject; all numbers are read only where the
    beginning makes it possible.

    Raises:
        DataCorrupt: as for `series`, of which a file without silence is checked at its beginning
            alone.

    """
    lines = _lines(path)
    begin = _numbers(path, lines[:FEWEST_POINTS])
    possible = (begin == begin[:1]).any() or any(
        word in line for line in lines for word in ("n", "N")
    )
    return silent(_numbers(path, lines)) if possible else np.zeros(begin.shape[1], bool)


def _lines(path: Path) -> list[str]:
    """Read the lines of numbers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise npz.corrupt(f"{path} cannot be read: {error}") from error
    if not lines or not lines[0].startswith("#"):
        raise npz.corrupt(f"{path} does not begin with a line of #")
    found = [line for line in lines[1:] if line.strip()]
    if len(found) < FEWEST_POINTS:
        raise npz.corrupt(f"{path} has {len(found)} points in time, too few for a correlation")
    return found


def _numbers(path: Path, lines: list[str]) -> NDArray[np.float64]:
    """Turn lines into numbers (T, R)."""
    try:
        return np.stack([np.array(line.split(), np.float64) for line in lines])
    except ValueError as error:
        raise npz.corrupt(f"{path} is no table of numbers: {error}") from error
