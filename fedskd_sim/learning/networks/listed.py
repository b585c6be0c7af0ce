"""The table of ``fedskd-sim models``, without PyTorch. Its rows of the built-in architectures are a
file, which a test holds to them and ``python docs/reference.py`` writes.
"""

from __future__ import annotations

from pathlib import Path

from fedskd_sim.learning import installed

LISTED = Path(__file__).with_name("listed.txt")
FOOT = "at the minimum input"
"""With this its notes begin."""


def listing() -> str:
    """Write a table of all architectures for people: the built-in ones as they are kept, then what
    packages and the run's own code offer, which needs PyTorch.
    """
    rows = LISTED.read_text(encoding="utf-8").splitlines()
    notes = next(place for place, row in enumerate(rows) if row.startswith(FOOT))
    rows, foot = rows[:notes], rows[notes:]
    for name in installed.names():
        from fedskd_sim.learning.networks.listing import lines_of  # noqa: PLC0415 - needs PyTorch

        place = next((at for at, row in enumerate(rows) if row.startswith(f"{name} ")), len(rows))
        rows[place : place + 2] = lines_of(name)  # a built-in name is said to be taken
    return "\n".join([*rows, *foot])
