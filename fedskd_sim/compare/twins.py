"""What faults did: every method with faults against its twin, the same method without them, where
both are compared; and where the faults struck.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from fedskd_sim.compare.statistics import Difference, correct
from fedskd_sim.compare.tables import MEMORY, SCORES, Comparison, MethodRow

MOST_STRUCK = 40
HEAD = ("method", "seed", "hospital", "what", "round", "hop", "seconds")
Key = tuple[str, str]
"""A label and a measure."""


def faulty(comparison: Comparison) -> list[MethodRow]:
    """Give the methods that were meant to have faults."""
    return [row for row in comparison.rows if row.method.scenario.faults]


def twin_of(comparison: Comparison, row: MethodRow) -> MethodRow | None:
    """Find the same method without faults among what is compared."""
    calm = row.method.scenario.model_copy(update={"faults": ()})
    return next((other for other in comparison.rows if other.method.scenario == calm), None)


def measures_of(comparison: Comparison) -> list[str]:
    """Give the measures that a method and its twin are compared by: those of predictions, over own
    and others, and those of memory.
    """
    return [name for name in (*SCORES, *MEMORY) if comparison.present(name, "mean")]


def effects(comparison: Comparison) -> Mapping[Key, Difference]:
    """Compare methods with their twins, by label and measure, corrected for all of them
    together.
    """
    found = {
        (row.method.label, name): row.versus(twin, name, "mean")
        for row in faulty(comparison)
        if (twin := twin_of(comparison, row))
        for name in measures_of(comparison)
    }
    shown = {key: difference for key, difference in found.items() if difference.seeds}
    return dict(zip(shown, correct(shown.values()), strict=True))


def alone(comparison: Comparison) -> Iterator[str]:
    """Say of which methods it cannot be said what their faults did."""
    for row in faulty(comparison):
        if twin_of(comparison, row) is None:
            yield (
                f"What its faults did to {row.method.label} cannot be said: the same method "
                "without them is not among what is compared."
            )


def again(comparison: Comparison) -> Iterator[str]:
    """Say how often models were sent or trained again."""
    for row in faulty(comparison):
        if row.cost("again") > 0:
            yield (
                f"{row.method.label}: in a run {row.cost('again'):.3g} times, on average, a model "
                "was sent or a session done once more."
            )


def struck(comparison: Comparison) -> list[tuple[str, ...]]:
    """Write where faults struck, one row each under `HEAD`; blank what is not known or is none.
    A fault that is drawn strikes elsewhere under another seed.
    """
    return [
        (
            row.method.label,
            str(seed),
            one.host,
            one.what.replace("_", " "),
            str(one.round or ""),
            str(one.hop or ""),
            f"{one.seconds:g}" if math.isfinite(one.seconds) else "",
        )
        for row in faulty(comparison)
        for seed, score in zip(comparison.seeds, row.scores, strict=True)
        for one in score.struck
    ]


def plain(comparison: Comparison, row: MethodRow) -> dict[str, Any] | None:
    """Give what is known of a method's faults as plain values; None for one without faults."""
    if not row.method.scenario.faults:
        return None
    twin = twin_of(comparison, row)
    return {
        "words": row.method.scenario.faults_in_words,
        "twin": twin.method.label if twin else None,
        "differences": {
            name: {key: _value(value) for key, value in asdict(found).items()}
            for (label, name), found in effects(comparison).items()
            if label == row.method.label
        },
        "again": _value(row.cost("again")),
        "struck": [
            {
                "seed": seed,
                "hospital": one.host,
                "what": one.what,
                "round": one.round,
                "hop": one.hop,
                "seconds": _value(one.seconds),
            }
            for seed, score in zip(comparison.seeds, row.scores, strict=True)
            for one in score.struck
        ],
    }


def _value(value: float) -> float | None:
    return value if math.isfinite(value) else None
