"""Where voxels lie and what numbers they are: brought to one form, or refused with the names of
the files.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.datasets import nifti
from fedskd_sim.errors import DataCorrupt, FedskdError, InvalidValue, LabelSpacesDiffer
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import reading
from fedskd_sim.learning.samples import Geometry, apart
from fedskd_sim.scenario import Nifti, raise_all, spaceless
from fedskd_sim.scenario import load as load_scenario

GRID = (6, 7, 8)
AFFINE = np.array([[2.0, 0, 0, -15], [0, 2.5, 0, -12], [0, 0, 3, 4], [0, 0, 0, 1]])
VALUES = np.random.default_rng(0).normal(5, 2, GRID).astype(np.float32)
SPACE = "space: {grid: [6, 7, 8], affine: [[2, 0, 0, -15], [0, 2.5, 0, -12], [0, 0, 3, 4]]}"
CHANGE = "data.space={grid: [6, 7, 8], affine: [[2, 0, 0, -15], [0, 2.5, 0, -12], [0, 0, 3, 4]]}"
TEXT = """\
name: scans
data: {{name: nifti{more}}}
hospitals:
  - {{name: a, architecture: vol-plain, data: {{site: north}}}}
  - {{name: b, architecture: vol-plain, data: {{site: south}}}}
algorithm: {{name: local}}
training: {{batch_size: 8, warmup_epochs: 1, epochs: 1}}
"""


def moved(by: float = 0.0, scale: float = 1.0, degrees: float = 0.0) -> np.ndarray:
    """Give the affine with another origin, other voxels, or turned about the third axis."""
    angle = np.radians(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    found = AFFINE.copy()
    found[:3, :3] = turn @ AFFINE[:3, :3] * scale
    found[0, 3] += by
    return found


def image(affine: np.ndarray = AFFINE, values: np.ndarray = VALUES) -> nib.Nifti1Image:
    return nib.Nifti1Image(values, affine, dtype=values.dtype)


def stored(
    axes: tuple[int, ...], signs: tuple[int, ...], values: np.ndarray = VALUES
) -> nib.Nifti1Image:
    """Store the same volume with its axes in another order and direction."""
    turn = np.array([*zip(axes, signs, strict=True)], float)
    affine = AFFINE @ nib.orientations.inv_ornt_aff(turn, GRID)
    return image(affine, nib.orientations.apply_orientation(values, turn))


def read(file: nib.Nifti1Image, folder: Path, name: str = "x.nii") -> tuple[np.ndarray, Geometry]:
    file.to_filename(folder / name)
    opened = nifti.open_volume(folder / name)
    return nifti.read_values(opened), opened.geometry


def release(folder: Path, made: Callable[[int], nib.Nifti1Image] = lambda _: image()) -> Path:
    """Write ten subjects of two sites, the first ten files the north's; ``made`` gives the file
    of each.
    """
    rows = ["file,label,site,subject"]
    for number in range(20):
        made(number).to_filename(folder / f"v{number}.nii")
        rows.append(
            f"v{number}.nii,{'xy'[number % 2]},{'north' if number < 10 else 'south'},s{number}"
        )
    (folder / "participants.csv").write_text("\n".join(rows) + "\n")
    return folder


def check(path: Path, folder: Path) -> None:
    loaded = load_scenario(path)
    raise_all(loaded.document, find_problems(loaded.scenario, folder))


def test_any_order_and_direction_of_axes_is_the_same_volume(tmp_path: Path) -> None:
    """All 48 ways of storing a volume with its affine give the same voxels at the same places."""
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        values, geometry = read(stored(axes, signs), tmp_path)
        assert np.array_equal(values, VALUES), (axes, signs)
        assert geometry.grid == GRID
        assert np.allclose(geometry.affine, AFFINE, atol=1e-4)


def test_sites_that_store_otherwise_are_read_alike(tmp_path: Path, scenario_file: Callable) -> None:
    """A site that stores right to left, with an affine that says so, passes the check and is
    what it would be left to right.
    """
    folders = [tmp_path / name for name in ("alike", "otherwise")]
    draw = np.random.default_rng(1)
    volumes = [draw.normal(5, 2, GRID).astype(np.float32) for _ in range(20)]
    for folder, sign in zip(folders, (1, -1), strict=True):
        folder.mkdir()
        release(
            folder,
            lambda number, sign=sign: stored(
                (0, 1, 2), (sign if number > 9 else 1, 1, 1), volumes[number]
            ),
        )
        check(scenario_file(TEXT.format(more="")), folder)
    one, other = (
        reading.load(Nifti(name="nifti", site="south"), folder, 1, "b").values for folder in folders
    )
    assert np.array_equal(one, other)


APART = {
    "origin": (image(moved(by=4)), "the first at (-11, -12, 4) mm"),
    "voxels": (image(moved(scale=2)), "voxels of 4 x 5 x 6 mm"),
    "rotation": (image(moved(degrees=10)), "axes along [[0.985, 0.174, 0]"),
    "grid": (image(values=VALUES[:5]), "a grid of 5 x 7 x 8 voxels"),
    "a flip that the affine denies": (
        image(np.diag([-1, 1, 1, 1]) @ AFFINE),
        "the first",
    ),
}


@pytest.mark.parametrize("what", APART)
@pytest.mark.parametrize("number", [9, 10, 11])
def test_volumes_that_lie_elsewhere_are_named(
    what: str, number: int, tmp_path: Path, scenario_file: Callable
) -> None:
    """What still differs of one volume, or of a whole site, is an error before a run that names
    two files and says how.
    """
    other, words = APART[what]
    whole_site = number == 10
    release(tmp_path, lambda row: other if row == number or (whole_site and row > 9) else image())
    with pytest.raises(FedskdError) as caught:
        check(scenario_file(TEXT.format(more="")), tmp_path)
    assert type(caught.value) is (LabelSpacesDiffer if whole_site else DataCorrupt)
    assert words in caught.value.message
    assert len(set(re.findall(r"v\d+\.nii", caught.value.message))) == 2
    assert "to one space" in caught.value.fix


def test_rounding_in_headers_is_no_difference() -> None:
    """A hundredth of the shortest edge is the limit, at the corner that moves most."""
    assert not apart(AFFINE, moved(by=0.0199), GRID)
    assert apart(AFFINE, moved(by=0.0201), GRID)
    assert not apart(AFFINE, moved(scale=1.0005), GRID)
    assert apart(AFFINE, moved(scale=1.001), GRID)
    assert apart(AFFINE, moved(by=np.nan), GRID)


def in_unit(code: int, size: float) -> nib.Nifti1Image:
    found = image(np.diag([size, size, size, 1]) @ AFFINE)
    found.header["xyzt_units"] = code + 16
    return found


def test_lengths_have_their_unit(tmp_path: Path) -> None:
    """Metres, millimetres, micrometres and no unit, which means millimetres, give one place; an
    unknown code is refused.
    """
    for code, size in ((0, 1), (1, 1e-3), (2, 1), (3, 1e3)):
        _, geometry = read(in_unit(code, size), tmp_path)
        assert not apart(geometry.affine, AFFINE, GRID), code
    _, geometry = read(in_unit(1, 1), tmp_path)
    assert apart(geometry.affine, AFFINE, GRID)
    with pytest.raises(DataCorrupt, match="unknown unit 5"):
        read(in_unit(5, 1), tmp_path)


def forms(
    sform: tuple[np.ndarray, int], qform: tuple[np.ndarray, int], zooms: float = 0.0
) -> nib.Nifti1Image:
    found = image()
    found.set_qform(*qform)
    found.set_sform(*sform)
    if zooms:
        found.header["pixdim"][1:4] = zooms
    return found


def test_the_affine_is_the_sform_or_else_the_qform(tmp_path: Path) -> None:
    """Both alike, one alone, and a qform of another space behind the sform of a template are
    certain.
    """
    for file in (
        forms((AFFINE, 1), (AFFINE, 1)),
        forms((AFFINE, 2), (AFFINE, 0)),
        forms((moved(by=9), 0), (AFFINE, 1)),
        forms((AFFINE, 4), (moved(by=9), 1)),
    ):
        _, geometry = read(file, tmp_path)
        assert not apart(geometry.affine, AFFINE, GRID)


def patched(file: nib.Nifti1Image, **bytes_at: bytes) -> nib.Nifti1Image:
    """Let a file be written with other bytes at ``at_OFFSET``."""
    whole = bytearray(file.to_bytes())
    for place, data in bytes_at.items():
        offset = int(place.removeprefix("at_"))
        whole[offset : offset + len(data)] = data
    file.to_filename = lambda path: Path(path).write_bytes(
        gzip.compress(whole) if str(path).endswith("gz") else whole
    )
    return file


def of_kind(kind: object) -> nib.Nifti1Image:
    values = np.zeros(GRID, kind)
    if values.dtype.names:
        values["R"] = 7
    return image(values=values)


FLIPPED = np.diag([-1, 1, 1, 1]) @ AFFINE
REFUSED: dict[str, tuple[Callable[[], nib.Nifti1Image], str]] = {
    "two affines of one space": (lambda: forms((AFFINE, 1), (moved(by=4), 1)), "says two things"),
    "two sides": (lambda: forms((AFFINE, 4), (FLIPPED, 1)), "says two things"),
    "two spacings": (
        lambda: forms((AFFINE, 2), (AFFINE, 0), 4.0),
        "4 x 4 x 4 by its pixdim, of 2 x 2.5 x 3 by its sform",
    ),
    "no affine": (lambda: forms((AFFINE, 0), (AFFINE, 0)), "says nowhere which side is left"),
    "a plane": (lambda: patched(image(), at_312=bytes(16)), "puts all voxels on a plane"),
    "no numbers in the affine": (
        lambda: patched(image(), at_280=np.float32(np.nan).tobytes()),
        "on a plane, or nowhere",
    ),
    "no rotation": (
        lambda: patched(forms((AFFINE, 0), (AFFINE, 1)), at_256=np.full(3, 0.9, "<f4").tobytes()),
        "w2 should be",
    ),
    "complex numbers": (lambda: of_kind(np.complex64), "has complex numbers"),
    "colours": (lambda: of_kind([("R", "u1"), ("G", "u1"), ("B", "u1")]), "has colours"),
    "colours with alpha": (
        lambda: of_kind([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")]),
        "has colours",
    ),
    "an unknown kind of number": (lambda: patched(image(), at_70=b"\x4d\0"), "data code 77"),
    "no kind of number": (lambda: patched(image(), at_70=b"\0\0"), "data code 0"),
    "single bits": (lambda: patched(image(), at_70=b"\1\0"), "data code 1 "),
    "frames": (
        lambda: image(values=np.repeat(VALUES[..., None], 3, 3)),
        "not three axes and one frame",
    ),
    "vectors": (
        lambda: image(values=np.repeat(VALUES[..., None, None], 3, 4)),
        "not three axes and one frame",
    ),
    "a slice": (lambda: image(values=VALUES[0]), "not three axes and one frame"),
    "a negative axis": (
        lambda: patched(image(), at_42=b"\xf4\xff"),
        "not three axes and one frame",
    ),
    "a slope without intercept": (
        lambda: patched(image(), at_112=np.array([2, np.nan], "<f4").tobytes()),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_volume_of_no_certain_place_or_number_is_refused_by_its_header(
    what: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """The check before a run names the file, the reason and a fix for everything that is not one
    volume of real numbers.
    """
    make, words = REFUSED[what]
    release(tmp_path, lambda number: make() if number == 13 else image())
    with pytest.raises(DataCorrupt, match=re.escape(words)) as caught:
        check(scenario_file(TEXT.format(more="")), tmp_path)
    assert str(tmp_path / "v13.nii") in caught.value.message
    assert caught.value.fix


def test_other_formats_are_refused(tmp_path: Path, scenario_file: Callable) -> None:
    """A file that nibabel can read but that is no NIfTI file, with axes and units of its own, is
    named.
    """
    release(tmp_path)
    nib.MGHImage(VALUES, AFFINE).to_filename(tmp_path / "v13.mgz")
    table = tmp_path / "participants.csv"
    table.write_text(table.read_text().replace("v13.nii", "v13.mgz"))
    with pytest.raises(DataCorrupt, match=r"v13\.mgz is no NIfTI file but a MGHImage"):
        check(scenario_file(TEXT.format(more="")), tmp_path)


def test_numbers_of_every_real_kind_are_read(tmp_path: Path) -> None:
    """Whole numbers, scaled ones, both byte orders, large ones and one frame of four axes have
    their values.
    """
    whole = np.round(VALUES * 10)
    for kind in ("i1", "u1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "f4", ">f4", "f8"):
        header = nib.Nifti1Header(endianness=">" if kind[0] == ">" else "<")
        values, _ = read(
            nib.Nifti1Image(whole.clip(0, 127).astype(kind), AFFINE, header, dtype=kind), tmp_path
        )
        assert np.array_equal(values, whole.clip(0, 127)), kind
    scaled = image()
    scaled.set_data_dtype(np.int16)
    values, _ = read(scaled, tmp_path)
    assert np.allclose(values, VALUES, atol=1e-3)
    for shape in ((*GRID, 1), (*GRID, 1, 1)):
        values, _ = read(image(values=VALUES.reshape(shape)), tmp_path)
        assert np.array_equal(values, VALUES)
    exact = 2.0**24 + np.arange(np.prod(GRID)).reshape(GRID)
    values, _ = read(image(values=exact.astype(np.int64)), tmp_path)
    assert np.array_equal(values, exact)
    huge = nifti.standardise(VALUES.astype(float) * 1e100, None, Path("x"))
    assert np.allclose(huge, nifti.standardise(VALUES, None, Path("x")), atol=1e-5)
    with pytest.raises(DataCorrupt, match="too large to compute with"):
        nifti.standardise(VALUES.astype(float) * 1e300, None, Path("x"))


def test_an_atlas_lies_where_the_volumes_lie(tmp_path: Path) -> None:
    """An atlas stored the other way is turned like volumes, one that lies elsewhere is named,
    and numbers may have gaps.
    """
    release(tmp_path)
    regions = np.arange(np.prod(GRID)).reshape(GRID) % 4
    stored((2, 0, 1), (1, -1, 1), (regions * 70_000_001).astype(np.int64)).to_filename(
        tmp_path / "atlas.nii"
    )
    image(moved(by=0.03), regions.astype(np.int16)).to_filename(tmp_path / "shifted.nii")
    known = reading.facts(Nifti(name="nifti", site="south", atlas="atlas.nii"), tmp_path, 1, "b")
    assert np.array_equal(known.atlas, regions)
    with pytest.raises(DataCorrupt, match=r"shifted.nii has .*v1\d.nii has .*another affine"):
        reading.facts(Nifti(name="nifti", site="south", atlas="shifted.nii"), tmp_path, 1, "b")


def test_a_hospital_needs_no_other_hospitals_files(tmp_path: Path, scenario_file: Callable) -> None:
    """With only its own files, each hospital is compared with the scenario's space, and one that
    lies elsewhere is named.
    """
    release(tmp_path, lambda number: image(moved(by=4)) if number > 9 else image())
    for number in range(10):
        (tmp_path / f"v{number}.nii").unlink()
    path = scenario_file(TEXT.format(more=f", {SPACE}"))
    data = load_scenario(path).scenario.hospital("b").data
    with pytest.raises(
        DataCorrupt, match=r"v1\d.nii has a grid .*, data.space has a grid"
    ) as caught:
        reading.facts(data, tmp_path, 1, "b")
    assert caught.value.key == ("data", "space")
    release(tmp_path)
    for number in range(10):
        (tmp_path / f"v{number}.nii").unlink()
    assert reading.facts(data, tmp_path, 1, "b").grid == GRID


def test_hospitals_share_one_space_and_a_cluster_needs_it(
    scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two spaces are a contradiction of the file; without any, a launch into a cluster is
    refused, and with one it is not.
    """
    with pytest.raises(InvalidValue, match="'b' has another space than 'a'"):
        load_scenario(
            scenario_file(TEXT.format(more="").replace("site: south", f"site: south, {SPACE}"))
        )
    assert not [
        *spaceless(load_scenario(scenario_file(TEXT.format(more="")), [CHANGE]).scenario.hospitals)
    ]
    monkeypatch.setattr("fedskd_sim.kubernetes.runtime.KubernetesRuntime.prepare", lambda *_: None)
    monkeypatch.delenv("FEDSKD_DATA", raising=False)
    done = CliRunner().invoke(
        main, ["launch", str(scenario_file(TEXT.format(more=""))), "--on", "kubernetes"]
    )
    assert done.exit_code == InvalidValue.exit_code, done.output
    assert "in a cluster nobody sees the files of two hospitals" in done.stderr


def test_files_beside_data_without_a_place_are_refused(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """Volumes made from a seed say nowhere where they lie, so they do not mix with files that
    do.
    """
    release(tmp_path)
    table = tmp_path / "participants.csv"
    table.write_text(table.read_text().replace(",x,", ",group-0,").replace(",y,", ",group-1,"))
    made = "{name: synthetic-volumes, size: 16}"
    text = TEXT.format(more="").replace("{site: south}", made)
    wrong = [*find_problems(load_scenario(scenario_file(text)).scenario, tmp_path)]
    assert any(
        "says where its voxels lie, and the volumes of another hospital do not" in error.message
        for error in wrong
    )
