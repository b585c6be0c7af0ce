"""Damaged data files: each reader reads them or names them, takes little memory, and raises
nothing else.
"""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fedskd_sim.datasets import imagefiles
from fedskd_sim.datasets.nifti import open_volume
from fedskd_sim.errors import DataCorrupt, DataMissing, InvalidValue, ScenarioSyntaxError
from fedskd_sim.learning.readers import reading
from fedskd_sim.scenario import Abide, AbideRois, Ham10000, MedMnist, Nifti, load

MEMORY = 48 << 20
MUTATIONS = 150
VOLUMES = 30
CENTRAL = b"PK\1\2\x14\x03\x14\0"
"""A member in the list at an archive's end; what follows says whether it is encrypted."""
SITES = np.array(["x", "y"])
ROWS = 40
FOLDS = (np.arange(ROWS) // 4 % 5).astype(np.uint8)
LABELS = (np.arange(ROWS) % 2).astype(np.uint8)
HALF = (np.arange(ROWS) >= ROWS // 2).astype(np.uint8)
ARCHIVES: dict[str, dict[str, Any]] = {
    "medmnist": {
        f"{split}_{what}": value
        for split in ("train", "val", "test")
        for what, value in (
            ("images", np.zeros((ROWS, 4, 4), np.uint8)),
            ("labels", LABELS[:, None]),
        )
    },
    "abide": {
        "fc_q8": np.random.default_rng(0).integers(-90, 90, (ROWS, 15)).astype(np.int8),
        "label": LABELS,
        "label_names": np.array(["no", "yes"]),
        "site": HALF,
        "site_names": SITES,
        "institution": HALF,
        "institution_names": SITES,
        "fold": FOLDS,
        "sub_id": np.arange(ROWS),
    },
    "ham10000": {
        "image": np.zeros((ROWS, 4, 4, 3), np.uint8),
        "label": LABELS,
        "label_names": np.array(["no", "yes"]),
        "site": HALF,
        "site_names": SITES,
        "fold": FOLDS,
        "split_group": np.arange(ROWS),
    },
}
READ: dict[str, Any] = {
    "medmnist": MedMnist(
        name="medmnist",
        file="x.npz",
        partition={"parts": 2, "part": 0, "alpha": 100, "least": 2},
    ),
    "abide": Abide(name="abide", file="x.npz", site="x"),
    "ham10000": Ham10000(name="ham10000", file="x.npz", site="x"),
    "nifti": Nifti(name="nifti", file="scans.csv", site="x", atlas="atlas.nii.gz"),
}
HEADERS = (
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (-5, 4, 4), }",
    b"{'descr': [('a', '<i4'), ('b', '<f8')], 'fortran_order': False, 'shape': (40,), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (40,), }",
    b"{'descr': '<c16', 'fortran_order': False, 'shape': (40,), }",
    b"{'descr': '<M8[s]', 'fortran_order': False, 'shape': (40,), }",
    b"{'descr': '|V8', 'fortran_order': False, 'shape': (40,), }",
    b"{'descr': '|S1', 'fortran_order': False, 'shape': (40,), }",
    b"{'descr': '<U1', 'fortran_order': False, 'shape': (), }",
    b"{'descr': '<f8', 'fortran_order': True, 'shape': (40, 0), }",
    b"{'descr': '<f8', 'fortran_order': True}",
    b"{'descr': '<f8', ",
    b"(" * 200,
    b"\xff\xfe" * 30,
    b"1" * 9000,
)


def npy(header: bytes, version: bytes = b"\1\0") -> bytes:
    size = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + header + bytes(64)


def members(arrays: dict[str, Any]) -> dict[str, bytes]:
    found = {}
    for name, value in arrays.items():
        stream = io.BytesIO()
        np.save(stream, value)
        found[f"{name}.npy"] = stream.getvalue()
    return found


def archive(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return stream.getvalue()


def bent(data: bytes, draw: random.Random) -> bytes:
    """Change some bytes, or cut."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.choice((draw.randrange(len(changed)), draw.randrange(min(400, len(changed)))))
        match draw.randrange(4):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at : at + 4] = draw.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", draw.randbytes(4))
                )
            case 2:
                changed[at:at] = draw.randbytes(draw.choice((1, 30)))
            case _:
                del changed[at : at + draw.choice((1, 30, len(changed) // 2))]
        changed = changed or bytearray(b"x")
    return bytes(changed)


def mutated(kind: str) -> Iterator[bytes]:
    """Make archives that are bent in their arrays' headers, in their arrays, and as a whole."""
    parts = members(ARCHIVES[kind])
    whole = archive(parts)
    for number, (name, data) in enumerate(parts.items()):
        for place, header in enumerate(HEADERS):
            if (place + number) % 3 == 0:
                yield archive({**parts, name: npy(header, b"\1\0" if place % 2 else b"\2\0")})
        for other in (
            b"",
            b"no array",
            data[:100],
            data[:-1],
            data + b"x",
            npy(HEADERS[0], b"\7\0"),
            npy(HEADERS[0], b"\3\0"),
        ):
            yield archive({**parts, name: other})
        yield archive({one: part for one, part in parts.items() if one != name})
    yield from (
        archive(parts, method)
        for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED)
    )
    yield from (
        b"",
        b"PK",
        parts[min(parts)],
        whole.replace(b"\x08\0", b"\x63\0"),
        whole.replace(CENTRAL + b"\0", CENTRAL + b"\1"),
    )
    for number in range(MUTATIONS):
        draw = random.Random(f"{kind}/{number}")
        name = draw.choice([*parts])
        yield bent(whole, draw) if number % 2 else archive({**parts, name: bent(parts[name], draw)})


def judged(kind: str, folder: Path) -> bool:
    """Tell whether a reader takes a folder in; whatever it raises besides the errors of data,
    and much memory, is passed on.
    """
    dataset = READ[kind]
    tracemalloc.start()
    try:
        reading.facts(dataset, folder, 1, "a")
        reading.load(dataset, folder, 1, "a")
    except (DataCorrupt, DataMissing, InvalidValue):
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHIVES)
def test_no_archive_is_a_stray_exception(kind: str, tmp_path: Path) -> None:
    """Headers of a TiB, kinds that are no numbers, other magic, methods of compression: read, or
    refused by name.
    """
    (tmp_path / "x.npz").write_bytes(archive(members(ARCHIVES[kind])))
    assert judged(kind, tmp_path)
    outcomes = set()
    for number, data in enumerate(mutated(kind)):
        (tmp_path / "x.npz").write_bytes(data)
        try:
            outcomes.add(judged(kind, tmp_path))
        except BaseException as error:
            error.add_note(f"archive {number}")
            raise
    assert outcomes == {True, False}


@pytest.mark.parametrize("kind", ["abide", "ham10000"])
@pytest.mark.parametrize("name", ["label_names", "site_names"])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (np.array("no"), r"has shape \(\), not one name after"),
        (np.array([0xFFFFFFFF, 1], np.uint32).view("<U1"), "cannot be read"),
        (np.array([["no", "yes"]]), r"has shape \(1, 2\)"),
        (np.array(["x", "y\x1b[31m"]), r"has 'y\\x1b\[31m', which cannot be printed"),
    ],
)
def test_names_that_are_no_row_of_words_are_refused(
    kind: str, name: str, names: Any, words: str, tmp_path: Path
) -> None:
    """One name alone, a table of names, or one that would move a terminal's cursor: refused."""
    (tmp_path / "x.npz").write_bytes(archive(members({**ARCHIVES[kind], name: names})))
    dataset = READ[kind]
    with pytest.raises(DataCorrupt, match=f"{name} {words}"):
        reading.facts(dataset, tmp_path, 1, "a")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_volume_or_table_is_a_stray_exception(tmp_path: Path) -> None:
    """A bent volume, atlas or table is read, or refused by name."""
    draw = np.random.default_rng(0)
    names = [f"{site}{number}.nii.gz" for site in "xy" for number in range(10)]
    for name in names:
        nib.Nifti1Image(draw.normal(5, 1, (5, 5, 5)).astype(np.float32), np.eye(4)).to_filename(
            tmp_path / name
        )
    nib.Nifti1Image((np.arange(125).reshape(5, 5, 5) % 3).astype(np.uint8), np.eye(4)).to_filename(
        tmp_path / "atlas.nii.gz"
    )
    lines = [
        "file,label,site,subject",
        *(f"{name},{number % 2},{name[0]},{name}" for number, name in enumerate(names)),
    ]
    (tmp_path / "scans.csv").write_text("\n".join(lines), encoding="utf-8")
    assert judged("nifti", tmp_path)
    for file in ("x0.nii.gz", "atlas.nii.gz", "scans.csv"):
        whole = (tmp_path / file).read_bytes()
        inner = gzip.decompress(whole) if file.endswith("gz") else whole
        for number in range(VOLUMES):
            changed = bent(inner, random.Random(f"{file}/{number}"))
            (tmp_path / file).write_bytes(
                gzip.compress(changed, 1) if file.endswith("gz") and number % 4 else changed
            )
            try:
                judged("nifti", tmp_path)
            except BaseException as error:
                error.add_note(f"{file}, mutation {number}")
                raise
        (tmp_path / file).write_bytes(whole)


def test_a_table_of_long_or_strange_names_is_named(tmp_path: Path) -> None:
    """A name that no file system takes is an error of the table."""
    for name in ("x" * 5000, "a\0b.nii"):
        (tmp_path / "scans.csv").write_text(
            f"file,label,site,subject\n{name},0,x,s\n", encoding="utf-8"
        )
        with pytest.raises(DataCorrupt, match="row 1 has a file that is no word"):
            reading.facts(READ["nifti"], tmp_path, 1, "a")


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("stray", [2_000_000, (1 << 63) - 1, (1 << 63) + 5])
def test_a_stray_label_is_refused(stray: int, dtype: type, tmp_path: Path) -> None:
    """One label of millions does not make millions of classes."""
    if stray > np.iinfo(dtype).max:
        return
    labels = LABELS.astype(dtype)
    labels[3] = stray
    (tmp_path / "x.npz").write_bytes(
        archive(members({**ARCHIVES["medmnist"], "val_labels": labels}))
    )
    with pytest.raises(DataCorrupt, match=f"gives the label {stray} in row {ROWS + 3};"):
        reading.facts(READ["medmnist"], tmp_path, 1, "a")


def test_a_class_that_nobody_has_is_refused_unless_named(tmp_path: Path) -> None:
    """Labels from 1 would make a class 0 without images: said, and allowed where all classes
    have names.
    """
    found = {
        name: value + 1 if name.endswith("labels") else value
        for name, value in ARCHIVES["medmnist"].items()
    }
    (tmp_path / "x.npz").write_bytes(archive(members(found)))
    dataset = READ["medmnist"]
    with pytest.raises(InvalidValue, match="gives labels from 1 to 2, none of them 0"):
        reading.facts(dataset, tmp_path, 1, "a")
    named = dataset.model_copy(update={"classes": ("none", "a", "b")})
    assert reading.facts(named, tmp_path, 1, "a").classes == ("none", "a", "b")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """Images behind a link are found; a link that leads back to a folder above ends nowhere."""
    (tmp_path / "store").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("a.jpg", "b.JPG"):
        (tmp_path / "store" / name).write_bytes(b"x")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "data")
    found = imagefiles.by_name(tmp_path / "data")
    assert {
        name: [str(path.relative_to(tmp_path)) for path in paths] for name, paths in found.items()
    } == {
        "a": ["data/images/a.jpg"],
        "b": ["data/images/b.JPG"],
    }


def test_subjects_without_a_file_are_skipped_where_asked(tmp_path: Path) -> None:
    """Files of those that passed a quality control, behind a link: refused with the word to
    write, or left out and counted.
    """
    rows = [
        "SITE_ID,SUB_ID,FILE_ID,DX_GROUP",
        *(f"NYU,{number},NYU_{number},{1 + number % 2}" for number in range(40)),
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "data" / "Phenotypic_V1_0b_preprocessed1.csv").write_text(
        "\n".join(rows), encoding="utf-8"
    )
    draw = np.random.default_rng(0)
    for number in range(30):
        lines = [
            "#a b c",
            *(" ".join(f"{value:.3f}" for value in row) for row in draw.normal(size=(9, 3))),
        ]
        (tmp_path / "store" / f"NYU_{number}_rois_cc200.1D").write_text(
            "\n".join(lines), encoding="utf-8"
        )
    (tmp_path / "data" / "rois").symlink_to(tmp_path / "store")
    strict = AbideRois(name="abide-rois", site="NYU")
    with pytest.raises(DataCorrupt, match="10 of 40 subjects have no file") as caught:
        reading.facts(strict, tmp_path / "data", 1, "a")
    assert "missing: skip" in caught.value.fix
    dataset = strict.model_copy(update={"missing": "skip"})
    found = reading.facts(dataset, tmp_path / "data", 1, "a")
    assert found.counts.left_out["without a file here"] == {"control": 5, "asd": 5}
    assert len(reading.load(dataset, tmp_path / "data", 1, "a").values) == 30


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_says_what_to_save_it_as(encoding: str, tmp_path: Path) -> None:
    """It needs no second download, as a damaged file does."""
    text = "file,label,site,subject\na,Grün,x,s\n"
    (tmp_path / "scans.csv").write_text(text, encoding=encoding)
    with pytest.raises(DataCorrupt, match="is no text in UTF-8") as caught:
        reading.facts(READ["nifti"], tmp_path, 1, "a")
    assert caught.value.fix == "save it as UTF-8"


def test_semicolons_are_named(tmp_path: Path) -> None:
    """A table as some spreadsheets save it is told from one that lacks columns."""
    (tmp_path / "scans.csv").write_text("file;label;site;subject\na;0;x;s\n", encoding="utf-8")
    with pytest.raises(DataCorrupt, match="is separated by semicolons") as caught:
        reading.facts(READ["nifti"], tmp_path, 1, "a")
    assert "commas" in caught.value.fix


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
GOOD = """
name: t
description: "{}"
data: {{name: synthetic-skin}}
hospitals: [{{name: a, architecture: cnn-plain}}, {{name: b, architecture: cnn-plain}}]
algorithm: {{name: fedskd, rounds: 1}}
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "too many values"),
        ("a: " + "[" * 3000, "nested more than 40 levels"),
        ("a: " + "{b: " * 3000, "nested more than 40 levels"),
        (GOOD.format(r"\ud800"), "half of a character"),
        (GOOD.format(r"\udc00\ud800"), "half of a character"),
        ('"\\ud800": 1\n', "half of a character"),
    ],
)
def test_yaml_that_would_expand_or_holds_no_text_is_refused(
    text: str, words: str, scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any value is made of it: what is nested or expands without end, and halves of
    characters, with their line.
    """
    if "half" not in words:
        monkeypatch.setattr("fedskd_sim.scenario.document._Builder.build", None)
    with pytest.raises(ScenarioSyntaxError, match=words) as caught:
        load(scenario_file(text))
    assert caught.value.where.line


def test_two_halves_are_a_character(scenario_file: Callable) -> None:
    """A scenario that a JSON library has written is read as it was meant."""
    assert load(scenario_file(GOOD.format(r"\ud83d\ude00"))).scenario.description == "\U0001f600"


def test_what_nibabel_says_is_said_with_the_file_or_not_at_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a header that it repairs it is told whose; of one that is refused only the error is."""
    whole = bytearray(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes())
    whole[252:254] = (77).to_bytes(2, "little")  # no code of a qform
    path = tmp_path / "a.nii"
    path.write_bytes(whole)
    assert open_volume(path).geometry.grid == (4, 4, 4)
    (told,) = caplog.messages
    assert told.startswith(f"{path}: ")
    assert "qform_code 77" in told
    caplog.clear()
    whole[254:256] = bytes(2)  # no sform either
    path.write_bytes(whole)
    with pytest.raises(DataCorrupt, match="nowhere which side is left"):
        open_volume(path)
    assert caplog.messages == []
