"""What a hospital computes with and for: what its lives, and as far as it is code all hospitals of
a run, must have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from fedskd_sim import __version__
from fedskd_sim.runtimes.member import MemberOrder
from fedskd_sim.scenario import Loaded, Scenario


def code_of(scenario: Scenario, name: str) -> Mapping[str, str]:
    """Name the code with which the hospital computes."""
    if not scenario.learns:
        return {}
    from fedskd_sim.learning.sources import sources  # noqa: PLC0415 - the placebo runs without PyTorch

    return sources(scenario, name)


def identity_of(order: MemberOrder, loaded: Loaded, code: Mapping[str, str]) -> Mapping[str, str]:
    """Say what two lives must have in common to compute the same bytes."""
    scenario, text = loaded.scenario, loaded.document.text
    found = {
        "run": order.run,
        "hospital": order.name,
        "scenario": sha256(text.encode()).hexdigest()[:32],
        "fedskd_sim": __version__,
    }
    if not scenario.learns:
        return found
    from fedskd_sim.learning.arithmetic import arithmetic  # noqa: PLC0415 - the placebo runs without PyTorch

    return {**found, **arithmetic(scenario.hospital(order.name)), **code}
