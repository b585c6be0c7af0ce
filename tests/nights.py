"""What ordinary runs of the tests take a part of, and nights take whole."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

Thing = TypeVar("Thing")
NIGHT = bool(os.environ.get("FEDSKD_NIGHT"))


def of_this_commit() -> random.Random:
    """Give draws that are other ones with every commit."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, check=False
    )
    return random.Random(done.stdout)


def few_of(things: Iterable[str], few: int = 3) -> list[str]:
    """Draw a few by the commit, so that each has its turn; at night give all."""
    return list(things) if NIGHT else sorted(of_this_commit().sample(sorted(things), few))


def part_of(things: Sequence[Thing], every: int = 3) -> Sequence[Thing]:
    """Give one in so many, the first of them drawn by the commit, so that each has its turn; at
    night give all.
    """
    return things if NIGHT else things[of_this_commit().randrange(every) :: every]
