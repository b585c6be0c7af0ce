"""Proportional memory (PSS) of hospital processes: in a run against what it must hold, and forked
against started afresh.

The budget of a hospital is an idle forked one (PyTorch, shared) + two models + their gradients +
AdamW's state of both + what autograd keeps of a two-model step + one message. Everything but the
first is measured on the models themselves. No program holds only what it must: so a plain PyTorch
loop that trains the same two models, in four processes forked alike, is measured too.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from fedskd_sim.learning.comparable import image_shape, pixel_grid
from fedskd_sim.learning.data import Samples, batches
from fedskd_sim.learning.data import load as load_data
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.networks.models import build
from fedskd_sim.learning.sessions.session import SessionModels, TrainingJob, train
from fedskd_sim.learning.sessions.steps import Exchange
from fedskd_sim.learning.weights import export
from fedskd_sim.messages import size
from fedskd_sim.scenario import Scenario, load
from tests.benchmarks.table import Table

MEMBERS = 4
PRELOAD = "fedskd_sim.runtimes.preload"
LOOK_S = 0.1
EPOCHS = 4
MB = 1e6
QUICKSTART = Path(__file__).parent.parent.parent / "scenarios" / "quickstart.yaml"
LARGE = """\
name: large
data: {name: synthetic-skin, samples: 40, image_size: 128, classes: 2}
hospitals: [{name: a, architecture: resnet18}, {name: b, architecture: resnet18},
  {name: c, architecture: resnet18}, {name: d, architecture: resnet18}]
algorithm: {name: fedskd, rounds: 1}
training: {epochs: 1, warmup_epochs: 1, batch_size: 16}
"""


def pss(process: int) -> float:
    """Read the proportional set size of a process in MB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8")
    return (
        next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        * 1024
        / MB
    )


def hold(say: Any, stay: Any) -> None:
    """Import what a hospital needs, say so, and stay until told."""
    __import__(PRELOAD)
    say.send("ready")
    stay.wait(120)


def idle(method: str) -> tuple[list[float], float]:
    """Start four idle hospitals; return their PSS in MB and the seconds until all were ready."""
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([PRELOAD])
    stay = context.Event()
    start = time.perf_counter()
    pipes = [context.Pipe() for _ in range(MEMBERS)]
    processes = [context.Process(target=hold, args=(pipe[1], stay)) for pipe in pipes]
    for process in processes:
        process.start()
    for pipe in pipes:
        pipe[0].recv()
    took = time.perf_counter() - start
    found = [pss(process.pid) for process in processes]
    stay.set()
    for process in processes:
        process.join()
    return found, took


def children(process: int) -> list[int]:
    """List a process's children, oldest first."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text(encoding="utf-8").split()]
    return sorted(found)


def hospitals(launcher: int) -> list[int]:
    """Find the hospital processes of a run: the fork server's children except the first one, the
    controller.
    """
    for child in children(launcher):
        with suppress(OSError):
            if b"multiprocessing.forkserver" in Path(f"/proc/{child}/cmdline").read_bytes():
                return children(child)[1:]
    return []


def peaks(scenario: Path) -> list[float]:
    """Run a scenario and return each hospital's largest PSS in MB while all share PyTorch's
    pages, in the order of the scenario.
    """
    found: dict[int, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "fedskd_sim",
            "launch",
            str(scenario),
            "--out",
            f"{place}/run",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            present = hospitals(process.pid)
            for hospital in present if len(present) >= MEMBERS else []:
                with suppress(OSError, StopIteration):
                    found[hospital] = max(found[hospital], pss(hospital))
            time.sleep(LOOK_S)
    return list(found.values())[:MEMBERS]


def kept_by_autograd(scenario: Scenario, names: tuple[str, str]) -> float:
    """Train two models for one step and add up the memory that autograd keeps between forward
    and backward, in MB.
    """
    shape = image_shape(scenario, names[0], None)
    models = {
        prefix: build(scenario.hospital(name).architecture, shape, 1)
        for prefix, name in zip(("visitor", "resident"), names, strict=True)
    }
    own = {
        tensor.untyped_storage().data_ptr()
        for model in models.values()
        for tensor in model.state_dict().values()
    }
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    algorithm: Any = scenario.algorithm
    count = scenario.training.batch_size
    samples = Samples(
        torch.randn(count, shape.channels, shape.size, shape.size),
        torch.arange(count) % shape.classes,
    )
    job = TrainingJob(samples, torch.ones(shape.classes), scenario.training, 2 * count, 0)
    exchange = Exchange(
        SimilarityLoss.of(algorithm.similarity, pixel_grid(scenario, shape)), 0.0, rise=0.0
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        train(SessionModels(models, teaches=True), job, exchange)
    return sum(kept.values()) / MB


def budget(scenario: Scenario, pair: tuple[str, str], floor: float) -> dict[str, float]:
    """Add up what a host must hold in a session with a visitor, in MB."""
    host, visitor = pair
    models = bytes_of(scenario, host) + bytes_of(scenario, visitor)
    parts = {
        "idle forked process": floor,
        "two models": models,
        "gradients": models,
        "optimiser state": 2 * models,
    }
    parts["kept by autograd"] = kept_by_autograd(scenario, (visitor, host))
    parts["one message"] = bytes_of(scenario, visitor)
    return parts


def loop(scenario: Scenario, names: tuple[str, str], say: Any, stay: Any) -> None:
    """Train two models on the first one's data as a plain script does, for `EPOCHS`; say so, and
    stay until told.
    """
    torch.set_num_threads(1)
    shape = image_shape(scenario, names[0], None)
    models = [build(scenario.hospital(name).architecture, shape, 1) for name in names]
    optimisers = [torch.optim.AdamW(model.parameters()) for model in models]
    draw, data = torch.Generator().manual_seed(1), load_data(scenario, names[0], None, "cpu").train
    for batch in chain(*(batches(data, scenario.training.batch_size, draw) for _ in range(EPOCHS))):
        sum(cross_entropy(model(batch.images)[0], batch.labels) for model in models).backward()
        for model, optimiser in zip(models, optimisers, strict=True):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            optimiser.zero_grad()
    say.send("done")
    stay.wait(120)


def plain(scenario: Scenario, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Train every pair of host and visitor in a plain loop, all at once; return the largest PSS
    of each in MB.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    stay = context.Event()
    pipes = [context.Pipe() for _ in pairs]
    processes = [
        context.Process(target=loop, args=(scenario, pair, pipe[1], stay))
        for pair, pipe in zip(pairs, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    found = [0.0] * len(processes)
    while any(
        process.is_alive() and not pipe[0].poll()
        for process, pipe in zip(processes, pipes, strict=True)
    ):
        for place, process in enumerate(processes):
            with suppress(OSError, StopIteration):
                found[place] = max(found[place], pss(process.pid))
        time.sleep(LOOK_S)
    stay.set()
    for process in processes:
        process.join()
    return found


def largest_visitor(scenario: Scenario, host: str) -> str:
    """Name the visitor of a host that needs most."""
    visitors = [name for name in scenario.names if name != host]
    return max(
        visitors,
        key=lambda name: 5 * bytes_of(scenario, name) + kept_by_autograd(scenario, (name, host)),
    )


def bytes_of(scenario: Scenario, name: str) -> float:
    """Weigh a hospital's model in MB."""
    return (
        size(
            export(
                build(scenario.hospital(name).architecture, image_shape(scenario, name, None), 1)
            )
        )
        / MB
    )


def run(title: str, file: Path, floor: float) -> Table:
    """Compare the peaks of a run with the budgets of its hospitals."""
    scenario = load(file).scenario
    pairs = [(name, largest_visitor(scenario, name)) for name in scenario.names]
    budgets = [budget(scenario, pair, floor) for pair in pairs]
    values = {part: [parts[part] for parts in budgets] for part in budgets[0]}
    values = {
        "budget": [sum(parts.values()) for parts in budgets],
        **values,
        "peak in a run": peaks(file),
    }
    message = median(values["one message"])
    values["plain loop of the two, and a message"] = [
        peak + message for peak in plain(scenario, pairs)
    ]
    return Table(f"PSS of the hospitals of {title}", "MB", values, "budget")


def main() -> list[Table]:
    """Compare both ways of starting hospitals, then runs with their budgets."""
    torch.set_num_threads(1)
    fresh, fresh_s = idle("spawn")
    forked, forked_s = idle("forkserver")
    tables = [
        Table(
            "PSS of an idle hospital",
            "MB",
            {"started afresh": fresh, "forked": forked},
            "started afresh",
        ),
        Table(
            "PSS of four together",
            "MB",
            {"started afresh": [sum(fresh)], "forked": [sum(forked)]},
            "started afresh",
        ),
        Table(
            "until all four are ready",
            "s",
            {"started afresh": [fresh_s], "forked": [forked_s]},
            "started afresh",
        ),
        run("quickstart", QUICKSTART, median(forked)),
    ]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "large.yaml"
        file.write_text(LARGE, encoding="utf-8")
        tables.append(run("ResNet-18 at 128 pixels, batch 16", file, median(forked)))
    return tables
