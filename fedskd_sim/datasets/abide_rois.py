"""ABIDE I (Di Martino et al. 2014, CC BY-NC-SA 3.0) from time series of regions, as the
Preprocessed Connectomes Project gives them.

Expected: a table with the columns ``SITE_ID``, ``SUB_ID``, ``FILE_ID`` and ``DX_GROUP`` (1 autism,
2 control), and for every row a file ``FILE_ID_rois_ATLAS.1D`` in any folders below that of the
table. A file has one line that begins with #, then T lines of R numbers, the signal of each region.
Rows whose ``FILE_ID`` is no_filename have no recording and are skipped. With ``missing: skip`` so
are those whose file is not there. Both are counted.

Scanners or institutions act as hospitals. Connectivity is Pearson's r over time, cut and
transformed as in ``abide``. A region whose signal is constant or not a number is silent: its z is
0 in that subject. A region that is silent in more than 5 % of all subjects is left out for
everybody. Five folds are drawn, always the same: diagnoses of every scanner are spread evenly.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Preview, files_below
from fedskd_sim.datasets import csvfile
from fedskd_sim.datasets.abide import LARGEST_R, MOST_SILENT
from fedskd_sim.datasets.csvfile import CsvRow
from fedskd_sim.datasets.refusals import check_once, corrupt, in_order

FEWEST_POINTS = 3
Rows = NDArray[np.integer[Any]]


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
        raise corrupt(f"{path} cannot be read: {error}") from error
    if not lines or not lines[0].startswith("#"):
        raise corrupt(f"{path} does not begin with a line of #")
    found = [line for line in lines[1:] if line.strip()]
    if len(found) < FEWEST_POINTS:
        raise corrupt(f"{path} has {len(found)} points in time, too few for a correlation")
    return found


def _numbers(path: Path, lines: list[str]) -> NDArray[np.float64]:
    """Turn lines into numbers (T, R)."""
    try:
        return np.stack([np.array(line.split(), np.float64) for line in lines])
    except ValueError as error:
        raise corrupt(f"{path} is no table of numbers: {error}") from error


CLASSES = ("control", "asd")
LABELS = {"1": 1, "2": 0}
NO_FILE = "no_filename"
ABSENT = "without a file here"
NEEDED = ("SITE_ID", "SUB_ID", "FILE_ID", "DX_GROUP")
_PIPELINES = frozenset(
    {
        "ccs",
        "cpac",
        "dparsf",
        "niak",
        "filt_global",
        "filt_noglobal",
        "nofilt_global",
        "nofilt_noglobal",
    }
)
"""What the project calls its pipelines and their strategies, in the names of folders."""
FEWEST_REGIONS = 2


def read(
    folder: Path,
    *,
    file: str = "Phenotypic_V1_0b_preprocessed1.csv",
    atlas: str = "cc200",
    by: str = "site",
    missing: str = "refuse",
) -> Cohort:
    """Read the table, of which ``missing`` says whether to refuse or to skip a subject without a
    file. Which regions are silent in whom is found, and connectivity computed, later. Hospitals are
    the sites or the institutions.
    """
    path = folder / file
    found = files_below(path.parent, f"_rois_{atlas}.1D")
    table, besides = _table(path, found, by, missing)

    def heard(rows: Rows) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
        files = _files(path, table, found, atlas)
        return [series(files[row]) for row in rows], regions_with_signal(files)

    def preview(rows: Rows) -> Preview:
        regions = len(heard(rows)[1])
        return Preview(np.empty((0, regions, regions), np.float32))

    def connectivities(rows: Rows) -> tuple[NDArray[np.float32], str]:
        signals, regions = heard(rows)
        z = [connectivity(signal)[np.ix_(regions, regions)] for signal in signals]
        return np.stack(z), _remark(signals, regions)

    return Cohort(
        connectivities,
        [LABELS[row["DX_GROUP"]] for row in table],
        CLASSES,
        subjects=in_order(np.arange(len(table))),
        sites=[_site(row, by) for row in table],
        ids=[row["FILE_ID"] for row in table],
        blocks=[row["SITE_ID"] for row in table],
        besides=besides,
        preview=preview,
    )


def _remark(signals: list[NDArray[np.float64]], regions: NDArray[np.int64]) -> str:
    """Count the regions that are left out for everybody, and the silent ones among the others."""
    count = signals[0].shape[1]
    masked = sum(int(silent(signal)[regions].sum()) for signal in signals)
    parts = (
        [f"{count - len(regions)} of {count} regions are left out, silent in many subjects"]
        if len(regions) < count
        else []
    )
    parts += (
        [f"{masked} signals of {len(signals)} subjects are silent and masked"] if masked else []
    )
    return "; ".join(parts)


@lru_cache(maxsize=2)
def regions_with_signal(files: tuple[Path, ...]) -> NDArray[np.int64]:
    """Find the regions that are silent in few of the subjects; looks into all files, once for all
    hospitals of a process.

    Raises:
        DataCorrupt: files differ in their regions, or fewer than two regions are left.

    """
    counts = np.zeros(0, np.int64)
    for file in files:
        found = quiet(file)
        counts = counts if len(counts) else np.zeros(len(found), np.int64)
        if len(found) != len(counts):
            raise corrupt(f"{file} has {len(found)} regions, {files[0]} has {len(counts)}")
        counts += found
    regions = np.flatnonzero(counts <= MOST_SILENT * len(files))
    if len(regions) < FEWEST_REGIONS:
        text = (
            f"{len(counts) - len(regions)} of {len(counts)} regions are silent in more than "
            f"{MOST_SILENT:.0%} of the subjects"
        )
        raise corrupt(f"{text}, which leaves {len(regions)}")
    return regions


def _table(
    path: Path, files: list[Path], by: str, missing: str
) -> tuple[list[CsvRow], dict[str, list[tuple[str, str]]]]:
    """Read the subjects that have a recording; and by reason those that are skipped, as site and
    class, and the recordings of nobody in the table.
    """
    there = {file.name.rpartition("_rois_")[0].casefold() for file in files}
    table: list[CsvRow] = []
    skipped: dict[str, list[tuple[str, str]]] = {"without a recording": [], ABSENT: []}
    for row in csvfile.rows(path, NEEDED):
        absent = missing == "skip" and row["FILE_ID"].casefold() not in there
        if row["FILE_ID"] == NO_FILE or absent:
            why = ABSENT if row["FILE_ID"] != NO_FILE else "without a recording"
            label = LABELS.get(row["DX_GROUP"])
            skipped[why].append((_site(row, by), "" if label is None else CLASSES[label]))
            continue
        if row["DX_GROUP"] not in LABELS:
            text = f"{path}: {row['FILE_ID']} has DX_GROUP {row['DX_GROUP']!r}, not 1 or 2"
            raise corrupt(text)
        table.append(row)
    if not table:
        more = " whose file is there" if skipped[ABSENT] else ""
        raise corrupt(f"{path} has no subject with a FILE_ID{more}")
    check_once(path, table, "SUB_ID", "FILE_ID")
    unknown = there - {row["FILE_ID"].casefold() for row in table}
    return table, {**skipped, "recordings that the table does not name": [("", "")] * len(unknown)}


def _site(row: CsvRow, by: str) -> str:
    """Return the scanner of a subject, or its institution."""
    return row["SITE_ID"] if by == "site" else re.sub(r"_\d+$", "", row["SITE_ID"])


def _files(path: Path, table: list[CsvRow], there: list[Path], atlas: str) -> tuple[Path, ...]:
    """Find the file of each subject."""
    places: dict[str, list[Path]] = {}
    for file in there:
        places.setdefault(file.name.casefold(), []).append(file)
    wanted = [f"{row['FILE_ID']}_rois_{atlas}.1D" for row in table]
    found = [places.get(file.casefold(), []) for file in wanted]
    missing = [
        file
        for file, known in zip(wanted, found, strict=True)
        if file not in {place.name for place in known}
    ]
    if missing:
        text = (
            f"{missing[0]} is not below {path.parent}; {len(missing)} of {len(wanted)} subjects "
            "have no file"
        )
        fix = (
            "fetch them too, or leave these subjects out, as after a quality control, with "
            "'missing: skip'"
        )
        raise corrupt(text, fix)
    twice = [known for known in found if len(known) > 1]
    if twice:
        raise corrupt(
            f"{twice[0][0]} and {twice[0][1]} are both there: keep the files of one pipeline below "
            f"{path.parent}"
        )
    files = tuple(known[0] for known in found)
    _check_one_pipeline(path.parent, table, files)
    return files


def _check_one_pipeline(folder: Path, table: list[CsvRow], files: tuple[Path, ...]) -> None:
    """Refuse files of two pipelines, which folders tell.

    They do by their names, and where files of one site lie in several folders, of which one holds
    several of them.
    """
    words = [
        _PIPELINES.intersection(part.casefold() for part in file.relative_to(folder).parts[:-1])
        for file in files
    ]
    sites: dict[str, dict[Path, list[Path]]] = {}
    for row, file in zip(table, files, strict=True):
        sites.setdefault(row["SITE_ID"], {}).setdefault(file.parent, []).append(file)
    pairs = [
        (files[0], file) for file, named in zip(files, words, strict=True) if named != words[0]
    ]
    for by_folder in sites.values():
        if len(by_folder) > 1 and max(map(len, by_folder.values())) > 1:
            first, second, *_ = by_folder.values()
            pairs.append((first[0], second[0]))
    if pairs:
        one, other = pairs[0]
        text = f"{one} and {other} lie in folders of two pipelines"
        fix = (
            f"keep the files of one pipeline below {folder}, in one folder, or in one for every "
            "site or for every subject"
        )
        raise corrupt(text, fix)
