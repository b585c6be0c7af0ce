"""What a hospital computes with and for: what its lives, and as far as it is code all hospitals of
a run, must have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from fedskd_sim import __version__
from fedskd_sim.custody.seal import as_json
from fedskd_sim.learning.base import Learner
from fedskd_sim.protocol.samecode import READER, ROWS, text_of, told_of_samples
from fedskd_sim.runtimes.member import MemberOrder
from fedskd_sim.scenario import Loaded, Scenario

MEANS_NOTHING = frozenset({"description", "timeouts"})
"""Keys that change nothing of what is computed: who waited in vain may wait longer next time."""
LONGEST_SOURCE = 60


def code_of(scenario: Scenario, name: str) -> Mapping[str, str]:
    """Name the code with which the hospital computes."""
    if not scenario.learns:
        return {}
    from fedskd_sim.learning.sources import sources  # noqa: PLC0415 - the placebo runs without PyTorch

    return sources(scenario, name)


def meaning(scenario: Scenario) -> str:
    """Return as JSON what a scenario means for what is computed."""
    return as_json(scenario, *MEANS_NOTHING)


def computes(
    scenario: Scenario, name: str, learner: Learner, code: Mapping[str, str], run: str
) -> str:
    """Tell the controller the code with which the hospital computes and, of what a reader of one's
    own gave it, what no two hospitals of the run may have otherwise, or both.
    """
    given = None
    if scenario.learns:
        from fedskd_sim.learning.site import Sited  # noqa: PLC0415 - the placebo runs without PyTorch

        given = learner.site.given if isinstance(learner, Sited) else None
    if given is None:
        return text_of(code)
    source = given.source
    if len(source) > LONGEST_SOURCE or not source.isprintable():
        source = f"{scenario.hospital(name).data.name} {sha256(source.encode()).hexdigest()[:8]}"
    columns = given.columns.items() if given.parted else ()
    rows = {f"{READER}{source}{ROWS}{what}": digest for what, digest in columns}
    held = (
        mark + one.encode("utf-8", "replace") for mark, (one, _) in given.pictures.items() if one
    )
    return text_of({**code, **rows}) + told_of_samples(held, run)


def identity_of(order: MemberOrder, loaded: Loaded, code: Mapping[str, str]) -> Mapping[str, str]:
    """Say what two lives must have in common to compute the same bytes."""
    scenario = loaded.scenario
    found = {
        "run": order.run,
        "hospital": order.name,
        "scenario": meaning(scenario),
        "fedskd_sim": __version__,
    }
    if not scenario.learns:
        return found
    from fedskd_sim.learning.arithmetic import arithmetic  # noqa: PLC0415 - the placebo runs without PyTorch

    return {**found, **arithmetic(scenario.hospital(order.name)), **code}
