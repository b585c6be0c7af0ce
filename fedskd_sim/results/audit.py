"""What a run reveals of those that it was trained on: the losses that it kept, attacked by who saw
which models, and its predictions, asked which hospital a patient is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedskd_sim.errors import BoundExceeded, RunUnreadable
from fedskd_sim.privacy import sites
from fedskd_sim.privacy.accountant import delta_of
from fedskd_sim.privacy.attacks import (
    LEVEL,
    MEMBER,
    OUTSIDER,
    PUT_IN,
    RATES,
    AttackResult,
    Rate,
    attacks,
    pooled,
    tell,
)
from fedskd_sim.privacy.losses import FOLDER, KeptLosses, read_kept
from fedskd_sim.results.predictions import Predictions, read_predictions
from fedskd_sim.results.rows import Column, Table
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario

ALL = "all"
NAME = 18
"""Characters of a hospital's name in a table."""


class PrivacyClaim(NamedTuple):
    """What a hospital says of its own patients' privacy."""

    epsilon: float
    delta: float


class Attack(NamedTuple):
    """What one attacker can tell of one hospital, or of all together."""

    hospital: str
    attacker: str
    told: AttackResult

    @property
    def epsilon(self) -> float | None:
        """The lower bound; None without canaries."""
        return None if self.told.guesses is None else self.told.guesses.epsilon()

    @property
    def ceiling(self) -> float | None:
        """The largest bound that so many canaries can show."""
        return None if self.told.guesses is None else self.told.guesses.ceiling()


@dataclass(frozen=True, slots=True)
class Audited:
    """All that an audit finds."""

    scenario: Scenario
    kept: tuple[KeptLosses, ...]
    pooled: tuple[Attack, ...]
    single: tuple[Attack, ...]
    """Hospital by hospital."""
    sites: Mapping[str, sites.Named]
    """How often answers name a patient's hospital, by whose answers."""
    claims: Mapping[str, PrivacyClaim]


def audit(run: Path, scenario: Scenario) -> Audited:
    """Audit a run folder.

    Raises:
        RunUnreadable: the run has kept nothing, or a file is damaged.

    """
    kept = read_losses(run, scenario)
    scores = {one.host: attacks(one.losses) for one in kept}
    single = [
        Attack(one.host, name, told)
        for one in kept
        for name, of_host in scores[one.host].items()
        if (told := tell(of_host, one.losses.groups))
    ]
    claims = {name: claim for name in scenario.members if (claim := claim_of(run, scenario, name))}
    named = name_sites(read_predictions(run), scenario.members)
    return Audited(scenario, kept, attack_all(kept), tuple(single), named, claims)


def read_losses(run: Path, scenario: Scenario) -> tuple[KeptLosses, ...]:
    """Read what all hospitals of a run folder have kept; raises as `audit`."""
    kept = tuple(
        read_kept(file) for name in scenario.members if (file := file_of(run, name)).is_file()
    )
    if not kept:
        text = f"{run} has kept no losses: its scenario has no 'audit'"
        fix = "launch its scenario again, with --set 'audit={canaries: 60}'"
        raise RunUnreadable(text, fix=fix)
    return kept


def attack_all(kept: Iterable[KeptLosses]) -> tuple[Attack, ...]:
    """Attack all hospitals together."""
    known = [(attacks(one.losses), one.losses.groups) for one in kept]
    found = []
    for name in dict.fromkeys(chain.from_iterable(scores for scores, _ in known)):
        some = [(scores[name], groups) for scores, groups in known if name in scores]
        if told := tell(*pooled(some)):
            found.append(Attack(ALL, name, told))
    return tuple(found)


def audited(run: Path, scenario: Scenario) -> Audited | None:
    """Audit a run folder if it has kept losses; raises as `audit` for a damaged file."""
    kept = any(file_of(run, name).is_file() for name in scenario.members)
    return audit(run, scenario) if kept else None


def file_of(run: Path, host: str) -> Path:
    """Return where a hospital's losses are."""
    return run / FOLDER / f"{host}.npz"


def claim_of(run: Path, scenario: Scenario, host: str) -> PrivacyClaim | None:
    """Return the largest epsilon that a hospital's own records claim, at its delta in the scenario;
    None without any, as where it clips alone.
    """
    privacy = scenario.hospital(host).privacy
    found: PrivacyClaim | None = None
    with (run / "records" / f"{host}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            whole = '"private"' in line and line.endswith("\n")  # a death may cut the last one
            told = json.loads(line).get("private") if whole else None
            spent = told and told["epsilon"]  # null: clips alone
            if told and spent is not None and (found is None or spent > found.epsilon):
                found = PrivacyClaim(float(spent), delta_of(privacy, max(1, told["units"])))
    return found


def name_sites(
    found: Mapping[str, Predictions], members: tuple[str, ...]
) -> dict[str, sites.Named]:
    """Ask whether answers name the hospital of a patient, of all classes and of each one."""
    here = [found[name] for name in members if name in found]
    models = [
        model
        for model in members
        if here and all((model, "evaluation") in _tested(one) for one in here)
    ]
    if not models:
        return {}
    answers = np.concatenate(
        [np.concatenate([one.of(model) for model in models], axis=1) for one in here]
    )
    homes = np.repeat(np.arange(len(here)), [len(one.labels) for one in here])
    labels = np.concatenate([one.labels for one in here])
    asked = {"all models": (answers, homes)}
    if all((one.host, "ensemble") in _tested(one) for one in here):
        asked["ensemble"] = np.concatenate([one.of(one.host, "ensemble") for one in here]), homes
    for place, name in enumerate(here[0].classes):
        asked[f"all models, patients of {name}"] = answers[labels == place], homes[labels == place]
    whole = {
        what: (rows[fine], of[fine])
        for what, (rows, of) in asked.items()
        for fine in [np.isfinite(rows).all(1)]
    }
    told = {what: sites.probe(*given) for what, given in whole.items()}
    return {what: one for what, one in told.items() if one}


def _tested(one: Predictions) -> set[tuple[str, str]]:
    return set(zip(one.models, one.kinds, strict=True))


def sights(found: Audited) -> Iterator[tuple[str, str, str, int]]:
    """Yield who sees which models of whom: the hospital, whence models come to it, where they go
    from it, and how many do.
    """
    topology = Topology.of(found.scenario)
    for one in found.kept:
        come, go, count = set(), set(), 0
        for round_, hop, model, kind in one.stops:
            if kind != "visit":
                continue
            count += 1
            stop = topology.stop(model, round_, hop)
            come.add(topology.sender(stop))
            go.add(topology.stop(model, round_, hop + 1).host)
        if count:
            yield one.host, ", ".join(sorted(come)), ", ".join(sorted(go)), count


def sight_table(found: Audited) -> Table:
    """Return who sees whom."""
    words = ("hospital", "models come from", "and leave to")
    columns = (*(Column(title, words=True) for title in words), Column("visits", "{:,}".format))
    return Table(columns, [*sights(found)])


def table(found: Audited, findings: tuple[Attack, ...]) -> Table:
    """Return what attackers can tell, with intervals."""
    columns = [
        Column("attacker", words=True),
        Column("hospital", words=True, most=NAME),
        Column("AUC", part=True),
        *(Column(f"at FPR {share:.0%}", group="members found, %") for share in RATES),
        Column("right", group="canaries", part=True),
        Column("epsilon >=", group="canaries"),
        Column("ceiling", group="canaries"),
    ]
    claims = found.claims if any(one.hospital in found.claims for one in findings) else {}
    if claims:
        columns.append(Column("claimed", group="canaries"))
    return Table(columns, [(*_row(one), *_claimed(one, claims)) for one in findings])


def _row(one: Attack) -> tuple[str, ...]:
    told, guesses = one.told, one.told.guesses
    right = "" if guesses is None else f"{guesses.right} of {guesses.guessed}"
    bounds = ("" if value is None else f"{value:.1f}" for value in (one.epsilon, one.ceiling))
    rates = (_of_rate(told.rates[share]) for share in RATES)
    return one.attacker, one.hospital, f"{told.auc:.2f} +-{told.width:.2f}", *rates, right, *bounds


def _of_rate(rate: Rate | None) -> str:
    if rate is None:
        return ""
    return f"{100 * rate.found:.0f} ({100 * rate.low:.0f}-{100 * rate.high:.0f})"


def _claimed(one: Attack, claims: Mapping[str, PrivacyClaim]) -> tuple[str, ...]:
    if not claims:
        return ()
    return (f"{claims[one.hospital].epsilon:.1f}" if one.hospital in claims else "",)


def lines(found: Audited) -> Iterator[str]:
    """Write an audit for a terminal."""
    groups = [one.losses.groups for one in found.kept]
    members, outsiders = (
        sum(int((one == kind).sum()) for one in groups) for kind in (MEMBER, OUTSIDER)
    )
    canaries = sum(int((one > MEMBER).sum()) for one in groups)
    yield (
        f"What {found.scenario.name} (seed {found.scenario.seed}) reveals of {members:,} training "
        f"samples, beside {outsiders:,} others and {canaries:,} canaries."
    )
    yield from ("", "Who sees whom:", "", *sight_table(found).lines()) if [*sights(found)] else ()
    yield from (
        "",
        "All hospitals together, with 95 % intervals:",
        "",
        *table(found, found.pooled).lines(),
    )
    yield from ("", "Every hospital:", "", *table(found, found.single).lines(), "")
    yield "A blank rate would be less than one outsider. Bounds hold with 95 % each, uncorrected."
    yield from sentences(found)


def sentences(found: Audited) -> Iterator[str]:
    """Say how often answers name a patient's hospital."""
    for what, one in found.sites.items():
        yield (
            f"The answers of {what} name the hospital of {one.right:.0%} of {one.patients:,} "
            f"patients; chance names {one.by_chance:.0%} (p {one.p:.3f})."
        )


def as_json(found: Audited) -> dict[str, Any]:
    """Return an audit as plain values.

    Keys: ``scenario``, ``seed``, ``canaries`` of each hospital; ``hospitals``, each with ``name``,
    ``members``, ``outsiders``, ``canaries``, ``put_in`` and what it claims (``epsilon``, ``delta``,
    or null); ``attacks`` of each hospital and of ``all``: ``auc`` and half its interval, ``tpr``
    by false positive rate with its interval, ``guessed`` and ``right`` canaries, ``epsilon`` and
    its ``ceiling``; ``sites``: how often answers name a patient's hospital, and by chance;
    ``sees``: who sees whom.
    """
    settings = found.scenario.audit
    return {
        "scenario": found.scenario.name,
        "seed": found.scenario.seed,
        "canaries": settings.canaries if settings else 0,
        "hospitals": [_hospital(one, found.claims.get(one.host)) for one in found.kept],
        "attacks": [_attack(one) for one in (*found.pooled, *found.single)],
        "sites": {what: one._asdict() for what, one in found.sites.items()},
        "sees": [
            {"hospital": host, "come_from": come, "leave_to": go, "visits": count}
            for host, come, go, count in sights(found)
        ],
    }


def _hospital(one: KeptLosses, claim: PrivacyClaim | None) -> dict[str, Any]:
    groups = one.losses.groups
    return {
        "name": one.host,
        "members": int((groups == MEMBER).sum()),
        "outsiders": int((groups == OUTSIDER).sum()),
        "canaries": int((groups > MEMBER).sum()),
        "put_in": int((groups == PUT_IN).sum()),
        "claimed": claim and claim._asdict(),
    }


def _attack(one: Attack) -> dict[str, Any]:
    told, guesses = one.told, one.told.guesses
    return {
        "hospital": one.hospital,
        "attacker": one.attacker,
        "auc": told.auc,
        "auc_half_width": told.width,
        "tpr": {f"{share:g}": rate and [*rate] for share, rate in told.rates.items()},
        "guessed": guesses and guesses.guessed,
        "right": guesses and guesses.right,
        "epsilon": one.epsilon,
        "ceiling": one.ceiling,
    }


def check_claims(found: Audited) -> None:
    """Raise BoundExceeded if an attacker refutes what a hospital claims.

    A bound for a claim is computed at the claim's delta. All attackers of all hospitals that claim
    anything share one chance of 5 % to be wrong.
    """
    against = [one for one in found.single if one.hospital in found.claims and one.told.guesses]
    for one in against:
        claim, guesses = found.claims[one.hospital], one.told.guesses
        if guesses is None:
            continue
        bound = guesses.epsilon(claim.delta, LEVEL / len(against))
        if bound > claim.epsilon:
            text = (
                f"{one.hospital} claims an epsilon of {claim.epsilon:.2f} at delta "
                f"{claim.delta:.2g}, and it is at least {bound:.2f}: '{one.attacker}' guesses "
                f"{guesses.right} of {guesses.guessed} canaries rightly"
            )
            fix = "look for noise, clipping or sampling that is not as claimed"
            raise BoundExceeded(text, fix=fix)
