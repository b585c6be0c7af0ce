"""Whether the hospitals of a run compute with the same code: of the program, of each architecture
of one's own and, where several use one, of a reader. In a cluster each may have an image of its
own, and what comes of two versions is the result of none.

A hospital tells its code as it registers, as lines of a name and a digest. What only one of them
has, such as the reader of its own data, is its own. Where hospitals share what a reader gives by
parts, digests of its columns are such lines too, and so that no sample is at two hospitals each
tells a few salted digests of samples with their ids.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256

from fedskd_sim.messages import Register

LONGEST = 1000
"""Characters of all lines; a message has room for so many, whatever they are."""
READER = "reader "
ROWS = ": "
"""What stands between a reader and a column that it gives."""
SAMPLES = "samples"
"""The line with digests of samples."""
MOST, BYTES = 64, 8
"""So many digests of so many bytes are told: of more samples the smallest, which are the same ones
at every hospital. Of a share s of all that two have, one is found with 1 - (1 - s) ** `MOST`."""
FIX = (
    "give all hospitals the same image (images.hospital of the chart's values) and, where they cut "
    "them by parts, the same files in the same order, or what is meant to differ another name"
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


def told_of_samples(samples: Iterable[bytes], salt: str) -> str:
    """Write digests of samples as a hospital tells them, salted with the run; empty without any."""
    salted = sorted(sha256(salt.encode() + one).digest()[:BYTES] for one in samples)
    return f"\n{SAMPLES} {b64encode(b''.join(salted[:MOST])).decode()}" * bool(salted)


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
                what = (
                    "other rows" if name.startswith(READER) and ROWS in name else "different code"
                )
                return (
                    f"the {name} of {one.hospital!r} is {own[name]}, that of {other.hospital!r} is "
                    f"{theirs}: they compute with {what}"
                )
        same = one.hospital == other.hospital
        if not same and (twice := _samples(one.computes) & _samples(other.computes)):
            return (
                f"{one.hospital!r} and {other.hospital!r} have the same samples under the same ids:"
                f" {len(twice)} of those that were compared"
            )
    return ""


def _samples(text: str) -> set[bytes]:
    """Read the digests of samples that a hospital has told; a text that is none has none."""
    told = "".join(line for line in text.splitlines() if line.startswith(f"{SAMPLES} "))
    try:
        data = b64decode(told.removeprefix(f"{SAMPLES} ").encode(), validate=True)
    except ValueError:
        return set()
    return {data[at : at + BYTES] for at in range(0, len(data) - BYTES + 1, BYTES)}


def _digests(text: str) -> dict[str, str]:
    parted = (line.rpartition(" ") for line in text.splitlines())
    return {name: digest for name, _, digest in parted if name != SAMPLES}
