"""Errors that nobody foresaw, in words: of whom, where in the run, which exception, and the line
of code that raised it.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from fedskd_sim.errors import FedskdError, HospitalCrashed, OutputNotWritable
from fedskd_sim.exits import out_of_space

MEMORY = "give it more memory, or the scenario smaller models and batches"


def crash(name: str, where: str, error: BaseException, fix: str) -> FedskdError:
    """Make an error of an exception that nobody foresaw: class, message and the line of code
    that raised it.
    """
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    line = "".join(
        f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})" for frame in frames
    )
    text = " ".join(part for part in (f"{name!r} died", where) if part) + f": {words}{line}"
    if out_of_space(error):
        return OutputNotWritable(
            f"no space left: {text}",
            fix="make room where the run folder is, and start the run again",
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return OutputNotWritable(text, fix="give a run folder that can be written")
    return HospitalCrashed(text, fix=MEMORY if isinstance(error, MemoryError) else fix)
