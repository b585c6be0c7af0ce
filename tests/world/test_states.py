"""What learners remember of their work: real ones that die at every step end with the undisturbed run's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from symbols import Run, prepared

from fedskd_sim.learning.base import Learner, Ward
from fedskd_sim.learning.learners import make
from fedskd_sim.messages import Done
from fedskd_sim.protocol.effects import Effect, Leave, Persist, Reply, Send, Tell, Work
from fedskd_sim.records import to_line
from fedskd_sim.runtimes.member import save_results
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.topology import Topology
from fedskd_sim.world.storm import OneDeath

TEXT = """
name: remembered
seed: 5
data: {{name: synthetic-skin, samples: 30, image_size: 16, classes: 3}}
hospitals:
  - {{name: a, architecture: {{name: cnn-plain, options: {{width: 4, norm: batch}}}}}}
  - {{name: b, architecture: {{name: cnn-residual, options: {{width: 4, norm: batch}}}}, data: {{samples: 33}}}}
  - {{name: c, architecture: {{name: cnn-plain, options: {{width: 8}}}}}}
{held_out}
algorithm: {{{algorithm}}}
training: {{epochs: 1, warmup_epochs: 1, batch_size: 8}}
prediction: {{{prediction}}}
instruments: {{{instruments}}}
timeouts: {{register: 1000000, hop: 1000000, receipt: 1000000, goodbye: 1000000}}
"""
HELD_OUT = "  - {name: out, architecture: cnn-plain, held_out: true}"
COMMON = "architecture: {name: cnn-plain, options: {width: 4, norm: batch}}"
RUNS = {
    "averaged": ("name: fedskd, rounds: 2", "model: mix, council: true, class_offset: 0.5", ""),
    "two_track": ("name: fedskd, rounds: 2, reconcile: two_track", "", "changes: true, probe: true"),
    "traveller_first": ("name: fedskd, preset: traveller-first, rounds: 2", "model: slow, council: true", ""),
    "own_start": ("name: fedskd, rounds: 2, resident_every: 3, traveller_start: own, stop_work: 1.5", "model: last", ""),
    "circulation": ("name: circulation, rounds: 2", "", "predictions: false"),
    "mutual": ("name: mutual, rounds: 2", "model: last", "evaluate_on: validation"),
    "cyclic": ("name: cyclic, rounds: 2", "model: slow", ""),
    "sequential": ("name: cyclic, rounds: 2, schedule: {mode: sequential}", "model: slow", "changes: true"),
    "shuffled": ("name: circulation, rounds: 3, schedule: {order: shuffled, visits: 1}", "model: mix", ""),
    "fedavg": (f"name: fedavg, rounds: 2, {COMMON}", "model: slow", ""),
    "fedprox": (f"name: fedprox, rounds: 2, mu: 0.1, {COMMON}", "", ""),
    "fml": ("name: fml, rounds: 2", "", ""),
    "fedproto": ("name: fedproto, rounds: 3, features: 4", "", ""),
    "local": ("name: local, rounds: 2", "model: slow, council: true", ""),
    "pooled": ("name: pooled, rounds: 2", "", ""),
    "placebo": ("name: placebo, rounds: 2", "", ""),
}
"""Algorithm, prediction and instruments."""


@cache
def scenario_of(name: str) -> Scenario:
    algorithm, prediction, instruments = RUNS[name]
    held_out = HELD_OUT if name == "traveller_first" else ""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scenario.yaml"
        path.write_text(TEXT.format(algorithm=algorithm, prediction=prediction, instruments=instruments, held_out=held_out))
        return load(path).scenario


class Deaths:
    """Weather in which every hospital dies before each of its effects of some kinds, once."""

    persists = True

    def __init__(self, *kinds: type) -> None:
        self.kinds, self.count = kinds, 0
        self._survived: set[tuple[object, ...]] = set()
        self._safe: dict[str, bool] = {}

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - nothing is lost
        yield 0.05

    def kills(self, name: str, effect: Effect) -> bool:
        if not isinstance(effect, self.kinds):
            return False
        if isinstance(effect, Persist) and not effect.record:  # what tells them apart is not in them: every second one
            dies = self._safe[name] = not self._safe.get(name, False)
        else:
            mark = (name, type(effect).__name__, *told_apart(effect))
            dies = mark not in self._survived
            self._survived.add(mark)
        self.count += dies
        return dies


def told_apart(effect: Effect) -> tuple[object, ...]:
    """Give what an effect has in every life."""
    match effect:
        case Work(cursor):
            return (cursor,)
        case Persist(record) if record:
            return record.kind, record.model, record.round, record.hop
        case Send(_, hop, _, _):
            return (hop,)
        case Reply(_, answer):
            return (answer,)
        case Tell(message):
            return (isinstance(message, Done) or (message.model, message.round, message.hop),)  # type: ignore[union-attr]
    return ()


BETWEEN_STEPS = (Work, Leave)
EVERYWHERE = (Work, Leave, Persist, Send, Reply, Tell)


def learner(scenario: Scenario, name: str, topology: Topology) -> Learner:
    return make(Ward(scenario, name, given=topology, pause=lambda _: None))


def lived(name: str, weather: object, fresh: Callable[[Scenario, str, Topology], Learner] = learner) -> Run:
    run = prepared(scenario_of(name), weather, learner=fresh)
    run.world.run()
    assert run.world.over
    assert run.world.errors == []
    assert run.refusals == []
    return run


def outcome(run: Run) -> dict[str, bytes]:
    """Give all records of a run and all files written at its end, once by the learners that are left, once by their heirs."""
    found = {}
    for name, node in run.world.nodes.items():
        found[f"records/{name}"] = "\n".join(map(to_line, node.custody.records)).encode()
        heir = node.fresh()
        heir.restore(node.custody.learner)
        for who, left in {"left": node.worker.learner, "heir": heir}.items():
            with TemporaryDirectory() as folder:
                save_results(Ward(node.worker.scenario, name), left, Path(folder))
                for path in sorted(Path(folder).rglob("*.*")):
                    found[f"{who}/{path.relative_to(folder)}"] = path.read_bytes()
    return found


@cache
def undisturbed(name: str) -> dict[str, bytes]:
    found = outcome(lived(name, OneDeath()))
    files = {name: data for name, data in found.items() if "/" in name}
    assert all(data == found[name.replace("left", "heir", 1)] for name, data in files.items())
    return found


@pytest.mark.parametrize("name", RUNS)
def test_learners_that_die_everywhere_end_alike(name: str) -> None:
    """Killed before every commit, answer, departure and step, hospitals go on to the same records, weights and predictions."""
    weather = Deaths(*EVERYWHERE)
    found = outcome(lived(name, weather))
    assert weather.count > 3 * 40
    assert found == undisturbed(name)
