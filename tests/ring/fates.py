"""Runs in which hospitals meet their fate at named points of their work, in real processes; see
`deadly/sitecustomize.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fedskd_sim.errors import OutputNotWritable

DEADLY = Path(__file__).parent / "deadly"
PATIENCE_S = 600
POINTS = (
    "before_registration", "warm_up", "departing", "after_send", "receiving",
    "received_not_delivered", "after_acknowledgement", "during_visit", "during_training",
    "homecoming", "reconcile", "reducing", "gathering", "evaluation", "ensemble", "goodbye",
    "before_save", "after_save", "torn_record",
)  # fmt: skip
SCENARIO = """
name: deadly
data: {{name: synthetic-skin, samples: 90, image_size: 16, classes: 3}}
hospitals:
  - {{name: h0, architecture: cnn-plain}}
  - {{name: h1, architecture: {second}}}
  - {{name: h2, architecture: cnn-plain}}
algorithm: {algorithm}
prediction: {prediction}
training: {{batch_size: 32{more}}}
timeouts: {{register: 300, hop: 90, acknowledgement: 60, retry: 2, goodbye: 2, stop: 2}}
"""
ALGORITHMS = {
    "ensemble and averaged weights": ("{name: fedskd, rounds: 2}", "{ensemble: true, model: mix}"),
    "two tracks": (
        "{name: fedskd, rounds: 2, reconcile: two_track}",
        "{}\ninstruments: {probe_similarity: true, pictures: true}",
    ),
    "traveller-first, one after the other, shuffled": (
        (
            "{name: fedskd, preset: traveller-first, rounds: 2, "
            "schedule: {mode: sequential, order: shuffled}}"
        ),
        "{model: averaged}",
    ),
    "FedAvg": ("{name: fedavg, rounds: 2, architecture: cnn-plain}", "{}"),
    "FML": ("{name: fml, rounds: 2, architecture: cnn-plain}", "{}"),
    "FedProto": ("{name: fedproto, rounds: 2}", "{}"),
    "cyclic, audited": (
        "{name: cyclic, rounds: 2}",
        "{ensemble: true}\naudit: {canaries: 8}",
    ),
    "private": (
        "{name: fedskd, preset: traveller-first, rounds: 2, similarity: {batch: 0}}",
        "{}",
    ),
}
PRIVATE = """\
, class_weights: none}
privacy: {unit: sample, target: {epsilon: 4}, batch: 16, key: scenario"""
Death = tuple[str, str, int, str]
"""A hospital, a point, at the how-manieth time in one life, and what happens there: "kill" or
"full" (of its disk)."""


def scenario(algorithm: str) -> str:
    """Write the scenario of an algorithm."""
    keys, prediction = ALGORITHMS[algorithm]
    return SCENARIO.format(
        algorithm=keys,
        prediction=prediction,
        second="cnn-plain" if "architecture" in keys else "cnn-residual",
        more=PRIVATE if algorithm == "private" else "",
    )


def results(folder: Path) -> dict[str, bytes]:
    """Give everything that must not depend on what happened, by file."""
    kinds = ("records", "weights", "predictions", "samples", "audit", "similarity", "pictures")
    return {
        f"{kind}/{file.name}": file.read_bytes()
        for kind in kinds
        for file in sorted((folder / kind).glob("*"))
    }


def fated(path: Path, out: Path, deaths: list[Death]) -> list[str]:
    """Launch a scenario with deaths, and resume it as often as a full disk has ended it.

    Returns:
        What went wrong: the program's words, or the deaths that were not met.

    """
    plan = path.with_suffix(".deaths")
    plan.write_text(json.dumps(deaths), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(DEADLY), "DEATHS": str(plan)}
    done = called(environment, "launch", path, "--no-page", "--out", out)
    for _ in deaths:
        if done.returncode != OutputNotWritable.exit_code:
            break
        done = called(environment, "resume", out)
    missed = [
        f"{death} was not met"
        for index, death in enumerate(deaths)
        if not Path(f"{plan}.{index}").exists()
    ]
    return [done.stderr] if done.returncode else missed


def called(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call the program."""
    command = [sys.executable, "-m", "fedskd_sim", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment
    )
