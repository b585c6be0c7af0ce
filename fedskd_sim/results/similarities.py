"""Reads and draws what ``instruments.probe_similarity`` keeps: similarity matrices of visitor and
resident before and after a stop, CKA between final models, and example pictures.

A picture of patients is drawn only where the run folder has ``pictures/``. Tables, ``report.json``
and exports have none of it.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.results.charts import Cells, heat, picture_of
from fedskd_sim.results.patients import thin
from fedskd_sim.results.rows import digits

Floats = NDArray[np.float64]
Parsed = TypeVar("Parsed")
FOLDER, FINAL, PICTURES, SCHEMA = "similarity", "final", "pictures", 1
"""As `fedskd_sim.learning.similarities` writes them, which needs PyTorch."""
LEVELS = ("batch", "pixel", "region")
MOST_STOPS, NEWEST, MOST_EXAMPLES = 6, 4, 3
"""Stops that a report and a live page show, and hospitals of which a page shows pictures."""
LARGEST, LARGEST_PICTURE = 4096, 64
"""Items of a matrix, and pixels along an axis of a picture, that are drawn."""
MOST_PAIRS = 3
PANEL, LABELS, HEAD, GAP, LEAST_WIDTH, LEAST_HEIGHT = 88, 46, 18, 8, 280, 28.0
"""Pixels of a panel, of what stands left of and above it, between panels, and at least of a
drawing and of a panel's height."""
MOST_NAMED = 8
"""Models whose names stand above the columns of a matrix."""
_NAME = re.compile(r"(?P<host>[a-z0-9-]+)\.(?P<round>[0-9]+)-(?P<hop>[0-9]+)\.npz")
ASPECTS = ("right", "wrong", "visitor right, resident wrong")


class Probed(NamedTuple):
    """What was probed at one stop; ``before`` and ``after`` are the first axis of arrays, visitor
    and resident the second.
    """

    host: str
    model: str
    round: int
    hop: int
    matrices: Mapping[str, Floats]
    """By level, (2, 2, N, N)."""
    agreement: Floats
    """(2, n, S): how the similarities of each place agree in both models."""
    grid: tuple[int, ...]
    """Cells of the pixel level along each axis; () where its items are regions."""
    regions: tuple[int, ...]
    labels: NDArray[np.int64]
    decisions: NDArray[np.int64]
    """(2, 2, n)."""


class ShownStop(NamedTuple):
    """A stop on a page: its title, a drawing for each level, and what differs most."""

    title: str
    drawings: tuple[tuple[str, Markup], ...]
    words: str


class Example(NamedTuple):
    """A sample on a page."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Likeness:
    """What a page shows of similarities; empty parts where nothing was probed."""

    stops: tuple[ShownStop, ...] = ()
    of: int = 0
    """Stops that were probed."""
    final: Markup | None = None
    """CKA between final models."""
    examples: tuple[Example, ...] = ()

    @property
    def anything(self) -> bool:
        """Return whether there is anything to show."""
        return bool(self.stops or self.final)


def likeness(run: Path, hospitals: Sequence[str], *, going: bool = False) -> Likeness:
    """Draw what a run folder has of similarities.

    Args:
        run: the run folder.
        hospitals: their names, in the order of the ring.
        going: the run may still write; its newest stops are drawn, and no pictures of patients.

    Raises:
        RunUnreadable: a file is damaged; it is named.

    """
    files = _stops(run, {name: place for place, name in enumerate(hospitals)})
    chosen = files[-NEWEST:][::-1] if going else thin(files, MOST_STOPS)
    slices = _slices(run, hospitals)
    shown = tuple(_shown(read_stop(run / FOLDER / name), slices) for name in chosen)
    examples = () if going else tuple(_examples(run, files, hospitals))
    return Likeness(shown, len(files), _final(run, hospitals), examples)


def _stops(run: Path, order: Mapping[str, int]) -> list[str]:
    """List the files of stops by round, hop and host."""
    names = [file.name for file in (run / FOLDER).glob("*")]
    seen = [one for name in names if (one := _NAME.fullmatch(name)) and one["host"] in order]
    found = [(int(one["round"]), int(one["hop"]), order[one["host"]], one[0]) for one in seen]
    return [name for *_, name in sorted(found)]


def read_stop(file: Path) -> Probed:
    """Read what was probed at a stop; raises RunUnreadable."""
    return _read(file, _stop_of)


def _stop_of(arrays: Mapping[str, NDArray[Any]], name: str) -> Probed:
    count = len(arrays["labels"])
    levels = {level: arrays[level].astype(float) for level in LEVELS if level in arrays}
    for level, values in levels.items():
        if values.shape != (2, 2, values.shape[-1], values.shape[-1]) or values.size == 0:
            raise ValueError(f"{level!r} has shape {values.shape}")
        if values.shape[-1] > LARGEST:
            raise ValueError(f"{level!r} has {values.shape[-1]} items")
    grid = tuple(int(cells) for cells in arrays["pixel_grid"])
    agreement = arrays["agreement"].astype(float)
    places = levels["pixel"].shape[-1] if "pixel" in levels else 0
    if agreement.shape != (2, count, places) or (grid and int(np.prod(grid)) != places):
        raise ValueError(f"{agreement.shape} and grid {grid} do not belong together")
    if arrays["decisions"].shape != (2, 2, count):
        raise ValueError(f"decisions have shape {arrays['decisions'].shape}")
    regions = tuple(int(one) for one in arrays["regions"])
    if "region" in levels and len(regions) != levels["region"].shape[-1]:
        raise ValueError(f"there are {len(regions)} regions")
    host, model = (str(arrays[whose]) for whose in ("host", "model"))
    round_, hop = (int(arrays[when]) for when in ("round", "hop"))
    if name != f"{host}.{round_}-{hop}.npz":
        raise ValueError(f"it is of {host!r}, round {round_}, hop {hop}")
    labels, decisions = (arrays[one].astype(np.int64) for one in ("labels", "decisions"))
    return Probed(host, model, round_, hop, levels, agreement, grid, regions, labels, decisions)


def _read(file: Path, parse: Callable[[dict[str, NDArray[Any]], str], Parsed]) -> Parsed:
    """Read an archive of arrays, no link, of which something is made; raises RunUnreadable."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(number, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return parse(_of_schema(arrays), file.name)
    except Exception as error:  # a damaged archive raises errors of a dozen kinds
        fix = "restore the file from a copy, or remove it to report without it"
        where = Where(str(file))
        text = f"this is no file of a probe: {error}"
        raise RunUnreadable(text, fix=fix, where=where) from error


def _of_schema(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if int(arrays["schema"]) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    return arrays


def _shown(stop: Probed, slices: Sequence[NDArray[np.int64]]) -> ShownStop:
    title = f"round {stop.round}, hop {stop.hop}: {stop.model} at {stop.host}"
    drawings = []
    for level, values in stop.matrices.items():
        maps = values
        what = "matrix of samples" if level == "batch" else "matrix of regions"
        if level == "pixel" and stop.grid:
            maps, what = _maps(values, stop.grid), "map: mean similarity of a place with the others"
        drawings.append((f"{level} level, {what}", _panels(f"{title}, {level} level", maps)))
    if slices and "region" in stop.matrices:
        name = "regions on three slices of the atlas: mean difference of both models"
        drawings.append((name, _on_slices(title, stop, slices)))
    return ShownStop(title, tuple(drawings), _most_different(stop))


def _maps(values: Floats, grid: tuple[int, ...]) -> Floats:
    """Return the mean similarity of each place with all others, (2, 2, H, W); slices of a volume
    stand side by side.
    """
    places = values.shape[-1]
    off = np.where(np.eye(places, dtype=bool), 0.0, values).sum(-1) / max(1, places - 1)
    shaped: Floats = off.reshape(2, 2, *grid)
    if len(grid) > 2:  # noqa: PLR2004 - a volume
        shaped = np.concatenate(list(np.moveaxis(shaped, 2, 0)), axis=-1)
    return shaped


def _most_different(stop: Probed) -> str:
    """Name the pairs of regions of which visitor and resident thought most differently."""
    if "region" not in stop.matrices or not np.isfinite(stop.matrices["region"]).all():
        return ""
    visitor, resident = np.moveaxis(stop.matrices["region"], 1, 0)
    before, after = visitor - resident
    upper = np.triu_indices(len(before), 1)
    order = np.argsort(-np.abs(before[upper]), kind="stable")[:MOST_PAIRS]
    parts = [
        f"regions {stop.regions[row]} and {stop.regions[column]}: "
        f"{before[row, column]:+.2f}, after {after[row, column]:+.2f}"
        for row, column in zip(upper[0][order], upper[1][order], strict=True)
    ]
    return f"Visitor minus resident, most before the stop: {'; '.join(parts)}." if parts else ""


def _panels(title: str, values: Floats) -> Markup:
    """Draw (2, 2, H, W) as six panels: visitor, resident and their difference, before and after."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Markup("")
    low, high = float(finite.min()), float(finite.max())
    gap = values[:, 0] - values[:, 1]
    most = float(np.nanmax(np.abs(gap)))
    shades = (values - low) / ((high - low) or 1.0)
    rows, columns = values.shape[2:]
    wide, tall = PANEL / columns, max(LEAST_HEIGHT, PANEL * min(1.0, rows / columns)) / rows
    down, right = rows + max(1, round(GAP / tall)), columns + max(1, round(GAP / wide))
    sheet = np.full((down + rows, 2 * right + columns), np.nan)  # one picture is less than six
    for row in range(2):
        shown = (*shades[row], gap[row] / (most or 1.0))
        for column, cells in enumerate(shown):
            top, left = row * down, column * right
            sheet[top : top + rows, left : left + columns] = cells
    size = sheet.shape[1] * wide, sheet.shape[0] * tall
    inside = [_image(picture_of(sheet), LABELS, HEAD, *size)]
    for column, name in enumerate(("visitor", "resident", "difference")):
        inside.append(_text(LABELS + (column * right + columns / 2) * wide, 12, name, "middle"))
    for row, name in enumerate(("before", "after")):
        y = HEAD + (row * down + rows / 2) * tall + 4
        inside.append(_text(LABELS - 6, y, name, "end"))
    foot = HEAD + size[1] + 16
    scale = f"pale {digits(low)}, deep {digits(high)}; difference: ±{digits(most)}"
    inside.append(_text(LABELS, foot, scale, "start"))
    means = [float(np.nanmean(np.abs(one))) for one in gap]
    label = f"{title}: mean absolute difference {digits(means[0])} before, {digits(means[1])} after"
    return _svg((LABELS + size[0] + 4, foot + 6), label, inside)


def _slices(run: Path, hospitals: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the middle slices of the atlas, which all hospitals share; none where there is none,
    or the run goes on.
    """
    files = (run / FOLDER / f"{host}.{FINAL}.npz" for host in hospitals)
    file = next((one for one in files if one.is_file()), None)
    return _read(file, _cut) if file else []


def _cut(arrays: Mapping[str, NDArray[Any]], _: str) -> list[NDArray[np.int64]]:
    found = [arrays[f"slice_{axis}"] for axis in range(3) if f"slice_{axis}" in arrays]
    if any(one.ndim != 2 or one.dtype.kind != "i" or one.size == 0 for one in found):  # noqa: PLR2004
        raise ValueError("a slice of the atlas has another form")
    return [one.astype(np.int64) for one in found]


def _on_slices(title: str, stop: Probed, slices: Sequence[NDArray[np.int64]]) -> Markup:
    """Draw for each region how far visitor and resident are apart, the mean over its similarities
    with the others, before (above) and after.
    """
    gap = np.abs(stop.matrices["region"][:, 0] - stop.matrices["region"][:, 1])
    apart = gap.sum(-1) / max(1, len(stop.regions) - 1)  # a region is like itself in both
    most = float(apart.max()) or 1.0
    rows, columns = (max(one.shape[axis] for one in slices) for axis in range(2))
    last = max(*stop.regions, *(int(one.max()) for one in slices))
    sheet = np.full((2 * rows + 1, len(slices) * (columns + 1) - 1), np.nan)
    for row, values in enumerate(apart):
        shades = np.full(last + 1, np.nan)
        shades[list(stop.regions)] = values / most
        for column, cells in enumerate(slices):
            top, left = row * (rows + 1), column * (columns + 1)
            drawn = np.where(cells > 0, shades[np.maximum(cells, 0)], np.nan)
            sheet[top : top + cells.shape[0], left : left + cells.shape[1]] = drawn
    wide = PANEL / columns
    size = sheet.shape[1] * wide, sheet.shape[0] * wide
    inside = [_image(picture_of(sheet), LABELS, 0, *size)]
    for row, name in enumerate(("before", "after")):
        y = (row * (rows + 1) + rows / 2) * wide + 4
        inside.append(_text(LABELS - 6, y, name, "end"))
    foot = size[1] + 16
    inside.append(_text(LABELS, foot, f"pale 0, deep {digits(most)}", "start"))
    return _svg((LABELS + size[0] + 4, foot + 6), f"{title}: regions on slices", inside)


def _final(run: Path, hospitals: Sequence[str]) -> Markup | None:
    """Draw the CKA of final models, the mean over the hospitals that compared them."""
    order = {name: place for place, name in enumerate(hospitals)}
    found = []
    for host in hospitals:
        file = run / FOLDER / f"{host}.{FINAL}.npz"
        if not file.is_file():
            continue
        names, values = _read(file, _compared)
        known = [place for place, name in enumerate(names) if name in order]
        at = [order[names[place]] for place in known]
        whole = np.full((len(order), len(order)), np.nan)
        whole[np.ix_(at, at)] = values[np.ix_(known, known)]
        found.append(whole)
    if not found:
        return None
    count = np.isfinite(found).sum(0)
    mean = np.where(count > 0, np.nansum(found, axis=0) / np.maximum(count, 1), np.nan)
    rows = [place for place in range(len(order)) if np.isfinite(mean[place]).any()]
    names = [hospitals[place] for place in rows]
    few = len(names) <= MOST_NAMED
    columns = names if few else [str(place + 1) for place in rows]
    title = f"CKA between final models, mean over {len(found)} hospitals"
    cells = Cells(title, names, columns, "model", "CKA")
    return _safe(heat(cells, mean[np.ix_(rows, rows)], 600))


def _compared(arrays: Mapping[str, NDArray[Any]], _: str) -> tuple[list[str], Floats]:
    names, values = [str(one) for one in arrays["models"]], arrays["cka"].astype(float)
    if values.shape != (len(names), len(names)):
        raise ValueError(f"CKA has shape {values.shape}")
    return names, values


def _pictures(arrays: Mapping[str, NDArray[Any]], _: str) -> NDArray[np.uint8]:
    images = arrays["images"]
    if images.ndim != 4 or images.dtype != np.uint8:  # noqa: PLR2004 - (n, H, W, C)
        raise ValueError(f"pictures have type {images.dtype} and shape {images.shape}")
    return images


def _examples(run: Path, files: Sequence[str], hospitals: Sequence[str]) -> Iterator[Example]:
    """Draw samples of each hospital's newest visit, where their pictures were kept."""
    with_pictures = [one for one in hospitals if (run / PICTURES / f"{one}.npz").is_file()]
    for host in thin(with_pictures, MOST_EXAMPLES):
        stops = (read_stop(run / FOLDER / n) for n in reversed(files) if n.split(".")[0] == host)
        stop = next((one for one in stops if one.model != host), None)
        if stop is None or len(stop.grid) != 2:  # noqa: PLR2004 - a picture
            continue
        images = _read(run / PICTURES / f"{host}.npz", _pictures)
        yield from _of_host(stop, images[: len(stop.labels)])


def _of_host(stop: Probed, images: NDArray[np.uint8]) -> Iterator[Example]:
    visitor, resident = stop.decisions[1] == stop.labels
    kinds = (visitor & resident, ~visitor & ~resident, visitor & ~resident)
    for aspect, which in zip(ASPECTS, kinds, strict=True):
        found = np.flatnonzero(which[: len(images)])
        if not len(found):
            continue
        place = int(found[0])
        title = f"{stop.host}, {aspect} (visitor {stop.model})"
        svg = _example(title, images[place], stop.agreement[1, place].reshape(stop.grid))
        yield Example(title, svg)


def _example(title: str, image: NDArray[np.uint8], agreement: Floats) -> Markup:
    """Draw a picture, and the picture under the map of its places."""
    step = max(1, -(-max(image.shape[:2]) // LARGEST_PICTURE))
    shown, x = _rgb(image[::step, ::step]), PANEL + GAP
    name = re.sub(r"[^a-z0-9-]+", "-", title.lower())
    parts = [
        f'<g id="{name}">{_image(shown, 0, 0, PANEL, PANEL)}</g>',
        f'<use href="#{name}" x="{x}"/>',
        _image(picture_of(agreement), x, 0, PANEL, PANEL),
    ]
    known = agreement[np.isfinite(agreement)]
    mean = digits(float(known.mean())) if len(known) else "not known"
    return _svg((2 * PANEL + GAP, PANEL), f"{title}: mean agreement {mean}", parts)


def _rgb(image: NDArray[np.uint8]) -> str:
    """Return a picture (H, W, C) as the address of a PNG with all of its data."""
    shown = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]
    rows, columns = shown.shape[:2]
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), shown.reshape(rows, -1)], axis=1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw.tobytes(), 9)),
        (b"IEND", b""),
    )
    made = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(made).decode()}"


def _image(address: str, x: float, y: float, wide: float, tall: float) -> str:
    return (
        f'<image x="{x:g}" y="{y:g}" width="{wide:g}" height="{tall:g}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="{address}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="dim" text-anchor="{anchor}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _svg(size: tuple[float, float], label: str, inside: Sequence[str]) -> Markup:
    wide, tall = size
    style = f"min-width:{min(wide, LEAST_WIDTH):.0f}px;max-width:{wide:.0f}px"
    return _safe(
        f'<svg class="chart" viewBox="0 0 {wide:g} {tall:g}" role="img" '
        f'aria-label="{escape(label)}" style="{style}">'
        f"{''.join(inside)}</svg>"
    )


def _safe(drawn: str) -> Markup:
    return Markup(drawn)  # noqa: S704 - made here, names escaped
