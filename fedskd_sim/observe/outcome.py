"""How a run ended: ``outcome.json`` in its folder, which its launcher writes, and its report and
`fedskd-sim status` read.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, OutputNotWritable, RunUnreadable, Where
from fedskd_sim.exits import INTERRUPTED, out_of_space
from fedskd_sim.observe.words import duration, legible
from fedskd_sim.records import NO_OTHER_KEYS, UnixSeconds
from fedskd_sim.wholefiles import write_text

FILE = "outcome.json"
BUG = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run, as its launcher knows it; times are UNIX seconds.

    A run is ``going`` until its launcher says otherwise: one that was killed itself, or that left
    the run to a cluster, never does.
    """

    __pydantic_config__ = NO_OTHER_KEYS
    state: Literal["going", "ended well", "failed", "stopped"]
    started: UnixSeconds
    commands: tuple[str, ...] = ()
    """What was typed: the launch, and whatever went on with the run later."""
    ended: UnixSeconds = 0.0
    code: Annotated[int, Field(ge=0, le=255)] = 0
    """The launcher's exit code."""
    culprit: str = ""
    """The member that failed, where one did."""
    reason: str = ""
    """Why it ended so; of one that ended well, what was not as it should be."""
    fix: str = ""

    @property
    def words(self) -> str:
        """Return it in one sentence without a full stop."""
        return f"{self.state} {self.after}"

    @property
    def after(self) -> str:
        """Return what is behind its state: how long it took, who failed, and the exit code."""
        if self.state == "going":
            return f"since {clock.stamp(self.started)}, as far as its folder tells"
        whose = f": {self.culprit}" if self.culprit else ""
        code = f", exit code {self.code}" if self.code else ""
        return f"after {duration(self.ended - self.started)}{whose}{code}"


_FORM: TypeAdapter[Outcome] = TypeAdapter(Outcome)


def begin(folder: Path, command: str) -> Outcome:
    """Note that a run begins or goes on, and by which command; raises OutputNotWritable, and
    RunUnreadable as `read` does.
    """
    before = read(folder)
    commands = (*(before.commands if before else ()), command)
    return note(folder, Outcome("going", before.started if before else clock.unix(), commands))


def finish(begun: Outcome, error: BaseException | None = None, remark: str = "") -> Outcome:
    """Return how a run ended: well, if with a remark, by an error, or by an interrupt."""
    found = replace(begun, ended=clock.unix(), state="ended well")
    if isinstance(error, KeyboardInterrupt):
        return replace(found, state="stopped", code=INTERRUPTED, reason="it was interrupted")
    if isinstance(error, FedskdError):
        place = f"{error.where}: " if error.where else ""
        reason = place + error.message
        return replace(
            found,
            state="failed",
            code=error.exit_code,
            culprit=error.culprit,
            reason=reason,
            fix=error.fix,
        )
    if error is not None:
        code = OutputNotWritable.exit_code if out_of_space(error) else BUG
        return replace(found, state="failed", code=code, reason=f"{type(error).__name__}: {error}")
    return replace(found, reason=remark)


def read(folder: Path) -> Outcome | None:
    """Read how a run ended; None where nobody has noted it. Raises RunUnreadable for a damaged
    file.
    """
    file = folder / FILE
    try:
        return _FORM.validate_json(file.read_bytes(), strict=True) if file.exists() else None
    except (OSError, ValidationError) as error:
        fix = "remove this file to read what else is in the folder"
        raise RunUnreadable(
            "it does not say how the run ended", fix=fix, where=Where(str(file))
        ) from error


def note(folder: Path, outcome: Outcome) -> Outcome:
    """Note how a run is, and give it back; raises OutputNotWritable."""
    outcome = replace(
        outcome,
        commands=tuple(legible(command) for command in outcome.commands),
        reason=legible(outcome.reason),
        fix=legible(outcome.fix),
    )
    write_text(folder / FILE, json.dumps(asdict(outcome), indent=1) + "\n")
    return outcome
