"""How many test samples a mean rests on, and how many of them are of the rarest class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedskd_sim.records import NOTHING, Record
from fedskd_sim.report.predictions import read_predictions


class Basis(NamedTuple):
    """Test samples, and those of the class that has the fewest at one hospital; None where that
    is not known.
    """

    samples: int
    rarest: int | None = None

    def __str__(self) -> str:
        """Write the number, that of the rarest class in brackets."""
        return f"{self.samples}" if self.rarest is None else f"{self.samples} ({self.rarest})"


def bases(records: Sequence[Record], rarest: Mapping[str, int], metric: str) -> dict[str, Basis]:
    """Tell for every hospital at which a metric was measured how many samples its evaluations were
    over.

    Args:
        records: those of a run.
        rarest: of the hospitals of which it is known, how many test samples the class has that is
            rarest there.
        metric: one that evaluations have.

    """
    measured = [
        record for record in records if record.kind == "evaluation" and metric in record.measures
    ]
    return {
        record.host: Basis(
            int(record.measures.get("accuracy", NOTHING).weight), rarest.get(record.host)
        )
        for record in measured
        if record.measures[metric].weight
    }


def rarest_classes(run: Path) -> dict[str, int]:
    """Count the test samples of the class that is rarest at each hospital, of those that are there
    at all.

    Records do not say it. It is known of hospitals whose labels ``predictions/NAME.npz`` holds.

    Raises:
        RunUnreadable: such a file is damaged.

    """
    labels = {host: found.labels for host, found in read_predictions(run).items()}
    return {
        host: int(np.unique(some, return_counts=True)[1].min())
        for host, some in labels.items()
        if len(some)
    }


def together(some: Iterable[Basis]) -> Basis:
    """Count the samples of several hospitals; the rarest class is the one with the fewest at any
    of them.
    """
    known = [one for one in some if one.samples]
    fewest = [one.rarest for one in known if one.rarest is not None]
    return Basis(
        sum(one.samples for one in known),
        min(fewest) if known and len(fewest) == len(known) else None,
    )
