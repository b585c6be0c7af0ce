"""Exit codes to errors and back; the table stands in `fedskd_sim.errors`."""

from __future__ import annotations

import errno

from fedskd_sim.errors import FedskdError, Key

WRONG_USE, INTERRUPTED = 2, 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SPACE = "No space left on device"


def out_of_space(error: BaseException) -> bool:
    """Return whether an exception means a full disk, a quota or a limit of files, also one of a
    library with errors of its own.
    """
    return (isinstance(error, OSError) and error.errno in DISK_FULL) or NO_SPACE in str(error)


def no_space(error: BaseException) -> str:
    """Return what such an exception means, and what to do."""
    place = getattr(error, "filename", None) or "what is being written"
    why = getattr(error, "strerror", None) or error
    return f"no space left for {place}: {why}\n  fix: make room, and start again"


def all_errors() -> tuple[type[FedskdError], ...]:
    """List every error class that has an exit code of its own, parents before children."""
    found: list[type[FedskdError]] = [FedskdError]
    for error in found:
        found.extend(error.__subclasses__())
    return tuple(found)


def final_codes() -> tuple[int, ...]:
    """List the exit codes that another try would not change: wrong use of the command line, and
    each error's own.
    """
    return (
        WRONG_USE,
        *sorted({error.exit_code for error in all_errors()} - {FedskdError.exit_code}),
    )


def rebuilt(code: int, message: str, *, fix: str = "", key: tuple[Key, ...] = ()) -> FedskdError:
    """Make the error of an exit code again, as another process reported it."""
    kinds = [
        error for error in all_errors() if error.exit_code == code and not error.__subclasses__()
    ]
    return (kinds[0] if kinds else FedskdError)(message, fix=fix, key=key)


def meaning(error: type[FedskdError]) -> str:
    """Return in one line what an error means: the first paragraph of its docstring."""
    return " ".join((error.__doc__ or "").partition("\n\n")[0].split())
