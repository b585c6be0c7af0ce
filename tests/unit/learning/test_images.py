"""Image files of every kind: scaled by the range of their format and turned as they say, or
refused, never cut off.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from test_datasets import HAM, check, ham

from fedskd_sim.datasets import imagefiles
from fedskd_sim.errors import DataCorrupt, InvalidValue
from fedskd_sim.learning.readers import reading
from fedskd_sim.scenario import Ham10000Images

RAMP = np.tile(np.arange(32, dtype=np.uint16) * 2056, (32, 1))
"""Thirty-two levels of grey in 16 bits; in 8 bits they are 0, 8, ... 248, whose mean is 124."""
LOW = (RAMP // 257).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    (found,) = imagefiles.pixels([path], 32)
    return found


def png(path: Path, values: np.ndarray, kind: int) -> None:
    """Write a PNG of 16 bits, which Pillow writes in grey alone; ``kind`` is the format's number
    for grey, colour and alpha.
    """
    high, wide, _ = values.shape
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 16, kind, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    )
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))


def tiff(path: Path, image: Image.Image, **tags: int) -> None:
    told = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        told[getattr(TiffImagePlugin, name)] = value
    image.save(path, tiffinfo=told)


READ: dict[str, tuple[str, Callable[[Path], object]]] = {
    "grey of 8 bits": ("a.png", Image.fromarray(LOW).save),
    "grey of 16 bits": ("a.png", Image.fromarray(RAMP).save),
    "grey of 16 bits in TIFF": ("a.tif", Image.fromarray(RAMP).save),
    "grey of 16 bits, most significant byte first": (
        "a.tif",
        Image.fromarray(RAMP.astype(">u2")).save,
    ),
    "grey of 16 bits, of which the largest is black": (
        "a.tif",
        lambda path: tiff(path, Image.fromarray(65535 - RAMP), PHOTOMETRIC_INTERPRETATION=0),
    ),
    "colour of 16 bits": ("a.png", lambda path: png(path, np.repeat(RAMP[..., None], 3, 2), 2)),
    "opaque grey of 16 bits": (
        "a.png",
        lambda path: png(path, np.stack([RAMP, np.full_like(RAMP, 65535)], 2), 4),
    ),
    "opaque colour": ("a.png", Image.fromarray(LOW).convert("RGBA").save),
    "opaque grey": ("a.png", Image.fromarray(LOW).convert("LA").save),
    "a palette": ("a.png", Image.fromarray(LOW).convert("P").save),
    "a palette with an unused entry": (
        "a.png",
        lambda path: Image.fromarray(LOW).convert("P").save(path, transparency=7),
    ),
    "colour": ("a.png", Image.fromarray(LOW).convert("RGB").save),
}


@pytest.mark.parametrize("kind", READ)
def test_every_certain_kind_of_image_has_its_levels(kind: str, tmp_path: Path) -> None:
    """Whatever the number of bits, the byte order and the way of writing colours, the same
    picture is read.
    """
    name, write = READ[kind]
    write(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), np.repeat(LOW[..., None], 3, 2))


def test_two_levels_are_black_and_white(tmp_path: Path) -> None:
    """An image of one bit has 0 and 255, and one of 16 bits reaches both ends."""
    Image.fromarray(RAMP > 30000).save(tmp_path / "a.png")
    Image.fromarray((RAMP > 30000) * np.uint16(65535)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert np.array_equal(read(tmp_path / name)[..., 0], (RAMP > 30000) * np.uint8(255))


def anew(path: Path, **saved: object) -> None:
    Image.fromarray(LOW).save(path, **saved)


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "fractions": (
        "a.tif",
        Image.fromarray((RAMP / 65535).astype(np.float32)).save,
        "numbers with fractions",
    ),
    "32 bits": ("a.tif", Image.fromarray(RAMP.astype(np.int32)).save, "of 32 bits"),
    "signed": (
        "a.tif",
        lambda path: tiff(path, Image.fromarray(LOW), SAMPLEFORMAT=2),
        "signed numbers",
    ),
    "12 of 16 bits": ("a.png", Image.fromarray(RAMP // 16).save, "no number much above 3983"),
    "colour of 12 bits": (
        "a.png",
        lambda path: png(path, np.repeat(RAMP[..., None] // 16, 3, 2), 2),
        "measured with fewer",
    ),
    "a printer's colours": ("a.jpg", Image.new("CMYK", (32, 32)).save, "colours of a printer"),
    "Lab": ("a.tif", Image.new("LAB", (32, 32)).save, "the kind LAB"),
    "transparency": (
        "a.png",
        Image.new("RGBA", (32, 32), (9, 9, 9, 254)).save,
        "transparent in places",
    ),
    "transparent grey": ("a.png", Image.new("LA", (32, 32), (9, 0)).save, "transparent in places"),
    "a transparent grey": (
        "a.png",
        lambda path: anew(path, transparency=8),
        "transparent in places",
    ),
    "a transparent grey of 16 bits": (
        "a.png",
        lambda path: Image.fromarray(RAMP).save(path, transparency=2056),
        "transparent",
    ),
    "an animation": (
        "a.png",
        lambda path: anew(path, save_all=True, append_images=[Image.new("L", (32, 32))]),
        "2 frames",
    ),
    "an animated GIF": (
        "a.gif",
        lambda path: anew(path, save_all=True, append_images=[Image.new("L", (32, 32))]),
        "2 frames",
    ),
    "pages": (
        "a.tif",
        lambda path: anew(path, save_all=True, append_images=[Image.new("L", (32, 32))]),
        "2 frames",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_image_of_no_certain_colours_is_refused(kind: str, tmp_path: Path) -> None:
    """What does not say which number is white, has holes or several pictures is an error with
    the file, the reason and a fix.
    """
    name, write, words = REFUSED[kind]
    write(tmp_path / name)
    with pytest.raises(DataCorrupt, match=words) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in caught.value.message
    assert "save one opaque image" in caught.value.fix


def test_a_photograph_with_a_preview_is_the_photograph(tmp_path: Path) -> None:
    """Cameras put smaller images behind the photograph, which comes first."""
    Image.fromarray(LOW).save(
        tmp_path / "a.jpg",
        format="MPO",
        save_all=True,
        append_images=[Image.new("L", (8, 8))],
        quality=100,
    )
    assert np.abs(read(tmp_path / "a.jpg")[..., 0].astype(int) - LOW).max() < 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_they_say(suffix: str, orientation: int, tmp_path: Path) -> None:
    """The eight EXIF orientations of a picture with a dark upper left quarter bring that quarter
    where they should.
    """
    drawn = np.full((16, 16, 3), 250, np.uint8)
    drawn[:8, :8] = 0
    told = Image.Exif()
    told[0x0112] = orientation
    Image.fromarray(drawn).save(tmp_path / f"a.{suffix}", exif=told)
    corners = (
        imagefiles.pixels([tmp_path / f"a.{suffix}"], 16)[0, [0, 0, 15, 15], [0, 15, 0, 15], 0]
        < 128
    )
    assert corners.argmax() == [0, 1, 3, 2, 0, 1, 3, 2][orientation - 1]
    assert corners.sum() == 1


def copy(folder: Path, where: str, colour: int | None) -> None:
    """Put a second file of the first image below the folder: of another colour, or the same
    bytes.
    """
    first = folder / "HAM10000_images_part_1" / "ISIC_0000000.jpg"
    (folder / where).parent.mkdir(exist_ok=True)
    if colour is None:
        (folder / where).write_bytes(first.read_bytes())
    else:
        Image.new("RGB", (30, 20), (colour, 0, 0)).save(folder / where)


@pytest.mark.parametrize(
    "where",
    [
        "256x256/ISIC_0000000.jpg",
        "HAM10000_images_part_1/ISIC_0000000.png",
        "more/isic_0000000.JPG",
    ],
)
def test_two_images_of_one_name_are_named(
    where: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Copies in other folders, forms or letters are an error that names both before a run,
    unless they are the same bytes.
    """
    ham(tmp_path)
    copy(tmp_path, where, None)
    check(scenario_file(HAM), tmp_path)
    copy(tmp_path, where, 200)
    with pytest.raises(DataCorrupt) as caught:
        check(scenario_file(HAM), tmp_path)
    assert str(tmp_path / "HAM10000_images_part_1" / "ISIC_0000000.jpg") in caught.value.message
    assert str(tmp_path / where) in caught.value.message
    assert "keep one of each name" in caught.value.fix


def test_another_hospitals_copies_do_not_matter(tmp_path: Path) -> None:
    """A hospital looks at its own images alone."""
    ham(tmp_path)
    copy(tmp_path, "more/ISIC_0000000.jpg", 200)
    assert (
        len(
            reading.load(
                Ham10000Images(name="ham10000-images", site="vidir_modern", size=8),
                tmp_path,
                1,
                "b",
            ).ids
        )
        == 60
    )


def test_an_image_written_otherwise_is_said(tmp_path: Path, scenario_file: Callable) -> None:
    """A file whose name differs from the table's in capital letters is not there, and the error
    says what is.
    """
    ham(tmp_path)
    first = tmp_path / "HAM10000_images_part_1" / "ISIC_0000000.jpg"
    first.rename(first.with_name("isic_0000000.jpg"))
    with pytest.raises(
        DataCorrupt, match=r"ISIC_0000000.jpg is not there, but .*isic_0000000.jpg is"
    ):
        check(scenario_file(HAM), tmp_path)


def test_images_keep_their_order_however_many_threads_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread and many give the same bytes; of several bad images the first is named."""
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        edge = 600 if number % 8 == 0 else 32  # some take longer than those after them
        Image.new("RGB", (edge, edge), (number, 2 * number, 3 * number)).save(path)
    found = []
    for threads in (1, 7):
        monkeypatch.setattr(imagefiles.torch, "get_num_threads", lambda threads=threads: threads)
        found.append(imagefiles.pixels(paths, 32))
    assert found[0].tobytes() == found[1].tobytes()
    assert found[0][:, 0, 0, 1].tolist() == [2 * number for number in range(40)]
    for number in (17, 9, 33):
        paths[number].write_bytes(b"no image")
    with pytest.raises(DataCorrupt, match=re.escape(str(paths[9]))):
        imagefiles.pixels(paths, 32)


def save_some(folder: Path, count: int = 3) -> list[Path]:
    """Write images of noise."""
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def test_decoded_images_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is decoded and pixels are the same; another file, order or size
    decodes, and so does a file of the cache that was damaged. Nobody else may read them.
    """
    paths, cache = save_some(tmp_path / "images"), tmp_path / "a" / "cache"
    decoded: list[Path] = []
    usual = imagefiles._read
    monkeypatch.setattr(
        imagefiles, "_read", lambda path, size: decoded.append(path) or usual(path, size)
    )

    def read(given: list[Path], size: int = 32) -> tuple[np.ndarray, int]:
        decoded.clear()
        return imagefiles.pixels(given, size, str(cache)), len(decoded)

    first, count = read(paths)
    assert count == 3
    again, count = read(paths)
    assert count == 0
    assert np.array_equal(first, again)
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert cache.stat().st_mode & 0o077 == 0
    assert read(paths[::-1])[1] == read(paths, 16)[1] == 3
    whole = file.read_bytes()
    places = [-1, 0, 7, 8, *range(10, 80, 3)]  # data, magic, length and words of the header
    bent = [bytes([*whole[:at], whole[at] ^ 1, *whole[at:][1:]]) for at in places]
    for broken in (*bent, whole[:-9], b""):
        file.write_bytes(broken)
        again, count = read(paths)
        assert count == 3
        assert np.array_equal(first, again)
    paths[0].write_bytes(paths[1].read_bytes())
    assert read(paths)[1] == 3


def test_a_folder_that_keeps_nothing_is_named(tmp_path: Path) -> None:
    """What cannot be a folder ends in an error with the key, and leaves nothing behind."""
    paths = save_some(tmp_path / "images")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InvalidValue, match="keeps no images") as caught:
        imagefiles.pixels(paths, 32, str(tmp_path / "file"))
    assert caught.value.key == ("data", "cache")
    assert "folder that can be written" in caught.value.fix
    with pytest.raises(InvalidValue, match="nobody-of-this-name"):
        imagefiles.pixels(paths, 32, "~nobody-of-this-name/cache")
