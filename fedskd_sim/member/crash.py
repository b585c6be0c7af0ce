"""Errors that nobody foresaw, in words: of whom, where in the run, which exception, and the line
of code that raised it.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from fedskd_sim.errors import FedskdError, HospitalCrashed, OutputNotWritable
from fedskd_sim.exits import out_of_space
from fedskd_sim.ring.program import Step

MEMORY = "give it more memory, or the scenario smaller models and batches"
CARD_MEMORY = "use a smaller batch_size or recorded_gib, or let fewer hospitals share the card"
CARD = "look at the card (nvidia-smi, the kernel's log); with custody 'fedskd-sim resume' goes on"
PRINTED = "see what it has written to standard error"
ABOVE = "mend the code that the traceback above names"
NO_MEMORY = "can't allocate memory"
"""Stands in PyTorch's error where the host's memory does not suffice."""
OF_A_CARD = ("OutOfMemoryError", "AcceleratorError")
"""Names of PyTorch's errors of a card, which this side of the learning seam does not import."""
SPEAK_OF_A_CARD = ("CUDA", "cuDNN", "CUBLAS", "cuBLAS", "GET was unable", "FIND was unable")
"""How errors of libraries for cards begin that have no class of their own."""
OURS = tuple(map(str, (Path(__file__).parents[1], Path(traceback.__file__).parent)))
"""Where the files are that no user has written: this package, Python and what is installed."""
FULL = ("out of memory", "ALLOC_FAILED", "OutOfMemoryError", "unable to find an engine")


def crash(name: str, where: str, error: BaseException, fix: str) -> FedskdError:
    """Make an error of an exception that nobody foresaw: class, message and the line of code
    that raised it, the user's own before ours.
    """
    kind, card = type(error).__name__, _of_a_card(error)
    said = _without_advice(str(error)) if card else str(error)
    words = f"{kind}: {said}" if said else kind
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(OURS)]
    line = "".join(
        f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})"
        for frame in (theirs or frames)[-1:]
    )
    text = " ".join(part for part in (f"{name!r} died", where) if part) + f": {words}{line}"
    if out_of_space(error):
        return OutputNotWritable(
            f"no space left: {text}",
            fix="make room where the run folder is, and start the run again",
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return OutputNotWritable(text, fix="give a run folder that can be written")
    if isinstance(error, MemoryError) or NO_MEMORY in said:
        return HospitalCrashed(text, fix=MEMORY)
    return HospitalCrashed(text, fix=card or fix)


def in_step(name: str, step: Step, error: BaseException) -> FedskdError:
    """Make an error of what ended a step of a hospital that is no process of its own; whoever
    catches it finds the exception of the code that raised it as its cause.
    """
    if isinstance(error, FedskdError):
        return error
    disk = isinstance(error, OSError) and not _of_a_card(error)
    found = crash(name, whereabouts(step), error, "make room on its disk" if disk else ABOVE)
    found.__cause__ = error
    return found


def _of_a_card(error: BaseException) -> str:
    """Return what to do about an error of a card; empty for any other."""
    kind, text = type(error), str(error)
    known = kind.__module__ == "torch" and kind.__name__ in OF_A_CARD
    if not known and not (kind is RuntimeError and text.startswith(SPEAK_OF_A_CARD)):
        return ""
    return CARD_MEMORY if any(word in f"{kind.__name__} {text}" for word in FULL) else CARD


def whereabouts(step: Step) -> str:
    """Return where in the run a step is."""
    if stop := step.stop:
        return f"in round {step.round}, hop {stop.hop} ({stop.kind} of {stop.model!r})"
    words = {
        "warm_up": "in its warm-up",
        "alone": f"in round {step.round}, training alone",
        "depart": f"at its departure in round {step.round}",
        "home": "in the evaluation of its own model",
    }
    return words.get(step.action, "in the evaluation of all models")


def _without_advice(text: str) -> str:
    """Leave out what PyTorch advises behind the figures: its own settings, and how to debug it."""
    return text.partition("\n")[0].partition(" If reserved but unallocated")[0].strip()
