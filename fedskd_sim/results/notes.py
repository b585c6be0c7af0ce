"""What a reader of the tables must know beside them: what is missing, what was held out, what the
ensemble costs, how many test samples a mean rests on, and which samples hospitals have found, used
and left out; pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fedskd_sim.learning.task import AUC_OF, ONE_LABEL, THRESHOLD_OF
from fedskd_sim.observe.words import amount
from fedskd_sim.records import NOTHING, Record
from fedskd_sim.results.gathered import Gathered, most_steps
from fedskd_sim.results.memory import Remembered
from fedskd_sim.results.predictions import read_predictions

ADJUSTED = "balanced_accuracy_adjusted"
MOST_REASONS = 5


def averages(records: Sequence[Record], chosen: Callable[[Record], bool]) -> dict[str, float]:
    """Return the mean of every metric over some records; NaN where none of them has a value."""
    some = [record for record in records if chosen(record)]
    names = sorted({name for record in some for name in record.measures} - {"models", "kept_bytes"})
    names = [name for name in names if not name.startswith((AUC_OF, THRESHOLD_OF))]
    return {
        name: mean(record.measures.get(name, NOTHING).mean for record in some) for name in names
    }


def ensemble(records: Sequence[Record]) -> dict[str, float]:
    """Return the mean over the hospitals of what the ensemble of all finished models scores; empty
    without one.
    """
    return averages(records, lambda record: record.kind == "ensemble")


def unseen(records: Sequence[Record], held_out: tuple[str, ...]) -> dict[str, float]:
    """Return the mean of every metric over all models and the hospitals that were held out; empty
    without any.
    """
    return averages(records, lambda record: record.kind == "evaluation" and record.host in held_out)


def incomplete(found: Gathered) -> Iterator[str]:
    """Yield a sentence for everything that the results lack."""
    _, returns = found.absences
    for name, (round_, away) in sorted(returns.items()):
        if away and (name not in found.words or found.words[name].round < round_):
            continue  # it was to be back, and was not
        rounds = ", ".join(map(str, sorted(found.left_out.get(name, ()))))
        then = "and was lost again" if away else "on"
        yield (
            f"The ring went on without {name} in these rounds: {rounds}. It was back from round "
            f"{round_} {then}."
        )
    cells, tested = len(found.hospitals) * len(found.hospitals + found.held_out), len(_tests(found))
    if tested < cells:
        yield _of_missing(found, cells - tested, cells)


def _tests(found: Gathered) -> Collection[Record]:
    return {
        (record.model, record.host): record for record in found.kept if record.kind == "evaluation"
    }.values()


def notes(found: Gathered, memory: Remembered) -> Iterator[str]:
    """Yield the sentences that belong under the tables, each whole: of method and of course."""
    records, hospitals, tested = found.kept, found.hospitals, _tests(found)
    cells = len(hospitals) * len(hospitals + found.held_out)
    without = sum(math.isnan(record.measures.get("auc", NOTHING).mean) for record in tested)
    if 0 < without < len(tested):
        yield (
            f"There is no AUC for {without} of {cells} evaluations: it needs test data of at least "
            "two classes. "
            "Means leave them out."
        )
    yield from _of_labels(tested)
    strange = unseen(records, found.held_out)
    if strange:
        names = ", ".join(found.held_out)
        yield f"On {names}, held out, the models score {_shares(strange)} on average."
    yield from _of_adjustment(
        [record for record in tested if ADJUSTED in record.measures and record.host in hospitals]
    )
    yield from _of_ensemble(records)
    yield from _of_memory(memory)
    for record in records:
        if record.kind == "warm_up" and record.outcome == "trained" and record.reason:
            yield f"{record.host}: {record.reason}."
    yield from _of_sessions(found)


def _of_labels(tested: Collection[Record]) -> Iterator[str]:
    """Say what measures are of, where samples have several labels."""
    labels = {name for one in tested for name in one.measures if name.startswith(THRESHOLD_OF)}
    if not labels:
        return
    yield (
        f"Samples may have several of {len(labels)} labels. Balanced accuracy and AUC are means "
        "over the labels that some test samples have and others have not. Accuracy is the share of "
        "labels decided right."
    )
    yield (
        "A label is decided for where its probability reaches a threshold: that at which the "
        "balanced accuracy on the host's validation data is highest, or 0.5 where these cannot "
        "tell. Records have all thresholds."
    )


def _of_adjustment(corrected: Sequence[Record]) -> Iterator[str]:
    """Say what logit adjustment makes of the tests that have it."""
    if corrected:
        own = mean(
            record.measures[ADJUSTED].mean for record in corrected if record.host == record.model
        )
        others = mean(
            record.measures[ADJUSTED].mean for record in corrected if record.host != record.model
        )
        yield (
            f"With logit adjustment the balanced accuracy is {own:.1%} at home and {others:.1%} "
            "elsewhere."
        )


def _of_sessions(found: Gathered) -> Iterator[str]:
    """Say which sessions are not listed, in which a level compared nothing, and which were
    undone.
    """
    for level, (still, compared) in found.uncompared.items():
        if still:
            yield (
                f"Nothing was compared at the {level} level in {still:,} of {compared:,} sessions: "
                "the distance is exactly 0. fedskd-sim validate notes maps that are too coarse."
            )
    most = most_steps(len(found.hospitals))
    longest = max(map(len, found.ways.values()), default=0)
    if longest > most:
        yield (
            f"report.json lists {most:,} of up to {longest:,} sessions of each model, evenly "
            "chosen; all are in the records."
        )
    rolled_back = found.counts.rolled_back
    if rolled_back:
        sessions = "1 session was" if rolled_back == 1 else f"{rolled_back} sessions were"
        why = "; ".join(
            f"{reason} ({times})" if len(found.undone) > 1 else reason
            for reason, times in found.undone.most_common(MOST_REASONS)
        )
        yield f"{sessions} rolled back, and both models went on as they had come: {why}."
    if found.poisoned:
        number = "All" if found.poisoned == rolled_back else f"{found.poisoned} of them"
        came = "It came" if rolled_back == 1 else f"{number} came"
        words = "; ".join(poison.words for poison in found.poisons)
        yield (
            f"{came} after a poison of the scenario's own, which makes losses that are not finite: "
            f"{words}."
        )


def _of_missing(found: Gathered, missing: int, cells: int) -> str:
    last = found.last
    without, returns = found.absences
    lost = sorted(name for name in without if name not in returns or returns[name].away)
    lost += [
        f"the model of {name}" for name in sorted(without) if name not in lost and without[name]
    ]
    reached = (
        f"its last stop on record is round {last[0]}, hop {last[1]}"
        if last
        else "there are no records"
    )
    how = f"The ring went on without {', '.join(lost)}" if lost else "This run is incomplete"
    return (
        f"{how}: {missing} of {cells} evaluations are missing, and {reached}. "
        "Means are over the values that exist."
    )


def _of_ensemble(records: Sequence[Record]) -> Iterator[str]:
    first = next((record for record in records if record.kind == "ensemble"), None)
    if first is not None:
        models = f"{first.measures.get('models', NOTHING).mean:.0f}"
        kept = amount(first.measures.get("kept_bytes", NOTHING).mean)
        yield (
            f"The ensemble of all {models} finished models scores {_shares(ensemble(records))} on "
            "average. "
            f"Every hospital then keeps the final weights of all ({kept}) and asks {models} "
            "models about each patient."
        )


def _of_memory(memory: Remembered) -> Iterator[str]:
    if memory.forgetting is not None and memory.backward is not None:
        forgotten, backward = 100 * memory.forgetting, 100 * memory.backward
        yield (
            f"At hospitals that it has visited, a model later has {forgotten:.1f} points of "
            "balanced accuracy less than its "
            "best there (forgetting). From its visit to the end of the round it changes by "
            f"{backward:+.1f} (backward transfer)."
        )


def mean(values: Iterable[float]) -> float:
    """Average the values that exist; NaN if none does."""
    present = [value for value in values if math.isfinite(value)]
    return math.fsum(present) / len(present) if present else math.nan


class Basis(NamedTuple):
    """Test samples, and those of the class that has the fewest at one hospital; None where that
    is not known.
    """

    samples: int
    rarest: int | None = None

    def __str__(self) -> str:
        """Write the number, that of the rarest class in brackets."""
        return f"{self.samples}" if self.rarest is None else f"{self.samples} ({self.rarest})"


def bases(records: Sequence[Record], rarest: Mapping[str, int], metric: str) -> dict[str, Basis]:
    """Tell for every hospital at which a metric was measured how many samples its evaluations were
    over.

    Args:
        records: those of a run.
        rarest: of the hospitals of which it is known, how many test samples the class has that is
            rarest there.
        metric: one that evaluations have.

    """
    measured = [
        record for record in records if record.kind == "evaluation" and metric in record.measures
    ]
    return {
        record.host: Basis(
            int(record.measures.get("accuracy", NOTHING).weight), rarest.get(record.host)
        )
        for record in measured
        if record.measures[metric].weight
    }


def rarest_classes(run: Path) -> dict[str, int]:
    """Count the test samples of the class that is rarest at each hospital, of those that are there
    at all.

    Records do not say it. It is known of hospitals whose labels ``predictions/NAME.npz`` holds.

    Raises:
        RunUnreadable: such a file is damaged.

    """
    counts = {host: found.present.sum(axis=0) for host, found in read_predictions(run).items()}
    return {host: int(some[some > 0].min()) for host, some in counts.items() if some.any()}


def together(some: Iterable[Basis]) -> Basis:
    """Count the samples of several hospitals; the rarest class is the one with the fewest at any
    of them.
    """
    known = [one for one in some if one.samples]
    fewest = [one.rarest for one in known if one.rarest is not None]
    return Basis(
        sum(one.samples for one in known),
        min(fewest) if known and len(fewest) == len(known) else None,
    )


def _shares(values: Mapping[str, float]) -> str:
    """Write the metrics that have a value, balanced accuracy and AUC first; accuracy only where
    there is nothing else.
    """
    known = [name for name in ONE_LABEL.titles if math.isfinite(values.get(name, math.nan))]
    shown = [name for name in known if name != "accuracy"] or known
    return (
        " and ".join(f"{values[name]:.1%} {ONE_LABEL.titles[name]}" for name in shown)
        or "nothing that could be measured"
    )
