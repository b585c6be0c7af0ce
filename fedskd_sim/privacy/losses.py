"""The form in which an audited run keeps losses, ``audit/NAME.npz``, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.privacy.attacks import OUTSIDER, PUT_IN, SeenLosses

SCHEMA = 1
FOLDER = "audit"
FINAL = "final"
"""The kind of a finished model that a hospital predicts with; others are last weights."""
ARRAYS: Mapping[str, tuple[str, int]] = {
    "schema": ("i", 0), "scenario": ("U", 0), "seed": ("i", 0), "host": ("U", 0),
    "groups": ("i", 1), "rounds": ("i", 1), "hops": ("i", 1), "models": ("U", 1),
    "kinds": ("U", 1), "before": ("f", 2), "after": ("f", 2), "finals": ("f", 2),
    "final_models": ("U", 1), "final_kinds": ("U", 1),
}  # fmt: skip
"""Kind and axes of what a file holds."""


class KeptLosses(NamedTuple):
    """What was kept at one hospital."""

    host: str
    losses: SeenLosses
    stops: tuple[tuple[int, int, str, str], ...]
    """Round, hop, model, and what it was."""


def read_kept(file: Path) -> KeptLosses:
    """Read what was kept at one hospital; raises RunUnreadable for a damaged file, or another
    hospital's.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return _checked(arrays, file.stem)
    except Exception as error:  # a damaged archive raises errors of a dozen kinds
        text = f"these are no losses of {file.stem}: {error}"
        fix = "run the scenario again, or restore the file from a copy"
        raise RunUnreadable(text, fix=fix, where=Where(str(file))) from error


def _checked(arrays: Mapping[str, NDArray[Any]], host: str) -> KeptLosses:
    """Refuse what no run writes; raises ValueError."""
    if set(arrays) != set(ARRAYS):
        raise ValueError(f"it holds {', '.join(sorted(arrays)) or 'nothing'}")
    for name, (kind, axes) in ARRAYS.items():
        if arrays[name].dtype.kind != kind or arrays[name].ndim != axes:
            raise ValueError(f"{name!r} has type {arrays[name].dtype}")
    if int(arrays["schema"]) != SCHEMA or str(arrays["host"]) != host:
        raise ValueError(f"schema {arrays['schema']} of {str(arrays['host'])!r}")
    count, stops = len(arrays["groups"]), len(arrays["rounds"])
    whose = [*zip(arrays["final_models"].tolist(), arrays["final_kinds"].tolist(), strict=True)]
    shapes: dict[str, tuple[int, ...]]
    shapes = {"before": (stops, count), "after": (stops, count), "finals": (len(whose), count)}
    shapes |= dict.fromkeys(("hops", "models", "kinds"), (stops,))
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name!r} has shape {arrays[name].shape}, not {shape}")
    known = arrays["groups"]
    if (
        not count
        or known.min() < OUTSIDER
        or known.max() > PUT_IN
        or np.isinf(arrays["after"]).any()
    ):
        raise ValueError("its groups or losses are none")
    kinds = arrays["kinds"].tolist()
    losses = SeenLosses(
        known.astype(np.int64),
        arrays["before"].astype(np.float64),
        arrays["after"].astype(np.float64),
        np.isin(kinds, ("visit", "alone")),
        "alone" not in kinds,
        arrays["finals"].astype(np.float64),
        whose.index((host, FINAL)) if (host, FINAL) in whose else 0,
    )
    found = zip(
        *(arrays[name].tolist() for name in ("rounds", "hops", "models", "kinds")), strict=True
    )
    return KeptLosses(host, losses, tuple(found))
