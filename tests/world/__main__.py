"""``python -m tests.world [chaos] SEED``: replay a storm, or chaos, draw who got what from whom
when, and say whether it ended undisturbed, or which law was broken.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from chaos import drawn, judge, raised
from invariants import Broken
from symbols import Run, lived, prepared, scenario_of, storm_of

from fedskd_sim.world.storm import OneDeath, Storm

WIDTH = 22


def storm(seed: int) -> int:
    """Replay a storm."""
    shape, size, held_out = storm_of(seed)
    with tempfile.TemporaryDirectory() as folder:
        scenario = scenario_of(Path(folder), shape, size=size, held_out=held_out)
        undisturbed, run = lived(scenario, OneDeath()), prepared(scenario, Storm(seed))
    print(f"storm {seed}: {shape}, {size} hospitals that train, {held_out} held out")
    told(run)
    run.world.run()
    alike = run.world.over and not run.world.errors and run.result == undisturbed.result
    return ended(run, "" if alike else f"OTHERWISE {run.world.errors}")


def chaos(seed: int) -> int:
    """Replay chaos."""
    about, undisturbed = drawn(seed)
    run, watcher = raised(about, undisturbed)
    print(about.words)
    told(run)
    try:
        run.world.run()
        judge(about, run, undisturbed, watcher)
    except Broken as broken:
        return ended(run, f"BROKEN after event {watcher.events}: {broken}")
    return ended(run, "")


def told(run: Run) -> None:
    """Let a run print what arrives."""
    names = list(run.world.nodes)
    print("seconds".rjust(9), *(name.ljust(WIDTH) for name in names))

    def story(seconds: float, sender: str, to: str, what: Any) -> None:
        hop = getattr(what, "hop", None)
        place = f" {hop.model} r{hop.round} h{hop.hop}" if hop else ""
        node = run.world.nodes[to]
        text = f"{sender}: {type(what).__name__}{place}" if node.up else f"(down) {sender}"
        print(f"{seconds:9.2f}", " " * (names.index(to) * (WIDTH + 1)) + text)

    run.world.story = story


def ended(run: Run, wrong: str) -> int:
    """Say how a run has ended."""
    deaths = ", ".join(f"{name} {node.life}" for name, node in run.world.nodes.items() if node.life)
    print(f"deaths: {deaths or 'none'}; {wrong or 'ended as if undisturbed'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    replay = chaos if sys.argv[1:2] == ["chaos"] else storm
    sys.exit(replay(int(sys.argv[-1])))
