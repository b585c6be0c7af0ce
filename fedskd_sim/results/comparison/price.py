"""The price in privacy of every method: what an audit finds in the same runs with canaries, beside
the accuracy of those without.

Of every attacker one score was chosen beforehand. Runs of all seeds draw canaries by coins of their
own, so together they are one experiment: its guesses are those of all seeds, and its bound is the
one-run bound of Steinke, Nasr and Jagielski (2023) for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fedskd_sim.observe.words import counted
from fedskd_sim.privacy.attacks import RATES, AttackResult, Guesses
from fedskd_sim.results.audit import attack_all, read_losses
from fedskd_sim.results.comparison.statistics import seed_mean
from fedskd_sim.results.comparison.tables import SCORES, MethodRow, MethodTable
from fedskd_sim.results.notes import mean
from fedskd_sim.results.rows import Column, Table, percent
from fedskd_sim.results.text import TITLES
from fedskd_sim.scenario import Scenario

SHOWN: Mapping[str, str] = MappingProxyType(
    {
        "next hospital": "next hospital, all models",
        "two neighbours": "two neighbours, all models",
        "everybody": "everybody, its final model",
    }
)
"""Who attacks, and with which score."""
RATE = RATES[0]


class Price(NamedTuple):
    """What one attacker finds, over the audited seeds of a method."""

    aucs: list[float]
    found: list[float]
    """The share of members that are found at a false positive rate of `RATE`, by seed."""
    guesses: Guesses | None
    """Of all seeds together; None without canaries."""

    @property
    def epsilon(self) -> float:
        """The lower bound; NaN without canaries."""
        return math.nan if self.guesses is None else self.guesses.epsilon()

    @property
    def ceiling(self) -> float:
        """What it would be, had every guess been right."""
        return math.nan if self.guesses is None else self.guesses.ceiling()


def attacked(folder: Path, scenario: Scenario) -> Mapping[str, AttackResult]:
    """Return what every attacker can tell of all hospitals of a run together; raises
    RunUnreadable.
    """
    return {one.attacker: one.told for one in attack_all(read_losses(folder, scenario))}


def prices(row: MethodRow) -> dict[str, Price]:
    """Return what every attacker finds of a method; nothing where no run was audited."""
    names = dict.fromkeys(name for told in row.audits for name in told)
    return {name: _price([told[name] for told in row.audits if name in told]) for name in names}


def _price(told: Sequence[AttackResult]) -> Price:
    rates = [one.rates.get(RATE) for one in told]
    guessed = [one.guesses for one in told if one.guesses]
    together = Guesses(*map(sum, zip(*guessed, strict=True))) if guessed else None
    found = [math.nan if rate is None else rate.found for rate in rates]
    return Price([one.auc for one in told], found, together)


def audited(comparison: MethodTable) -> bool:
    """Return whether any method has a price."""
    return any(row.audits for row in comparison.rows)


def about(comparison: MethodTable) -> str:
    """Say what the table of prices has."""
    seeds = max(len(row.audits) for row in comparison.rows)
    return (
        "Accuracies are of runs without canaries. Audited runs, those of "
        f"{counted(seeds, 'seed')}, say what attackers tell: AUC of membership, and training "
        f"patients found, in percent, when {100 * RATE:g} % of others are wrongly named. The "
        "canaries of all these seeds prove epsilon together; the ceiling is what only right "
        "guesses would prove. Blank: the attacker sees nothing."
    )


def table(comparison: MethodTable) -> Table:
    """Return accuracy and price of every method."""
    metric = next((one for one in SCORES if comparison.present(one, "own")), SCORES[0])
    places = [place for place in ("mean", "ensemble") if comparison.present(metric, place)]
    columns = [
        Column("method", words=True),
        *(
            Column(place, percent, group=TITLES[metric], part=not number)
            for number, place in enumerate(places)
        ),
    ]
    for name in SHOWN:
        columns += [
            Column("AUC", _to_two, group=name, part=True),
            Column(f"at FPR {RATE:.0%}", percent, group=name),
            Column("epsilon >=", _bound, group=name),
        ]
    columns.append(Column("ceiling", _bound, part=True))
    return Table(columns, [[*_cells(row, metric, places)] for row in comparison.rows])


def _cells(row: MethodRow, metric: str, places: Sequence[str]) -> Iterator[Any]:
    found = prices(row)
    yield row.method.label
    yield from (row.mean(metric, place) for place in places)
    for one in (found.get(name) for name in SHOWN.values()):
        known = (mean(one.aucs), mean(one.found), one.epsilon) if one else (math.nan,) * 3
        yield from known
    yield max((one.ceiling for one in found.values()), default=math.nan)


def _to_two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else ""


def _bound(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ""


def as_plain(row: MethodRow) -> list[dict[str, Any]] | None:
    """Return what every attacker finds, by seed and together; None where no run was audited."""
    if not row.audits:
        return None
    return [
        {
            "attacker": name,
            "auc": {"values": one.aucs, **seed_mean(one.aucs)._asdict()},
            "tpr": {"at": RATE, "values": one.found, **seed_mean(one.found)._asdict()},
            "guessed": one.guesses and one.guesses.guessed,
            "right": one.guesses and one.guesses.right,
            "epsilon": one.epsilon,
            "ceiling": one.ceiling,
        }
        for name, one in prices(row).items()
    ]
