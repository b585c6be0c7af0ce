"""Exit codes to errors and back; the table stands in `fedskd_sim.errors`."""

from __future__ import annotations

from fedskd_sim.errors import FedskdError, Key

INTERRUPTED = 130


def all_errors() -> tuple[type[FedskdError], ...]:
    """List every error class that has an exit code of its own, parents before children."""
    found: list[type[FedskdError]] = [FedskdError]
    for error in found:
        found.extend(error.__subclasses__())
    return tuple(found)


def rebuilt(code: int, message: str, *, fix: str = "", key: tuple[Key, ...] = ()) -> FedskdError:
    """Make the error of an exit code again, as another process reported it."""
    kinds = [error for error in all_errors() if error.exit_code == code and not error.__subclasses__()]
    return (kinds[0] if kinds else FedskdError)(message, fix=fix, key=key)


def hospital_codes() -> frozenset[int]:
    """Give the exit codes with which a hospital can say that it has failed."""
    return frozenset(error.exit_code for error in all_errors())
