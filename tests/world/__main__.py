"""``python -m tests.world [chaos|return|unheard] SEED``: replay a storm, chaos or returns, draw who
got what from whom when, and say whether it ended as it should, or which law was broken;
``diagrams``: draw the state diagrams of the manual anew.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import returning
from chaos import drawn, judge, raised
from invariants import Broken, Watcher
from symbols import Run, lived, prepared, scenario_of, storm_of
from transitions import diagrams
from weather import OneDeath, Storm

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
    return lived_through(run, watcher, lambda: judge(about, run, undisturbed, watcher))


def returns(seed: int) -> int:
    """Replay returns."""
    return told_of(returning.drawn(seed))


def unheard(seed: int) -> int:
    """Replay returns in which the controller does not hear all."""
    return told_of(returning.drawn_unheard(seed))


def told_of(story: returning.Story) -> int:
    """Replay a story."""
    run, sentry = returning.raised(story)
    print(story.words)
    return lived_through(run, sentry, lambda: returning.judge(story, run, sentry))


def lived_through(run: Run, watcher: Watcher | returning.Sentry, judged: Callable[[], None]) -> int:
    """Let a run happen, and say how it has ended."""
    told(run)
    try:
        run.world.run()
        judged()
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
    print(f"deaths: {deaths or 'none'}; {wrong or 'ended as it should'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1] == "diagrams":
        sys.exit(diagrams())
    replays = {"chaos": chaos, "return": returns, "unheard": unheard}
    sys.exit(replays.get(sys.argv[1], storm)(int(sys.argv[-1])))
