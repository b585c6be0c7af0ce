"""Finished runs to a comparison: only seeds that every method has finished count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedskd_sim.privacy.attacks import AttackResult
from fedskd_sim.results.comparison.origins import remarks
from fedskd_sim.results.comparison.planning import Method
from fedskd_sim.results.comparison.price import attacked
from fedskd_sim.results.comparison.tables import MethodRow, MethodTable, Score, score
from fedskd_sim.results.comparison.text import OFF_BUDGET
from fedskd_sim.results.comparison.work import RunResult


def comparison(
    methods: Sequence[Method], control: str, outcomes: Sequence[RunResult]
) -> MethodTable | None:
    """Compare what is finished; None if there is no seed that every method has finished. Raises
    RunUnreadable.
    """
    labels = {method.label for method in methods}
    good, with_canaries = (_finished(outcomes, audited=audited) for audited in (False, True))
    indices = sorted(
        {index for _, index in good if all((label, index) in good for label in labels)}
    )
    if not indices:
        return None
    rows = tuple(
        MethodRow(
            method,
            [_score(method, good[method.label, index]) for index in indices],
            [*_audits([(with_canaries or good).get((method.label, index)) for index in indices])],
        )
        for method in methods
    )
    seeds = tuple(good[methods[0].label, index].task.scenario.seed for index in indices)
    compared = [
        run
        for known in (good, with_canaries)
        for (_, index), run in sorted(known.items())
        if index in indices
    ]
    failed = len(outcomes) - len(good) - len(with_canaries)
    notes = (
        *_notes(methods, failed, len(indices)),
        *_off(rows),
        *_lost(rows),
        *_origins(compared),
    )
    return MethodTable(rows, control, seeds, notes)


def _finished(outcomes: Sequence[RunResult], *, audited: bool) -> dict[tuple[str, int], RunResult]:
    """Return the runs that ended well, with canaries or without, by label and seed's index."""
    return {
        (outcome.task.label, outcome.task.index): outcome
        for outcome in outcomes
        if not outcome.code and outcome.task.audited is audited
    }


def _score(method: Method, run: RunResult) -> Score:
    scenario = method.scenario
    return score(run.folder, scenario.members, scenario.held_out, faulty=bool(scenario.faults))


def _audits(runs: Sequence[RunResult | None]) -> Iterator[Mapping[str, AttackResult]]:
    """Attack the runs that kept losses; raises RunUnreadable."""
    for run in runs:
        if run is not None and run.task.scenario.audit:
            yield attacked(run.folder, run.task.scenario)


def _origins(compared: Sequence[RunResult]) -> Iterator[str]:
    return remarks(
        {
            (f"{run.task.label}{' with canaries' * run.task.audited}", run.task.scenario.seed): (
                run.made_with
            )
            for run in compared
        }
    )


def _off(rows: Sequence[MethodRow]) -> Iterator[str]:
    """Say whose work is not equal."""
    off = [row.method.label for row in rows if abs(row.off) > OFF_BUDGET]
    if off:
        yield (
            f"The work of {', '.join(off)} is not that of the budget (whole rounds may not divide "
            "it, sessions be rolled back, hospitals be lost): see the column 'off'."
        )


def _lost(rows: Sequence[MethodRow]) -> Iterator[str]:
    """Say which methods lack tests that others have, as where a hospital was lost."""
    everywhere = [
        {test for score in scores for test in score.tests}
        for scores in zip(*(row.scores for row in rows), strict=True)
    ]
    for row in rows:
        short = [
            len({test[1:] for test in all_ - score.tests.keys()})
            for all_, score in zip(everywhere, row.scores, strict=True)
        ]
        if any(short):
            yield (
                f"{row.method.label} lacks up to {max(short)} tests of a run, of hospitals that it "
                "lost. Its means are over the tests that exist, its differences over those that "
                "both methods have."
            )


def _validates(methods: Sequence[Method]) -> bool:
    return all(one.scenario.instruments.evaluate_on == "validation" for one in methods)


def _notes(methods: Sequence[Method], failed: int, seeds: int) -> Iterator[str]:
    if failed:
        yield f"{failed} runs failed; seeds that they belong to are left out for every method."
    if any(method.point for method in methods) and _validates(methods):
        yield (
            "A grid is compared on validation data, where the best of many looks better than it "
            "is: compare the one that you choose by its own name on test data."
        )
    if seeds == 1:
        yield (
            "One complete seed has no spread: there is no interval, and no difference may be "
            "claimed."
        )
    for method in methods:
        if method.share > 1:
            yield (
                f"Every model of {method.label} has the work of all by itself: {method.share:g} "
                "times the work of the others."
            )
    shared = [
        method.label
        for method in methods
        if method.scenario.averages and not method.scenario.algorithm.personal
    ]
    if shared and any(method.scenario.prediction.ensemble for method in methods):
        yield (
            f"All hospitals end with one model under {', '.join(shared)}: their ensemble is that "
            "model alone."
        )
    if any(method.scenario.pools for method in methods):
        yield "pooled is not federated: it trains on everybody's data in one place."
