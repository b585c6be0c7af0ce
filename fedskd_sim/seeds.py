"""Named seeds: every random draw of a run comes from here, so that it depends on its name and
never on timing; pure.
"""

from __future__ import annotations

import hashlib
from random import Random


def seed(scenario_seed: int, purpose: str, *names: str | int) -> int:
    """Derive a seed in [0, 2^63) from the scenario's seed, a purpose and names such as hospital,
    model, round and hop.

    The same on every machine: names are joined and hashed. Two draws with the same names are the
    same draw, so each names its purpose.

    >>> seed(7, "order", 1) == seed(7, "order", 1)
    True
    >>> seed(7, "order", 1) == seed(7, "order", 2)
    False

    """
    text = "\x1f".join(str(part) for part in (scenario_seed, purpose, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def shuffle(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Put names into the order that a seed gives.

    All names, each once; the same number gives the same order.

    >>> shuffle(("a", "b", "c"), seed(7, "order", 1))
    ('b', 'a', 'c')

    """
    drawn = list(names)
    Random(number).shuffle(drawn)  # noqa: S311 - no secret
    return tuple(drawn)
