"""What goes wrong on purpose in a hospital, as its scenario says, to test how a run ends."""

from __future__ import annotations

import os
from threading import Event
from typing import Literal, NoReturn

from fedskd_sim.errors import RunAborted
from fedskd_sim.scenario import Placebo, Scenario
from fedskd_sim.topology import Stop

CRASHED = 70
Fate = Literal["ok", "stall", "crash", "abort"]


def fate(scenario: Scenario, host: str, stop: Stop | None) -> Fate:
    """Say what happens to a hospital at a stop."""
    algorithm = scenario.algorithm
    if (
        not isinstance(algorithm, Placebo)
        or stop is None
        or (host, stop.round, stop.hop) != (algorithm.culprit, 1, 1)
    ):
        return "ok"
    return algorithm.behaviour


def suffer(what: Fate) -> None:
    """Let it happen to this process: it dies without a word, keeps its visitor for ever, or says
    that it cannot go on.

    Raises:
        RunAborted: the scenario asks for that.

    """
    match what:
        case "crash":
            os._exit(CRASHED)
        case "stall":
            Event().wait()
        case "abort":
            abort()


def abort() -> NoReturn:
    """Raise the error of a placebo that wants the run to end."""
    raise RunAborted(
        "the placebo asked for the run to end", fix="set behaviour to ok", key=("algorithm",)
    )
