"""DICOM files: shown as a viewer shows them, or refused with what is wrong."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from fedskd_sim.datasets import imagefiles
from fedskd_sim.errors import DataCorrupt

RAMP = np.tile(np.arange(32, dtype=np.uint16) * 100, (32, 1))
"""Numbers from 0 to 3100, as of 12 bits."""


def dicom(path: Path, values: np.ndarray, **tags: object) -> None:
    """Write an uncompressed file of grey, or of colours (H, W, 3); ``tags`` override, and one that
    is None is left out.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made: Dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    bits = 8 * values.dtype.itemsize
    told = {
        "Modality": "OT",
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "SamplesPerPixel": values.shape[2] if values.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if values.ndim == 3 else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if values.ndim == 3 else {}),
        "PixelData": values.tobytes(),
        **tags,
    }
    for name, value in told.items():
        if value is not None:
            setattr(made, name, value)
    if "PixelData" in made:
        made["PixelData"].VR = "OB" if bits == 8 else "OW"
    made.save_as(path, enforce_file_format=True)


def lut(values: list[int], first: int = 0, **more: object) -> object:
    one = pydicom.Dataset()
    one.add_new("LUTDescriptor", "US", [len(values), first, 16])
    one.add_new("LUTData", "US", values)
    for name, value in more.items():
        setattr(one, name, value)
    return pydicom.Sequence([one])


def read(path: Path) -> np.ndarray:
    """Read the first line of an image as grey."""
    (found,) = imagefiles.pixels([path], 32)
    assert (found == found[..., :1]).all()
    assert (found == found[:1]).all()
    return found[0, :, 0]


def linear(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Write DICOM's PS3.3 C.11.2.1.2.1 down, case by case."""
    out = []
    for x in values.astype(float):
        if x <= centre - 0.5 - (width - 1) / 2:
            out.append(0.0)
        elif x > centre - 0.5 + (width - 1) / 2:
            out.append(255.0)
        else:
            out.append(((x - (centre - 0.5)) / (width - 1) + 0.5) * 255)
    return np.rint(out).astype(np.uint8)


LINE = RAMP[0].astype(float)
SHOWN: dict[str, tuple[dict[str, object], np.ndarray]] = {
    "its range without a window": ({}, np.rint(LINE / 3100 * 255)),
    "the largest black": (
        {"PhotometricInterpretation": "MONOCHROME1"},
        np.rint((1 - LINE / 3100) * 255),
    ),
    "a window": ({"WindowCenter": 1500, "WindowWidth": 1000}, linear(LINE, 1500, 1000)),
    "the first of two windows": (
        {"WindowCenter": [1500, 40], "WindowWidth": [1000, 80]},
        linear(LINE, 1500, 1000),
    ),
    "a window behind a rescale": (
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400},
        linear(LINE * 2 - 1024, 40, 400),
    ),
    "a window of one step": ({"WindowCenter": 1500, "WindowWidth": 1}, (LINE >= 1500) * 255),
    "an exact window": (
        {"WindowCenter": 1500, "WindowWidth": 1024, "VOILUTFunction": "LINEAR_EXACT"},
        np.rint(np.clip((LINE - 988) / 1024, 0, 1) * 255),
    ),
    "a sigmoid": (
        {"WindowCenter": 1500, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"},
        np.rint(255 / (1 + np.exp(-4 * (LINE - 1500) / 1000))),
    ),
    "padding": (
        {"PixelPaddingValue": 3100, "PhotometricInterpretation": "MONOCHROME1"},
        np.where(LINE == 3100, 0, np.rint((1 - LINE / 3000) * 255)),
    ),
    "a range of padding": (
        {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 100},
        np.where(LINE <= 100, 0, np.rint((LINE - 200) / 2900 * 255)),
    ),
    "a modality table": (
        {
            "ModalityLUTSequence": lut([*range(3101)][::-1], ModalityLUTType="US"),
        },
        np.rint((1 - LINE / 3100) * 255),
    ),
    "a table instead of a window": (
        {"VOILUTSequence": lut([min(65535, 20 * step) for step in range(4096)])},
        np.rint(np.minimum(65535, 20 * LINE) / 65535 * 255),
    ),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_grey_is_shown_as_on_a_viewer(kind: str, tmp_path: Path) -> None:
    """Tables, slopes, windows, inversion and padding are applied in DICOM's order."""
    tags, expected = SHOWN[kind]
    dicom(tmp_path / "a.dcm", RAMP, **tags)
    assert read(tmp_path / "a.dcm").tolist() == expected.astype(np.uint8).tolist()


def test_signed_numbers_have_their_window(tmp_path: Path) -> None:
    """As of computed tomography: below zero is not above it."""
    values = (RAMP.astype(np.int16) - 1000).astype(np.int16)
    dicom(tmp_path / "a.dcm", values, WindowCenter=40, WindowWidth=400)
    assert read(tmp_path / "a.dcm").tolist() == linear(LINE - 1000, 40, 400).tolist()


def test_colours_are_as_they_are(tmp_path: Path) -> None:
    """Eight bits per colour; the end of the name does not matter where the first bytes tell."""
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    dicom(tmp_path / "IM0001", values)
    assert np.array_equal(imagefiles.pixels([tmp_path / "IM0001"], 32)[0], values)


def test_compressed_and_other_colours_are_brought_to_rgb(tmp_path: Path) -> None:
    """Luminance and chrominance, as they are and as JPEG, show the same colour."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    plain = Image.new("RGB", (32, 32), (200, 100, 50))
    path = tmp_path / "a.dcm"
    dicom(path, np.asarray(plain.convert("YCbCr")), PhotometricInterpretation="YBR_FULL")
    assert np.abs(imagefiles.pixels([path], 8) - [200.0, 100.0, 50.0]).max() <= 2
    coded = BytesIO()
    plain.save(coded, "JPEG", quality=95)
    dicom(path, np.asarray(plain), PhotometricInterpretation="YBR_FULL_422")
    found = pydicom.dcmread(path)
    found.PixelData = encapsulate([coded.getvalue()])
    found["PixelData"].VR, found["PixelData"].is_undefined_length = "OB", True
    found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    found.save_as(path)
    assert np.abs(imagefiles.pixels([path], 8) - [200.0, 100.0, 50.0]).max() <= 2


FLOATS = RAMP.astype(np.float32).tobytes()
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no pixels": ({"PixelData": None, "Modality": "SR"}, "has no pixels: it is a SR file"),
    "two frames": (
        {"NumberOfFrames": 2, "PixelData": RAMP.tobytes() * 2},
        "has 2 frames",
    ),
    "fractions": (
        {"PixelData": None, "BitsAllocated": 32, "FloatPixelData": FLOATS},
        "numbers with fractions",
    ),
    "too few bytes": ({"PixelData": RAMP.tobytes()[:-400]}, "cannot be read"),
    "a palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "of the kind PALETTE COLOR"),
    "no size": ({"Rows": None}, "has None x 32 pixels"),
    "too many pixels": ({"Rows": 65535, "Columns": 65535}, "has 65535 x 65535 pixels"),
    "a window without a width": (
        {"WindowCenter": 5, "WindowWidth": 0},
        "a window with the centre 5.0 and the width 0.0",
    ),
    "an unknown window": (
        {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
        "a window of the kind CUBIC",
    ),
    "one value": ({"PixelData": bytes(2 * 32 * 32)}, "has no window, and one value everywhere"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_certain_picture_is_refused(kind: str, tmp_path: Path) -> None:
    """The error names the file, what is wrong with it and what to do."""
    tags, words = REFUSED[kind]
    dicom(tmp_path / "a.dcm", RAMP, **tags)
    with pytest.raises(DataCorrupt) as caught:
        imagefiles.pixels([tmp_path / "a.dcm"], 8)
    assert caught.value.message.startswith(f"the image {tmp_path / 'a.dcm'} ")
    assert words in caught.value.message
    assert caught.value.fix


def test_deep_colours_and_what_is_no_dicom_are_refused(tmp_path: Path) -> None:
    """Sixteen bits per colour have no certain white; a name alone makes no DICOM file."""
    dicom(tmp_path / "a.dcm", np.zeros((8, 8, 3), np.uint16))
    (tmp_path / "b.dcm").write_bytes(b"no image")
    for name, words in (("a.dcm", "colours of 16 bits"), ("b.dcm", "cannot be read")):
        with pytest.raises(DataCorrupt, match=words):
            imagefiles.pixels([tmp_path / name], 8)
