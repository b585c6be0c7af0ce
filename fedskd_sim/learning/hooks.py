"""Hooks of classes of a user's own, whose names are only known by being spelt right: what is nearly
one is refused where the class is asked, for nobody would ever call it.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.kept import Kept

NEAR = 0.8
"""How alike a name is to that of a hook that is meant; 1 is the same."""


def misspelt(given: type, *bases: type) -> Iterator[InvalidValue]:
    """Find public names of a class that none of the ``bases`` have and that are nearly those of a
    hook which the class does not have.
    """
    known = {name for base in bases for name in dir(base) if not name.startswith("_")}
    theirs = [
        one for one in given.__mro__ if one not in {up for base in bases for up in base.__mro__}
    ]
    set_there = {name for one in theirs for name in vars(one)}
    for name in sorted(set_there - known):
        open_ = sorted(known - set_there)
        near = [one for one in open_ if sorted(one) == sorted(name)]  # of two letters exchanged
        near += get_close_matches(name, open_, n=1, cutoff=NEAR)
        if near and not name.startswith("_") and not _is_kept(theirs, name):
            fix = f"did you mean {near[0]!r}? If not, call it otherwise, as _{name}"
            yield InvalidValue(f"{given.__name__} has no hook {name!r}", fix=fix)


def _is_kept(classes: list[type], name: str) -> bool:
    return any(isinstance(vars(one).get(name), Kept) for one in classes)
