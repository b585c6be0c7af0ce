"""DICOM files with one picture each, as values from 0 to 255; needs the extra ``dicom``.

Stored numbers go through the modality LUT (a slope and an intercept, or a table), then through the
window: its first centre and width, or else its VOI LUT. A file with neither is scaled from its
smallest to its largest value. What lies outside a window is black or white, as on a viewer.
MONOCHROME1 is inverted, and padding is black. Colours are read if they have 8 bits.

Text that was burned into a picture is not looked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.datasets.refusals import corrupt
from fedskd_sim.errors import DataCorrupt, extras_named

SUFFIXES = (".dcm", ".dicom")
MAGIC, BEFORE = b"DICM", 128
MOST_PIXELS = 1 << 27
"""A larger picture would fill the memory; whole slides are of this size."""
WHITE = 255
BYTE = 8
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
FLOATS = ("FloatPixelData", "DoubleFloatPixelData")
Values = NDArray[np.float64]


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(BEFORE + len(MAGIC))[BEFORE:] == MAGIC
    except OSError:
        return False


def version() -> str:
    """Return the version of pydicom.

    Raises:
        LibraryMissing: it is not installed.

    """
    with extras_named():
        import pydicom  # noqa: PLC0415 - other pictures do without
    return str(pydicom.__version__)


def read(path: Path) -> NDArray[np.uint8]:
    """Read a picture as (H, W), or (H, W, 3) in colour.

    Raises:
        LibraryMissing: pydicom is not installed.
        DataCorrupt: the file has no pixels, several frames, or none that can be told for sure.

    """
    with extras_named():
        import pydicom  # noqa: PLC0415 - other pictures do without
    try:
        found = pydicom.dcmread(path)
        _check(path, found)
        return (
            _colours(path, found) if _said(found, "SamplesPerPixel", 1) > 1 else _grey(path, found)
        )
    except DataCorrupt:
        raise
    except Exception as error:  # a damaged file may raise anything
        fix = "send or export it again; of a compressed one, install a decoder or decompress it"
        raise corrupt(f"the image {path} cannot be read: {error}", fix) from error


def _said(found: Any, name: str, otherwise: int) -> int:
    """Return a whole number of the header, or what holds where it is empty or not there."""
    value = found.get(name)
    return otherwise if value is None else int(value)


def _check(path: Path, found: Any) -> None:
    """Refuse a file that is not one picture of whole numbers; raises DataCorrupt."""
    if any(name in found for name in FLOATS):
        text = f"the image {path} has numbers with fractions, and nothing says which is white"
        raise corrupt(text, "export it with whole numbers and a window")
    if "PixelData" not in found:
        text = f"the image {path} has no pixels: it is a {found.get('Modality') or 'DICOM'} file"
        raise corrupt(text, "take it out of the data, or export the image that belongs to it")
    frames = _said(found, "NumberOfFrames", 1)
    if frames > 1:
        raise corrupt(f"the image {path} has {frames} frames", "export the one that is meant")
    size = _said(found, "Rows", 0) * _said(found, "Columns", 0)
    if not 0 < size <= MOST_PIXELS:
        text = f"the image {path} has {found.get('Rows')} x {found.get('Columns')} pixels"
        raise corrupt(text, f"give one of at most {MOST_PIXELS} pixels")
    kind = found.get("PhotometricInterpretation")
    if kind not in (*GREY, *COLOURS):
        text = f"the image {path} has pixels of the kind {kind}"
        raise corrupt(text, f"export it as one of {', '.join((*GREY, 'RGB'))}")


def _colours(path: Path, found: Any) -> NDArray[np.uint8]:
    """Return colours (H, W, 3); raises DataCorrupt."""
    bits = _said(found, "BitsAllocated", 0)
    if bits != BYTE or _said(found, "PixelRepresentation", 0):
        text = f"the image {path} has colours of {bits} bits, or signed ones"
        raise corrupt(text, "export it with 8 bits per colour")
    values: NDArray[np.uint8] = found.pixel_array
    return values


def _grey(path: Path, found: Any) -> NDArray[np.uint8]:
    """Return grey (H, W) as a viewer shows it; raises DataCorrupt."""
    from pydicom.pixels.processing import apply_modality_lut  # noqa: PLC0415 - as above

    stored = found.pixel_array
    padding = _padding(found, stored)
    light = _windowed(path, found, apply_modality_lut(stored, found), padding)
    if found.PhotometricInterpretation == "MONOCHROME1":
        light = 1 - light
    light[padding] = 0
    return np.rint(light * WHITE).astype(np.uint8)


def _padding(found: Any, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which pixels (H, W) lie outside what was measured."""
    one = found.get("PixelPaddingValue")
    if one is None:
        return np.zeros(stored.shape, np.bool_)
    other = found.get("PixelPaddingRangeLimit")
    low, high = sorted((int(one), int(one if other is None else other)))
    return (stored >= low) & (stored <= high)


def _windowed(path: Path, found: Any, values: NDArray[Any], padding: NDArray[np.bool_]) -> Values:
    """Bring values (H, W) to 0 to 1; raises DataCorrupt."""
    if found.get("WindowCenter") is not None and found.get("WindowWidth") is not None:
        centre, width = _first(found.WindowCenter), _first(found.WindowWidth)
        how = str(found.get("VOILUTFunction") or "LINEAR")
        return _window(path, values.astype(np.float64), (centre, width), how)
    if found.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi  # noqa: PLC0415 - as above

        bits = int(found.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(values, found) / ((1 << bits) - 1), np.float64)
    low, high = _range(path, values[~padding])
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)


def _range(path: Path, values: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest of some values, which differ; raises DataCorrupt."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low == high:
        text = f"the image {path} has no window, and one value everywhere"
        raise corrupt(text, "take it out of the data, or export it with a window")
    return low, high


def _first(value: Any) -> float:
    """Return a number of the header, the first of several."""
    return float(value if isinstance(value, int | float) else value[0])


def _window(path: Path, values: Values, window: tuple[float, float], how: str) -> Values:
    """Apply a window, a centre and a width, by the formulas of DICOM PS3.3 C.11.2.1.2 and
    C.11.2.1.3; raises DataCorrupt.
    """
    centre, width = window
    least = 1.0 if how == "LINEAR" else np.nextafter(0.0, 1.0)
    if not (np.isfinite(centre) and least <= width < np.inf):
        text = f"the image {path} has a window with the centre {centre} and the width {width}"
        raise corrupt(text, "export it with a window that is wider than 1, or without")
    if how == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500))))
    if how == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if how != "LINEAR":
        text = f"the image {path} has a window of the kind {how}"
        raise corrupt(text, "export it as LINEAR, LINEAR_EXACT or SIGMOID")
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
