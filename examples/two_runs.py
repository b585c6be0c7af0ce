"""Run the same ring with and without similarity, and see who knows what: the whole of the library
in one program.

    .venv/bin/python examples/two_runs.py [FOLDER]

FOLDER (default: runs/two-runs) gets a scenario and a run folder for each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

from fedskd_sim import Run, launch, load

SCENARIO = """\
name: {name}
seed: 1
data:
  {{name: synthetic-skin, samples: 200, image_size: 16, classes: 3, site_shift: 0.5,
   label_skew: 0.6}}
hospitals:
  - {{name: aachen, architecture: {{name: cnn-plain, options: {{width: 8}}}}}}
  - {{name: bergen, architecture: {{name: cnn-residual, options: {{width: 8}}}}}}
algorithm: {algorithm}
training: {{epochs: 1, warmup_epochs: 2}}
"""
ALGORITHMS = {
    "similarity": "{name: fedskd, rounds: 2, similarity: {batch: 0.1, pixel: 0.1, region: 0.1}}",
    "circulation": "{name: circulation, rounds: 2}",
}


def run(name: str, folder: Path) -> Run:
    """Write a scenario, check it and run it."""
    file = folder / f"{name}.yaml"
    file.write_text(SCENARIO.format(name=name, algorithm=ALGORITHMS[name]), encoding="utf-8")
    return launch(load(file), on="memory", out=folder / name)


def shares(of: Run, *, own: bool) -> float:
    """Give the mean AUC of home models on their own hospital's test data, or on the others'."""
    return mean(row["auc"] for row in of.matrix if row["own"] is own and row["auc"] is not None)


def main() -> None:
    """Run both, and show their means and how long their sessions took."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/two-runs")
    folder.mkdir(parents=True, exist_ok=True)
    print("             own AUC  others' AUC  hops  seconds of training")
    for name in ALGORITHMS:
        done = run(name, folder)
        seconds = sum(
            row["seconds"] for row in done.timings if row["what"] in ("warm_up", "session")
        )
        print(
            f"{name:12} {shares(done, own=True):7.3f}  {shares(done, own=False):11.3f}  "
            f"{len(done.hops):4}  {seconds:.1f}"
        )


if __name__ == "__main__":
    main()
