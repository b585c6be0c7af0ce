"""What a run in a cluster has left, on its way home: final weights and records of every hospital
that was not lost.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fedskd_sim.custody.chain import ways_left
from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.recordfiles import read_records
from fedskd_sim.routes import Lost, Routes
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.kubernetes import moving
from fedskd_sim.runtimes.kubernetes.marks import Losses
from fedskd_sim.runtimes.kubernetes.reach import Reach
from fedskd_sim.scenario import Scenario
from fedskd_sim.topology import Topology


def fetch(reach: Reach, release: str, order: Order, lost: Lost) -> None:
    """Bring the final weights home from every hospital, with its records, of which a cluster
    keeps only so much log. Who was lost may have left them nowhere.

    Raises:
        ClusterUnavailable: something is missing; the release has it still.

    """
    missing: dict[str, str] = {}
    for name in order.loaded.scenario.names:
        fetched = partial(_fetch_from, reach, release, order, name)
        trouble = moving.retry(fetched, tries=1 if name in lost else moving.TRIES)
        missing |= {name: trouble} if trouble and name not in lost else {}
    if missing:
        text = (
            f"the run ended well, but the final weights of {', '.join(missing)} could not be "
            f"fetched: {missing.popitem()[1]}"
        )
        raise ClusterUnavailable(
            text, fix=f"raise holdSeconds in the chart's values; the release {release!r} was left"
        )


def _fetch_from(reach: Reach, release: str, order: Order, name: str) -> None:
    reach.fetch(moving.pod_of(reach, release, name), name, order.folder)


def check_whole(release: str, order: Order, losses: Losses) -> None:
    """Refuse to end well while records are missing, whatever became of the logs that they were
    in.

    Raises:
        RunUnreadable: there are none.
        ClusterUnavailable: some are missing.

    """
    records = read_records(order.folder)
    tested = {(record.host, record.model) for record in records if record.kind == "evaluation"}
    missing = [
        name
        for name, models in _owed(order, losses).items()
        if any((name, model) not in tested for model in models)
    ]
    if missing:
        text = (
            f"the run ended well, but not all records of {', '.join(missing)} could be read from "
            "the logs of their pods"
        )
        raise ClusterUnavailable(text, fix=f"fedskd-sim collect {release}; the release was left")


def _owed(order: Order, losses: Losses) -> dict[str, list[str]]:
    """Say which models every hospital must have tested: all, but for those that have retired,
    and nobody who was lost and is not back.
    """
    scenario: Scenario = order.loaded.scenario
    ring = Topology.of(scenario)
    ways = ways_left(order.folder, ring) if scenario.on_loss.heals else Routes(ring)
    known = Losses(ways.lost, ways.back).merged(losses)
    ways = replace(ways, lost=known.lost, back=known.back)
    models = [model for model in scenario.members if not ways.retired(model, ring.evaluation_round)]
    return {name: models for name in scenario.names if not ways.left_out(name)}
