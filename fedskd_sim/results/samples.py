"""What hospitals have read of their sources: how many samples they found, use and leave out, by
class, and why; pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedskd_sim.records import SampleCounts
from fedskd_sim.results.rows import Column, Table

WITHOUT = "no label"
SPLITS = ("train", "validation", "test")


def lines(counts: Sequence[SampleCounts]) -> Iterator[str]:
    """Write the counts of hospitals for a terminal; none without any."""
    if counts:
        yield "Samples read, by class: training + validation + test of all that were found."
        for one in counts:
            yield (
                f"{one.host}: read {count_used(one):,} of {total(one.found):,} from {one.source}: "
                f"{_by_split(one)}"
            )
            classes = (
                f"{name or WITHOUT} {_shares(one, name)} of {number:,}"
                for name, number in one.found.items()
            )
            yield f"  {', '.join(classes)}"
            for reason, numbers in one.left_out.items():
                yield f"  left out: {total(numbers):,} {reason} ({_list_numbers(numbers)})"


def short_passes(counts: Sequence[SampleCounts], batch_size: int) -> Iterator[str]:
    """Say which hospitals have fewer training samples than a mini-batch: training works, and an
    epoch is one gradient step, which is rarely what was meant.
    """
    for one in counts:
        samples = total(one.used["train"])
        if 0 < samples < batch_size:
            yield (
                f"Note: {one.host} has {samples:,} training samples and training.batch_size is "
                f"{batch_size:,}: each of its epochs is one gradient step."
            )


def count_used(counts: SampleCounts) -> int:
    """Return how many samples are used."""
    return sum(map(total, counts.used.values()))


def total(numbers: Mapping[str, int]) -> int:
    """Add up the classes."""
    return sum(numbers.values())


def table(counts: SampleCounts) -> Table:
    """Return how many samples of each class, and of all, a hospital found, uses for what and
    leaves out for which reason.
    """
    columns = (counts.found, *_splits(counts), *counts.left_out.values())
    titles = ("found", *SPLITS, *(f"left out: {reason}" for reason in counts.left_out))
    rows = [
        (name or WITHOUT, *(numbers.get(name, 0) for numbers in columns)) for name in counts.found
    ]
    return Table(
        (Column("class", words=True), *(Column(title, "{:,}".format) for title in titles)),
        [("all", *map(total, columns)), *rows],
    )


def _splits(counts: SampleCounts) -> tuple[Mapping[str, int], ...]:
    return tuple(counts.used[name] for name in SPLITS)


def _by_split(counts: SampleCounts) -> str:
    return ", ".join(
        f"{total(numbers):,} {name}" for name, numbers in zip(SPLITS, _splits(counts), strict=True)
    )


def _shares(counts: SampleCounts, name: str) -> str:
    return " + ".join(f"{numbers.get(name, 0):,}" for numbers in _splits(counts))


def _list_numbers(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name or WITHOUT} {number:,}" for name, number in numbers.items())
