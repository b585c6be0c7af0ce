"""A comparison whose runs are rings of pods."""

from __future__ import annotations

import json
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from bed import COMMAND_S, IMAGES, INSTANCE, Bed, Run, at_once, cli, command, until

from fedskd_sim.exits import INTERRUPTED
from fedskd_sim.kubernetes.job_annotations import VERDICT
from fedskd_sim.operate.comparison import CompareRequest, plan
from fedskd_sim.results.comparison.rings import Rings
from fedskd_sim.results.comparison.work import Workshop

TINY = """\
name: tiny
data: {name: synthetic-skin, samples: 40, image_size: 16, classes: 3, label_skew: 0}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-depthwise}
algorithm: {name: fedskd, rounds: 1}
training: {warmup_epochs: 1, epochs: 1}
"""
PLACEBO = """\
name: tiny
hospitals:
  - {name: a, architecture: buffer}
  - {name: b, architecture: buffer}
algorithm: {name: placebo, rounds: 1}
variants:
  small: {algorithm: {name: placebo, buffer_bytes: 8}}
  large: {algorithm: {name: placebo, buffer_bytes: 16}}
"""
LITTLE = {
    "hospitals": {"defaults": {"requests": {"cpu": "10m", "memory": "20Mi"}}},
    "images": IMAGES,
    "terminationGracePeriodSeconds": 5,
    "lingerSeconds": 0,
}
SEEDS = 3


def values_of(folder: Path) -> str:
    """Give a comparison's values without the seconds, which no two runs share."""
    found: dict[str, Any] = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    for method in found["methods"]:
        del method["costs"]["seconds"]
    return json.dumps(found)


def files_for(folder: Path, text: str) -> tuple[Path, Path]:
    scenario, values = folder / "tiny.yaml", folder / "little.yaml"
    scenario.write_text(text, encoding="utf-8")
    values.write_text(json.dumps(LITTLE), encoding="utf-8")
    return scenario, values


def test_rings_of_pods_compare_as_one_machine_does(bed: Bed, tmp_path: Path) -> None:
    """Two methods over three seeds as pods have the records, weights and predictions of the runs
    in memory and so the same values, to the byte; nothing stays in the cluster. A ring that ended
    earlier, and whose pods have left before anybody fetched its results, is removed and run again.
    """
    scenario, values = files_for(tmp_path, TINY)
    methods, there, here = "fedskd,local", tmp_path / "there", tmp_path / "here"
    leave_a_ring(bed, scenario, methods, there)
    asked = ("compare", scenario, "--algorithms", methods, "--seeds", SEEDS)
    place = ("--on", "kubernetes", "-n", bed.namespace, "--values", values, "--jobs", 3)
    compared = at_once(
        {
            "there": partial(cli, *asked, *place, "--out", there),
            "here": partial(cli, *asked, "--out", here, "--jobs", 1),
        }
    )
    for done in compared.values():
        assert done.returncode == 0, done.stdout + done.stderr
    files = [
        path.relative_to(here)
        for kind in ("records", "weights", "predictions")
        for path in here.glob(f"runs/*/*/{kind}/*")
    ]
    assert len(files) == 2 * SEEDS * 2 * 3
    for file in files:
        assert (there / file).read_bytes() == (here / file).read_bytes(), file
    assert values_of(there) == values_of(here)
    until("end of everything", lambda: not bed.items("jobs,pods,configmaps", INSTANCE))


def test_an_interrupted_comparison_goes_on(bed: Bed, tmp_path: Path) -> None:
    """Ctrl-C, when the first ring is home, leaves no ring at work in the cluster, though perhaps
    one that has ended and whose results were on their way; the same command again keeps what is
    home, fetches that and ends, and nothing is left.
    """
    scenario, values = files_for(tmp_path, PLACEBO)
    line = ("compare", scenario, "--algorithms", "small,large", "--seeds", 2, "--jobs", 2)
    place = ("--on", "kubernetes", "-n", bed.namespace, "--values", values)
    asked = (*line, *place, "--out", tmp_path / "out")
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(command(*asked), text=True, **streams) as process:
        signal.signal(signal.SIGINT, heard)
        assert process.stdout
        said = iter(process.stdout)
        while ": done" not in next(said):
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=COMMAND_S)
    assert process.returncode == INTERRUPTED, errors
    until("end of all rings", lambda: not at_work(bed))
    done = cli(*asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": kept") >= 1
    assert done.stdout.count(": kept") + done.stdout.count(": done") == 4
    until("end of everything", lambda: not bed.items("jobs", INSTANCE))


def leave_a_ring(bed: Bed, scenario: Path, methods: str, out: Path) -> None:
    """Leave the ring of a comparison's first run in the cluster, whose pods have gone with what
    they have learned.
    """
    values = scenario.with_name("hasty.yaml")
    values.write_text(json.dumps(LITTLE | {"holdSeconds": 1}), encoding="utf-8")
    rings = Rings(bed.namespace, values=(values,))
    task = plan(scenario, CompareRequest(methods.split(","), SEEDS, rings=rings)).whole[0]
    folder = Workshop(out, None, 1, rings=rings).folder(task)
    folder.parent.mkdir(parents=True)
    draft = folder.with_name(f"{folder.name}.yaml")
    draft.write_text(task.text, encoding="utf-8")
    line = rings.launch(task, draft, folder)
    left = cli(*line, "--detach")
    assert left.returncode == 0, left.stderr
    run = Run(bed, line[line.index("--name") + 1])
    assert run.code() == 0

    def gone() -> bool:
        return all(pod["status"]["phase"] == "Succeeded" for pod in run.pods())

    until("end of all pods", gone)


def at_work(bed: Bed) -> list[str]:
    """Name the Jobs of rings whose controller has not concluded how they ended."""
    jobs = [job["metadata"] for job in bed.items("jobs", INSTANCE)]
    ended = {
        job["labels"]["fedskd.io/run"] for job in jobs if VERDICT in job.get("annotations", {})
    }
    return [job["name"] for job in jobs if job["labels"]["fedskd.io/run"] not in ended]
