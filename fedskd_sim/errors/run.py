"""Errors of the place where a run is to happen (codes 30 to 39), and of a run, of what its members
say to each other, and of what it leaves (from 40 on).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from fedskd_sim.errors.base import FedskdError


class RunError(FedskdError):
    """The run started and could not end well."""

    exit_code = 42


class HopTimeout(RunError):
    """A visitor did not arrive before the deadline."""

    exit_code = 40


class HospitalCrashed(RunError):
    """A hospital's or the controller's process died, or met an error that nobody foresaw."""

    exit_code = 41


class RunAborted(RunError):
    """Another hospital failed, so the run was ended."""


class NonFiniteLoss(RunError):
    """Too many sessions in a row had a non-finite loss."""

    exit_code = 43


class RegistrationTimeout(RunError):
    """Hospitals did not register, or the controller did not answer, before the deadline."""

    exit_code = 44


class AcknowledgementTimeout(RunError):
    """The next hospital never confirmed a hop."""

    exit_code = 45


class ForkServerDied(RunError):
    """The process that starts hospitals, and learns how they end, died."""

    exit_code = 46


class CanaryFailed(RunError):
    """A short run before the run says that this one would not end well."""

    exit_code = 47


class HospitalLost(RunError):
    """A hospital gave no sign of life for too long, or too few are left to go on without it."""

    exit_code = 48


class LeftBehind(RunError):
    """The run goes on without this hospital to its end."""

    exit_code = 49


class WireError(FedskdError):
    """Something arrived that no member of the run would send."""

    exit_code = 50


class BadMessage(WireError):
    """A message that breaks the wire schema or its size limits."""


class DigestMismatch(WireError):
    """Weights whose digest is not the one in their header."""

    exit_code = 51


class ChainBroken(FedskdError):
    """What a run has left does not fit together: something is doubled, missing, altered, foreign
    or torn.
    """

    exit_code = 60


class CustodyForeign(FedskdError):
    """What a hospital or a comparison has kept was kept under other circumstances: another program,
    processor or data.
    """

    exit_code = 61


class CodeDiffers(FedskdError):
    """Hospitals compute with different code: of the program, an architecture or a reader."""

    exit_code = 63


class BudgetSpent(FedskdError):
    """A private hospital has spent what it may of its patients' privacy, and the run is to end."""

    exit_code = 64


class BoundExceeded(FedskdError):
    """An audit shows that a hospital is less private than it claims."""

    exit_code = 65


class LibraryMissing(FedskdError):
    """A library that is optional is not installed."""

    exit_code = 62

    @classmethod
    def of(cls, library: str, extra: str) -> LibraryMissing:
        """Name the library and the extra that installs it."""
        return cls(
            f"{library} is not installed",
            fix=f"pip install 'fedskd-sim[{extra}]', or {library} alone",
        )


EXTRAS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("torch", "torchvision", "nibabel", "PIL"), "learning")
    | dict.fromkeys(("kubernetes", "urllib3", "websocket"), "cluster")
    | {"pyarrow": "export", "pydicom": "dicom", "dp_accounting": "privacy"}
)
"""Which extra of this project installs a library that the core does without."""
OF_POSIX = ("fcntl", "resource")
"""Parts of Python's own library that Windows has not."""


@contextmanager
def extras_named() -> Iterator[None]:
    """Say which extra is missing where an import inside finds no library of one, and which system
    has what this one lacks.

    Raises:
        LibraryMissing: instead of the ModuleNotFoundError of a library in `EXTRAS` or `OF_POSIX`.

    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in OF_POSIX:
            text = f"{library} is not here: this system ({sys.platform}) is no Unix"
            fix = "use Linux, on Windows its subsystem (WSL), or macOS with --on memory"
            raise LibraryMissing(text, fix=fix) from error
        if library not in EXTRAS:
            raise
        raise LibraryMissing.of(library, EXTRAS[library]) from error


class PlaceError(FedskdError):
    """The machine cannot offer what the run needs."""


class PortInUse(PlaceError):
    """An address is taken by another program."""

    exit_code = 30


class OutputNotWritable(PlaceError):
    """The run folder cannot be created or written."""

    exit_code = 31


class OutputNotEmpty(PlaceError):
    """The run folder holds something already."""

    exit_code = 32


class SocketPathTooLong(PlaceError):
    """The folder for Unix sockets has a path longer than the operating system allows."""

    exit_code = 33


class RunUnreadable(PlaceError):
    """The folder is no run folder, or its records are damaged."""

    exit_code = 34


class DeviceUnavailable(PlaceError):
    """The scenario asks for a device that this machine does not have."""

    exit_code = 35


class ClusterUnavailable(PlaceError):
    """The cluster does not answer, or the namespace is missing or forbidden."""

    exit_code = 36


class ChartNotInstallable(PlaceError):
    """The helm program is missing, or it refused the chart."""

    exit_code = 37


class PodCannotStart(PlaceError):
    """A pod will never run: its image, its security settings, or no node that fits."""

    exit_code = 38


class RunExists(PlaceError):
    """A run of that name is in the namespace already."""

    exit_code = 39
