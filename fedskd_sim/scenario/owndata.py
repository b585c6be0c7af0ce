"""Data that a user's own package reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, Part
from fedskd_sim.scenario.partition import Partition

Fold = Annotated[int, Field(ge=0, le=4)]


class OwnData(Part):
    """Data that a package of yours reads (see docs/own-code.md)."""

    name: Literal["own"]
    """A function of yours reads the files; hospitals share them by site or by ``partition``."""
    reader: Annotated[str, Field(min_length=1)]
    """The name under which an installed package offers it, in the entry points
    ``fedskd_sim.readers``."""
    options: dict[str, int | float | str | bool] = {}
    """Options of this reader, for example ``{table: cases.csv}``."""
    site: str = ""
    """The site this hospital owns, if the reader names sites."""
    partition: Partition | None = None
    """Instead of a site: the part of all samples that this hospital owns."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a subject. Without effect where the reader gives
    splits of its own, as is the next."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training samples, drawn from the seed; null takes all."""

    @property
    def file(self) -> str:
        """What is read, in words: the reader with its options."""
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.reader}({given})" if given else self.reader
