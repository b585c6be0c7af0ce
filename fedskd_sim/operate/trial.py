"""A short run of a loss or an algorithm of the user's own, before a long one: whether it goes
through, and does so with the same bytes where every step is taken by another life of its hospital.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedskd_sim.errors import CanaryFailed, FedskdError, HospitalCrashed, Key
from fedskd_sim.learning.base import Learner, LearnerState
from fedskd_sim.operate.canary import try_out
from fedskd_sim.records import Record
from fedskd_sim.records.files import read_records
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.scenario import Loaded, OwnAlgorithm

KEEP = "what must outlive a death is declared with Kept in its class"


class Lives:
    """Lets every step be taken by another life of its hospital, and notes what that has forgotten,
    by hospital.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.forgotten: dict[str, dict[str, None]] = {}

    def __call__(
        self, name: str, old: Any, fresh: Callable[[], Learner], state: LearnerState
    ) -> Learner:
        """Import the code anew, as another process would, and make the learner go on."""
        from fedskd_sim.learning.kept import forgotten  # noqa: PLC0415 - needs PyTorch
        from fedskd_sim.learning.offers import OWN  # noqa: PLC0415

        OWN.forget()
        new: Any = fresh()
        before: Any = getattr(old, "site", None)
        after: Any = getattr(new, "site", None)
        if before and after and "data" in vars(before):  # which takes long to read
            vars(after)["data"] = before.data
        new.restore(state)
        pairs = [[vars(one).get("_inner", one) for one in (old, new)]]
        pairs += [[before.loss, after.loss]] if before and before.loss else []
        found = [one for pair in pairs for one in forgotten(*pair)]
        self.forgotten.setdefault(name, {}).update(dict.fromkeys(found))
        learner: Learner = new
        return learner


def try_own(loaded: Loaded, data: Path | None) -> None:
    """Take a few steps at all hospitals twice, and compare what comes of it.

    Raises:
        HospitalCrashed: the code fails.
        CanaryFailed: it would give something else behind a death.
        FedskdError: what else ended the short run.

    """
    lives = Lives()
    with TemporaryDirectory() as place:
        once, again = Path(place) / "once", Path(place) / "again"
        try:
            try_out(loaded, "memory", MemoryRuntime(), data=data, out=once, called="validate")
        except FedskdError as error:
            raise _placed(loaded, error, "mend that code") from None
        runtime = MemoryRuntime(lives)
        try:
            try_out(loaded, "memory", runtime, data=data, out=again, called="validate")
        except FedskdError as error:
            if isinstance(error, HospitalCrashed):
                error.message = f"after a death of the hospital {error.message}"
            raise _placed(loaded, error, KEEP) from None
        if found := next(_differences(read_records(once), read_records(again)), None):
            raise _placed(loaded, _changed(*found, lives), KEEP) from None


def _differences(once: list[Record], again: list[Record]) -> Iterator[tuple[Record, str]]:
    """Yield records of a step that came out otherwise, though the same came in, and what of it; in
    the order of the run.
    """
    pairs = sorted(zip(once, again, strict=True), key=lambda one: (one[0].round, one[0].hop))
    for one, other in pairs:
        if one != other and one.digest_in == other.digest_in:
            names = one.measures.keys() | other.measures.keys()
            measured = [
                name for name in sorted(names) if one.measures.get(name) != other.measures.get(name)
            ]
            same = one.digest_out == other.digest_out and measured
            yield one, f"{measured[0]!r}" if same else "the weights"


def _changed(record: Record, what: str, lives: Lives) -> FedskdError:
    """Name the hospital whose step comes out otherwise behind a death, and what it forgot."""
    known = {**lives.forgotten.get(record.host, {}), **_all(lives)}
    lost = f": its next life does not have {', '.join(known)}" if known else ""
    text = f"a death changes {what} of {record.host!r} in round {record.round} ({record.kind})"
    return CanaryFailed(f"{text}{lost}", fix=KEEP)


def _all(lives: Lives) -> dict[str, None]:
    return {name: None for one in lives.forgotten.values() for name in one}


def _placed(loaded: Loaded, error: FedskdError, fix: str) -> FedskdError:
    """Make an error of own code name the scenario's key for that code, and no folder that is
    gone.
    """
    error.__notes__, error.__cause__ = [], None
    if isinstance(error, HospitalCrashed | CanaryFailed):
        error.fix, error.where = fix, None
        error.key = key_of(loaded)
    return loaded.place_error(error)


def key_of(loaded: Loaded) -> tuple[Key, ...]:
    """Return the key under which a scenario names the loss or the algorithm of the user's own."""
    algorithm = loaded.scenario.algorithm
    if not isinstance(algorithm, OwnAlgorithm):
        return "algorithm", "loss"
    return ("algorithm",) if algorithm.loss else ("algorithm", "name")
