"""What learners remember of their work: real ones that die at every step end with the
undisturbed run's bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from nights import few_of
from symbols import Run, prepared
from torch import nn
from weather import OneDeath

from fedskd_sim.errors import HospitalCrashed
from fedskd_sim.learning import comparable, site
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import Learner, LearnerContext, LearnerState
from fedskd_sim.learning.networks import models
from fedskd_sim.learning.site import Site
from fedskd_sim.messages import Done
from fedskd_sim.protocol.effects import Effect, Leave, Persist, Reply, Send, Tell, Work
from fedskd_sim.records import to_line
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes.life import save_results
from fedskd_sim.scenario import Architecture, Scenario, load
from fedskd_sim.world.world import Weather

TEXT = """
name: remembered
seed: 5
data: {{name: synthetic-skin, samples: 20, image_size: 8, classes: 3}}
hospitals:
  - {{name: a, architecture: {{name: cnn-plain, options: {{width: 4, norm: batch}}}}}}
  - {{name: b, architecture: {{name: cnn-residual, options: {{width: 4, norm: batch}}}},
     data: {{samples: 23}}}}
  - {{name: c, architecture: {{name: cnn-plain, options: {{width: 8}}}}}}
{held_out}
algorithm: {{{algorithm}}}
training: {{epochs: 1, warmup_epochs: 1, batch_size: 8}}
prediction: {{{prediction}}}
instruments: {{{instruments}}}
{audit}
timeouts: {{register: 1000000, hop: 1000000, acknowledgement: 1000000, goodbye: 1000000}}
"""
AUDIT = "audit: {canaries: 6}"
HELD_OUT = "  - {name: out, architecture: cnn-plain, held_out: true}"
COMMON = "architecture: {name: cnn-plain, options: {width: 4, norm: batch}}"
RUNS = {
    "averaged": (
        "name: fedskd, similarity: {region_grid: 2}, rounds: 2",
        "model: mix, ensemble: true, logit_adjustment: 0.5",
        "",
    ),
    "two_track": (
        "name: fedskd, similarity: {region_grid: 2}, rounds: 2, reconcile: two_track",
        "",
        "changes: true, probe: true",
    ),
    "traveller_first": (
        "name: fedskd, similarity: {region_grid: 2}, preset: traveller-first, rounds: 2",
        "model: averaged, ensemble: true",
        "",
    ),
    "audited": (
        "name: fedskd, similarity: {region_grid: 2}, preset: traveller-first, rounds: 2",
        "model: averaged, ensemble: true",
        "",
    ),
    "audited_fedavg": (f"name: fedavg, rounds: 2, {COMMON}", "", ""),
    "own_start": (
        (
            "name: fedskd, similarity: {region_grid: 2}, rounds: 2, resident_every: 3, "
            "traveller_start: own, stop_work: 1.5"
        ),
        "model: last",
        "",
    ),
    "circulation": ("name: circulation, rounds: 2", "", "predictions: false"),
    "mutual": ("name: mutual, rounds: 2", "model: last", "evaluate_on: validation"),
    "cyclic": ("name: cyclic, rounds: 2", "model: averaged", ""),
    "sequential": (
        "name: cyclic, rounds: 2, schedule: {mode: sequential}",
        "model: averaged",
        "changes: true",
    ),
    "shuffled": (
        "name: circulation, rounds: 3, schedule: {order: shuffled, visits: 1}",
        "model: mix",
        "",
    ),
    "fedavg": (f"name: fedavg, rounds: 2, {COMMON}", "model: averaged", ""),
    "fedprox": (f"name: fedprox, rounds: 2, mu: 0.1, {COMMON}", "", ""),
    "fml": ("name: fml, rounds: 2", "", ""),
    "fedproto": ("name: fedproto, rounds: 3, features: 4", "", ""),
    "fd": ("name: fd, rounds: 3", "", ""),
    "fedtgp": ("name: fedtgp, rounds: 3, features: 4, server_steps: 9", "", ""),
    "fedgh": ("name: fedgh, rounds: 2, server_steps: 9", "", ""),
    "d-psgd": (f"name: d-psgd, rounds: 2, {COMMON}", "model: mix", "changes: true, probe: true"),
    "def-kt": ("name: def-kt, rounds: 2", "", ""),
    "dfml": ("name: dfml, rounds: 3", "", ""),
    "ditto": (f"name: ditto, rounds: 2, {COMMON}", "model: averaged, ensemble: true", ""),
    "tuned": (f"name: ditto, rounds: 2, begins: common, strength: 0, {COMMON}", "", ""),
    "fedrep": (f"name: partial, rounds: 2, alternate: true, {COMMON}", "", ""),
    "moon": (f"name: moon, rounds: 2, {COMMON}", "", ""),
    "scaffold": (f"name: scaffold, rounds: 2, {COMMON}", "", ""),
    "local": ("name: local, rounds: 2", "model: averaged, ensemble: true", ""),
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
        text = TEXT.replace("width: 8", "width: 4") if name == "fedgh" else TEXT
        path.write_text(
            text.format(
                algorithm=algorithm,
                prediction=prediction,
                instruments=instruments,
                held_out=held_out,
                audit=AUDIT if name.startswith("audited") else "",
            )
        )
        return load(path).scenario


STEPS = (Work, Leave)
WITHIN = (Persist, Send, Reply, Tell)
"""Effects before which hospitals die: a step's beginning, or the end of all, and what comes in
between."""


class Deaths(Weather):
    """Weather in which hospitals die once before every step, and before each of ``sampled``
    effects of the kinds in between.
    """

    persists = True
    away = None

    def __init__(self, *names: str, sampled: int = 0) -> None:
        self.names, self.sampled, self.count = names or ("a", "b", "c", "out"), sampled, 0
        self._between = 0
        self._survived: set[tuple[object, ...]] = set()

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - nothing is lost
        yield 0.05

    def disk(self) -> float:
        return 0.0

    def kills(self, name: str, effect: Effect) -> bool:
        if name not in self.names or not isinstance(
            effect, STEPS + (WITHIN if self.sampled else ())
        ):
            return False
        mark = (name, type(effect).__name__, *told_apart(effect))
        if mark in self._survived:
            return False
        if isinstance(effect, WITHIN):
            self._between += 1
            if self._between % self.sampled:
                return False
        if (
            not isinstance(effect, Persist) or effect.record
        ):  # a commit without one cannot be told from others
            self._survived.add(mark)
        self.count += 1
        return True


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


KEPT: dict[object, Any] = {}


@pytest.fixture(autouse=True)
def quick_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what every life asks of all architectures: PyTorch takes long to draw values and to
    trace shapes where nothing is.
    """
    specs, blueprint = Site.specs, models.blueprint

    def once(key: object, make_it: Callable[[], Any]) -> Any:
        if key not in KEPT:
            KEPT[key] = make_it()
        return KEPT[key]

    def outlined(chosen: Architecture, shape: models.ImageShape) -> models.Outline:
        return once(
            ("outline", chosen.model_dump_json(), shape), lambda: models.outline(chosen, shape)
        )

    def copied(chosen: Architecture, shape: models.ImageShape) -> nn.Module:
        return deepcopy(
            once(("blueprint", chosen.model_dump_json(), shape), lambda: blueprint(chosen, shape))
        )

    monkeypatch.setattr(
        Site, "specs", lambda self: once(("specs", id(self.scenario)), lambda: specs(self))
    )
    monkeypatch.setattr(comparable, "outline", outlined)
    monkeypatch.setattr(site, "blueprint", copied)


def learner(scenario: Scenario, name: str, topology: Topology) -> Learner:
    return make(LearnerContext(scenario, name, given=topology, pause=lambda _: None))


def entries(state: LearnerState) -> set[str]:
    """Name what is in a state; of a group for each model only the kind."""
    return {name.partition("/")[0] for name in (*state.numbers, *state.weights)}


def lived(
    name: str, weather: object, fresh: Callable[[Scenario, str, Topology], Learner] = learner
) -> Run:
    run = prepared(scenario_of(name), weather, learner=fresh)
    run.world.run()
    assert run.world.over
    assert run.world.errors == []
    assert run.refusals == []
    return run


def outcome(run: Run) -> dict[str, bytes]:
    """Give all records of a run and all files written at its end, once by the learners that are
    left, once by their heirs.
    """
    found = {}
    for name, node in run.world.nodes.items():
        found[f"records/{name}"] = "\n".join(map(to_line, node.custody.records)).encode()
        heir = node.fresh()
        heir.restore(node.custody.learner)
        for who, left in {"left": node.worker.learner, "heir": heir}.items():
            with TemporaryDirectory() as folder:
                save_results(LearnerContext(node.worker.scenario, name), left, Path(folder))
                for path in sorted(Path(folder).rglob("*.*")):
                    found[f"{who}/{path.relative_to(folder)}"] = path.read_bytes()
    return found


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Name the files that are not in both, or not the same."""
    return sorted(
        name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    )


@cache
def undisturbed(name: str) -> tuple[dict[str, bytes], set[str]]:
    """Give the outcome of a run in fair weather, and what was in its learners' states."""
    seen: set[str] = set()

    def watched(*about: Any) -> Learner:
        made = learner(*about)
        give = made.state

        def state() -> LearnerState:
            given = give()
            seen.update(entries(given))
            return given

        made.state = state  # type: ignore[method-assign]
        return made

    return outcome(lived(name, OneDeath(), watched)), seen


@pytest.mark.parametrize("name", few_of(RUNS, 6))
def test_learners_that_die_at_every_step_end_alike(name: str) -> None:
    """Killed before every step and in between, hospitals go on from their state to the same
    records, weights, predictions and losses.
    """
    weather = Deaths(sampled=8)
    found, (wanted, _) = outcome(lived(name, weather)), undisturbed(name)
    assert weather.count > 3 * 8
    assert differing(found, wanted) == []
    assert {file: data for file, data in found.items() if file.startswith("left/")} == {
        file.replace("heir", "left", 1): data
        for file, data in found.items()
        if file.startswith("heir/")
    }


FORGOTTEN = {
    "home": "local", "general": "two_track", "departed": "two_track", "unspent": "own_start",
    "averaged": "fedavg", "last": "mutual", "ensemble": "local", "answers": "local",
    "share": "fedavg", "sum": "fedavg", "common": "fml", "prototypes": "fedproto",
    "kept": "fedproto", "others": "fd", "shared": "fd", "personal": "ditto", "previous": "moon",
    "peak": "dfml", "server": "fedtgp", "arrived": "d-psgd", "audit": "audited",
    "control": "scaffold", "mean_control": "scaffold", "gathered": "scaffold",
}  # fmt: skip
"""Whatever is in a state, and a run that shows it."""
FRESH: Mapping[str, Any] = {"unspent": 0.0, "answers": [], "kept": {}, "audit": []}


@pytest.mark.parametrize("entry", FORGOTTEN)
def test_a_learner_that_forgets_is_caught(entry: str) -> None:
    """Whichever entry of its state a restored learner lacks, its run ends otherwise: each is
    needed.
    """

    def forgetful(*about: Any) -> Learner:
        made = learner(*about)
        take = made.restore

        def restore(state: LearnerState) -> None:
            numbers = {
                name: FRESH[name] if name == entry else value
                for name, value in state.numbers.items()
            }
            if entry in numbers.get("kept", {}):  # says what form the entry had
                numbers["kept"] = {}
            take(
                LearnerState(
                    numbers,
                    {
                        name: group
                        for name, group in state.weights.items()
                        if name.partition("/")[0] != entry
                    },
                )
            )

        made.restore = restore  # type: ignore[method-assign]
        return made

    run = prepared(scenario_of(FORGOTTEN[entry]), Deaths("a"), learner=forgetful)
    run.world.run()
    assert run.world.over
    if run.world.errors:  # it has no model, or lacks a part of the sum
        name, error = run.world.errors[0]
        assert (name, type(error)) == ("a", HospitalCrashed)
        assert re.search(r"\b(AttributeError|KeyError)\b", error.message)
        return
    assert differing(outcome(run), undisturbed(FORGOTTEN[entry])[0])


def test_all_that_learners_remember_is_known_to_be_needed() -> None:
    """The states of all algorithms hold exactly the entries of which the test above shows that
    they are needed.
    """
    assert set().union(*(undisturbed(name)[1] for name in RUNS)) == set(FORGOTTEN)
