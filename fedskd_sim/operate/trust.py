"""Whose code a run folder brings along: what this user has launched is run again, what somebody
gave them is not, unless they say its digest.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fedskd_sim.errors import RunUnreadable
from fedskd_sim.scenario import OwnCode
from fedskd_sim.scenario.own import DIGITS

FILE = Path("fedskd-sim") / "launched-code"


def _file() -> Path:
    """Return where the digests are that this user has launched."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / FILE


def note(code: OwnCode | None) -> None:
    """Note that this user has launched code; where that cannot be noted, `check` asks for it."""
    if code is None:
        return
    with suppress(OSError, RuntimeError):  # a read-only home, or none
        file = _file()
        if code.digest in _known():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as stream:
            stream.write(f"{code.digest}\n")


def check(code: OwnCode | None, folder: Path, said: str = "") -> None:
    """Refuse to run the code of a run folder that this user has not launched.

    Args:
        code: what the folder has.
        folder: the run folder.
        said: the digest that the user trusts.

    Raises:
        RunUnreadable: neither is it theirs nor do they say so.

    """
    if code is None or code.digest == said or code.digest in _known():
        return
    text = f"{folder} brings code that was not launched by you: {', '.join(sorted(code.files))}"
    if said:
        text += f"; its digest is {code.digest}, not {said}"
    fix = f"read it in {code.home}; if it may run, add --trust-code {code.digest}"
    raise RunUnreadable(text, fix=fix)


def _known() -> set[str]:
    """Read the digests that this user has launched."""
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        lines = _file().read_text(encoding="ascii").split()
        return {line for line in lines if len(line) == DIGITS}
    return set()
