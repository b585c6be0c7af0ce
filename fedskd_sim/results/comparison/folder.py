"""The folder of a comparison: its ``compare.json`` as tables for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.records.files import COMPARISON
from fedskd_sim.results.comparison.statistics import seed_mean
from fedskd_sim.results.rows import plain
from fedskd_sim.results.runs import Row


@dataclass(frozen=True, slots=True)
class ComparisonFolder:
    """The numbers of a comparison that was made before."""

    values: Mapping[str, Any]
    """The content of ``compare.json``."""

    @classmethod
    def read(cls, folder: Path) -> ComparisonFolder:
        """Read that of a folder; raises RunUnreadable if it is damaged."""
        file = folder / COMPARISON
        try:
            found = cls(json.loads(file.read_text(encoding="utf-8")))
            for rows in TABLES.values():
                for _ in rows(found.values):
                    pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            fix = "give the same 'compare' again: it computes the tables from the finished runs"
            raise RunUnreadable(
                "its numbers are damaged", fix=fix, where=Where(str(file))
            ) from error
        return found

    def tables(self) -> Iterator[tuple[str, Iterator[Row]]]:
        """Yield the name and the rows of each table."""
        return ((name, rows(self.values)) for name, rows in TABLES.items())


def _methods(values: Mapping[str, Any]) -> Iterator[Row]:
    """Yield each mean over seeds that there is, with its interval."""
    for method in values["methods"]:
        for measure, places in method["values"].items():
            for place, series in places.items():
                found = seed_mean(math.nan if one is None else one for one in series)
                if found.seeds:
                    row = {"method": method["label"], "measure": measure, "place": place}
                    yield {**row, **plain(found._asdict())}


def _differences(values: Mapping[str, Any]) -> Iterator[Row]:
    """Yield each paired difference to the control."""
    for method in values["methods"]:
        for measure, places in method["differences"].items():
            for place, found in places.items():
                yield {
                    "method": method["label"],
                    "control": values["control"],
                    "measure": measure,
                    "place": place,
                    "difference": found["mean"],
                    **{name: found[name] for name in DIFFERENCE},
                }


DIFFERENCE = ("low", "high", "p", "corrected", "seeds", "needed", "needed_above")
TABLES: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Row]]] = MappingProxyType(
    {"methods": _methods, "differences": _differences}
)
