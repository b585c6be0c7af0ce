"""``python -m tests.world SEED``: replay a storm, draw who got what from whom when, and say
whether it ended undisturbed.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from symbols import lived, prepared, scenario_of, storm_of

from fedskd_sim.world.storm import OneDeath, Storm

WIDTH = 22


def main(seed: int) -> int:
    shape, size, held_out = storm_of(seed)
    with tempfile.TemporaryDirectory() as folder:
        scenario = scenario_of(Path(folder), shape, size=size, held_out=held_out)
        undisturbed, run = lived(scenario, OneDeath()), prepared(scenario, Storm(seed))
    names = list(run.world.nodes)
    print(f"storm {seed}: {shape}, {size} hospitals that train, {held_out} held out")
    print("seconds".rjust(9), *(name.ljust(WIDTH) for name in names))

    def story(seconds: float, sender: str, to: str, what: Any) -> None:
        hop = getattr(what, "hop", None)
        place = f" {hop.model} r{hop.round} h{hop.hop}" if hop else ""
        node = run.world.nodes[to]
        text = f"{sender}: {type(what).__name__}{place}" if node.up else f"(down) {sender}"
        print(f"{seconds:9.2f}", " " * (names.index(to) * (WIDTH + 1)) + text)

    run.world.story = story
    run.world.run()
    deaths = ", ".join(f"{name} {node.life}" for name, node in run.world.nodes.items() if node.life)
    alike = run.world.over and not run.world.errors and run.result == undisturbed.result
    print(
        f"deaths: {deaths or 'none'}; "
        f"{'ended as if undisturbed' if alike else f'ENDED OTHERWISE {run.world.errors}'}"
    )
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
