"""What the proof of a run has found, in numbers and in one line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from fedskd_sim.errors import ChainBroken


class Verdict(NamedTuple):
    """What was found; without a ``broken`` the run is whole as far as it got."""

    broken: ChainBroken | None
    """The first break in the order of the run."""
    records: int = 0
    due: int = 0
    links: int = 0
    """Digests that were equal to that of the stop before."""
    begins: int = 0
    """Ways of which no record tells with which digest they begin, or go on behind a lost host."""
    weights: int = 0
    """Files of weights that have the digest that records say."""
    unchecked: int = 0
    """Those of which that is not known."""
    sealed: int = 0
    """Files that are as the run was sealed."""
    lost: tuple[str, ...] = ()
    """Hospitals without which the ring went on to the end."""
    back: Mapping[str, int] = MappingProxyType({})
    """Hospitals without which it went on until a round."""
    torn: tuple[str, ...] = ()
    """Hospitals that have not finished and whose last line of records has no end."""

    def __str__(self) -> str:
        """Say it in one line."""
        if self.broken:
            return str(self.broken)
        far = "whole" if self.records == self.due else "whole as far as it got"
        rest = f", {self.unchecked} not compared" if self.unchecked else ""
        open_ = f", {self.begins} begin with a digest that no record tells" if self.begins else ""
        proven = f"{self.records} of {self.due} records, {self.links} links of digests{open_}"
        sealed = f", {self.sealed} files as they were sealed" if self.sealed else ""
        until = [f"{name} until round {round_}" for name, round_ in self.back.items()]
        without = f", without {', '.join([*self.lost, *until])}" if self.lost or until else ""
        cut = (
            f"; the last line of {', '.join(self.torn)} is torn, as a death leaves it"
            if self.torn
            else ""
        )
        return f"{far}{without}: {proven}, {self.weights} files of weights{rest}{sealed}{cut}"
