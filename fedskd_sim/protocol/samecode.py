"""Whether the hospitals of a run compute with the same code: of the program, of each architecture
of one's own and, where several use one, of a reader. In a cluster each may have an image of its
own, and what comes of two versions is the result of none.

A hospital tells its code as it registers, as lines of a name and a digest. What only one of them
has, such as the reader of its own data, is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from fedskd_sim.messages import Register

LONGEST = 1000
"""Characters of all lines; a message has room for so many, whatever they are."""
READER = "reader "
FIX = (
    "give all hospitals the same image (images.hospital of the chart's values), or what is meant "
    "to differ another name"
)


def text_of(code: Mapping[str, str]) -> str:
    """Write digests of code, by what it is, as a hospital tells them. Many are told as one, but for
    readers, which may be the hospital's own.
    """
    if len(lines := _lines(code)) <= LONGEST:
        return lines
    readers = {name: digest for name, digest in code.items() if name.startswith(READER)}
    shared = _lines({name: digest for name, digest in code.items() if name not in readers})
    return _lines({**readers, "code": sha256(shared.encode()).hexdigest()[:16]})


def _lines(code: Mapping[str, str]) -> str:
    return "\n".join(f"{name} {digest}" for name, digest in sorted(code.items()))


def difference(one: Register, others: Iterable[Register]) -> str:
    """Say in what a hospital's code differs from that of the first that has another; empty where
    it does from none.
    """
    own = _digests(one.computes)
    for other in others:
        for name, theirs in _digests(other.computes).items():
            if own.get(name, theirs) != theirs:
                return (
                    f"the {name} of {one.hospital!r} is {own[name]}, that of {other.hospital!r} is "
                    f"{theirs}: they compute with different code"
                )
    return ""


def _digests(text: str) -> dict[str, str]:
    parted = (line.rpartition(" ") for line in text.splitlines())
    return {name: digest for name, _, digest in parted}
