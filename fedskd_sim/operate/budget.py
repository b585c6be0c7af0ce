"""What a comparison takes: forecast from a short run of every method before it begins, and counted
from its runs when they have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fedskd_sim.observe import outcome
from fedskd_sim.observe.words import counted, duration
from fedskd_sim.operate.canary import Findings, try_out
from fedskd_sim.operate.comparison import ComparisonPlan
from fedskd_sim.operate.execution import Cluster, check, runtime_of
from fedskd_sim.records.files import read_timings
from fedskd_sim.results.comparison.planning import Method
from fedskd_sim.results.comparison.work import RunResult, Workshop, finished
from fedskd_sim.scenario import Scenario

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class ComparisonBudget:
    """What so many runs take, in seconds of all of them and of all their GPUs: as is usual, at
    least, and at most.
    """

    runs: int
    seconds: tuple[float, float, float]
    gpu_seconds: tuple[float, float, float]

    @property
    def words(self) -> str:
        """Write it in one line."""
        usual, least, most = map(duration, self.seconds)
        runs = f"{counted(self.runs, 'run')}, together about {usual} ({least} to {most})"
        usual, least, most = (f"{seconds / HOUR:.2f}" for seconds in self.gpu_seconds)
        return f"budget: {runs}, {usual} GPU-hours ({least} to {most})"


def gpus(scenario: Scenario, shop: Workshop) -> float:
    """Return how many GPUs a run has to itself: in a cluster those that its hospitals ask for, on
    this machine its share of the cards that all runs beside it use, too.
    """
    if shop.rings:
        return float(sum(hospital.resources.gpu for hospital in scenario.hospitals))
    return len({one.device for one in scenario.hospitals} - {"cpu"}) / shop.jobs


def forecast_budget(
    planned: ComparisonPlan, shop: Workshop, called: str, tell: Callable[[str], object]
) -> ComparisonBudget:
    """Carry the short run of every method out, where its runs will be, and add up what the runs
    will take that have not finished.

    Args:
        planned: the comparison.
        shop: where.
        called: the command that does this.
        tell: is told which method's short run begins.

    Raises:
        CanaryFailed: a run would not end well on this machine.
        FedskdError, KeyboardInterrupt: what ended a short run.

    """
    due = [run.label for run in planned.runs if not finished(shop.folder(run))]
    seconds, gpu_seconds = [0.0] * 3, [0.0] * 3
    for method in planned.methods:
        if count := due.count(method.label):
            tell(method.label)
            found = _try(method, shop, called)
            takes = (found.usual, found.at_least, found.at_most)
            for place, each in enumerate(takes):
                seconds[place] += count * each
                gpu_seconds[place] += count * each * gpus(method.scenario, shop)
    (first, second, third), (one, two, three) = seconds, gpu_seconds
    return ComparisonBudget(len(due), (first, second, third), (one, two, three))


def _try(method: Method, shop: Workshop, called: str) -> Findings:
    """Carry the short run of a method out, in a folder that goes with it."""
    on, place = "memory", Cluster()
    if rings := shop.rings:
        on, place = "kubernetes", Cluster(rings.canary, *rings.place)
    runtime = runtime_of(on, place)
    with TemporaryDirectory(prefix="fedskd-canary-") as made:
        draft = Path(made) / "scenario.yaml"
        draft.write_text(method.text, encoding="utf-8")
        if shop.code:
            shop.code.write(draft.parent)
        loaded = check(draft, on, runtime, shop.data)
        out = Path(made) / "run"
        found = try_out(loaded, on, runtime, data=shop.data, out=out, called=called)
    if not rings:
        found.check()
    return found


def used(ended: Iterable[RunResult], shop: Workshop) -> str:
    """Write what runs have taken that were carried out now: on this machine from launch to end, in
    a cluster from the first step to the last, without queues and start-up.
    """
    fresh = [one for one in ended if one.fresh and not one.code]
    seconds = {id(one): _seconds(one.folder, shop) for one in fresh}
    hours = sum(seconds[id(one)] * gpus(one.task.scenario, shop) for one in fresh) / HOUR
    took = duration(sum(seconds.values()))
    return f"used: {counted(len(fresh), 'run')}, together {took}, {hours:.2f} GPU-hours"


def _seconds(folder: Path, shop: Workshop) -> float:
    if shop.rings:
        timings = read_timings(folder)
        return max((one.end for one in timings), default=0.0) - min(
            (one.start for one in timings), default=0.0
        )
    how = outcome.read(folder)
    return how.ended - how.started if how else 0.0
