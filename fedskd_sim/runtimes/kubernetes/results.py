"""What a run in a cluster has left, on its way home: what every hospital holds until it has come
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple

from kubernetes.client.exceptions import ApiException

from fedskd_sim.custody.chain import ways_left
from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.recordfiles import read_records
from fedskd_sim.routes import Lost, Routes
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.kubernetes import moving
from fedskd_sim.runtimes.kubernetes.marks import Losses
from fedskd_sim.runtimes.kubernetes.reach import Reach, Unreachable
from fedskd_sim.scenario import Scenario
from fedskd_sim.topology import Topology

AT_ONCE = 4
"""From so many hospitals results come at a time."""


class Missing(NamedTuple):
    """What did not come home: of hospitals whose pod has left there is no more than its log has
    told; what others hold, they still have, and why it did not come stands with them.
    """

    left: Mapping[str, str] = MappingProxyType({})
    held: Mapping[str, str] = MappingProxyType({})


NONE = Missing()


def fetch(reach: Reach, release: str, order: Order) -> Missing:
    """Bring home what every hospital holds: records, timings, weights, predictions. A cluster keeps
    only so much log.
    """
    left = dict[str, str]()

    def one(name: str) -> str:
        def fetched() -> None:
            try:
                _fetch_from(reach, release, order.folder, name)
            except LookupError as error:  # what has left does not come again
                left[name] = str(error)

        return moving.retry(fetched)

    names = order.loaded.scenario.names
    with ThreadPoolExecutor(AT_ONCE) as pool:
        held = {name: why for name, why in zip(names, pool.map(one, names), strict=True) if why}
    return Missing(left, held)


def _fetch_from(reach: Reach, release: str, folder: Path, name: str) -> None:
    """Fetch what a hospital's pod has; its books only where they have as much as its log has told:
    a pod that came after the start, from nothing, has not taken part.
    """
    with TemporaryDirectory(prefix=".brought-", dir=folder) as made:
        came = Path(made)
        reach.fetch(moving.pod_of(reach, release, name), name, came)
        if _lines(came, name) < _lines(folder, name):
            for kind in handover.BOOKS:
                (came / kind / f"{name}.jsonl").unlink(missing_ok=True)
        handover.move(came, folder)


def _lines(folder: Path, name: str) -> int:
    file = folder / "records" / f"{name}.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def let_go(reach: Reach, release: str, order: Order) -> None:
    """Let every hospital leave that holds what has come home; one that cannot be told leaves by
    itself.
    """
    for name in order.loaded.scenario.names:
        with suppress(Unreachable, ApiException, LookupError):
            reach.let_go(moving.pod_of(reach, release, name))


def check_fetched(release: str, missing: Missing, lost: Lost) -> None:
    """Refuse to end well while final weights are missing; who was lost may have left them nowhere.

    Raises:
        ClusterUnavailable: something is missing; the release has it still.

    """
    whose = {**missing.left, **missing.held}
    owed = {name: why for name, why in whose.items() if name not in lost}
    if owed:
        text = (
            f"the run ended well, but the final weights of {', '.join(owed)} could not be "
            f"fetched: {[*owed.values()][-1]}"
        )
        fix = (
            f"raise holdSeconds in the chart's values; the release {release!r} was left: where "
            "hospitals keep what they have on claims, 'fedskd-sim stop' and then 'fedskd-sim "
            "resume', with these values, bring it home"
        )
        raise ClusterUnavailable(text, fix=fix)


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
