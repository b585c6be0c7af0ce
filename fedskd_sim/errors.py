"""Every error a user can meet, and its exit code.

FedskdError                         exit code
+-- ScenarioError
|   +-- ScenarioSyntaxError         10  not YAML, duplicate key, tab, looping anchor, unreadable file
|   +-- UnknownKey                  11  a key the schema does not have
|   +-- InvalidValue                12  wrong type, missing key, or a value out of range
|   +-- DuplicateHospital           13  two hospitals of one name
|   +-- TooFewHospitals             14  a ring needs two
|   +-- UnknownArchitecture         15  no such architecture
|   +-- ImageTooSmall               16  input smaller than the architecture's taps allow
|   +-- RegionGridTooLarge          17  similarity grid finer than a feature map
|   +-- LabelSpacesDiffer           18  hospitals do not share their classes
|   +-- NoTrainingSamples           19  a hospital has nothing to train on
|   +-- OneClassOnly                20  a hospital's training data has one class
|   +-- DataMissing                 21  a data file is not there
|   +-- DataCorrupt                 22  a data file is truncated or not what it should be
|   `-- ArchitecturesDiffer         23  averaging asks for one architecture
+-- PlaceError
|   +-- PortInUse                   30  an address is taken
|   +-- OutputNotWritable           31  the run folder cannot be written
|   +-- OutputNotEmpty              32  the run folder holds something already
|   +-- SocketPathTooLong           33  the folder for Unix sockets has too long a path
|   +-- RunUnreadable               34  not a run folder, or its records are damaged
|   +-- DeviceUnavailable           35  the scenario asks for a device that is not here
|   +-- ClusterUnavailable          36  no way to the cluster, or the namespace is missing or forbidden
|   +-- ChartNotInstallable         37  helm is missing, or refused the chart
|   +-- PodCannotStart              38  a pod that will never run: image, security, or no node that fits
|   `-- RunExists                   39  a run of that name is in the namespace
+-- RunError
|   +-- HopTimeout                  40  a visitor did not come in time
|   +-- HospitalCrashed             41  a hospital's or the controller's process died
|   +-- RunAborted                  42  another hospital failed, so this one stopped
|   +-- NonFiniteLoss               43  too many sessions in a row had to be rolled back
|   +-- RegistrationTimeout         44  hospitals or the controller did not appear
|   +-- ReceiptTimeout              45  the next hospital never confirmed a hop
|   `-- ForkServerDied              46  the process that starts hospitals died
`-- WireError
    +-- BadMessage                  50  a message that breaks the wire schema
    `-- DigestMismatch              51  weights that changed on the way

0 is success, 1 a bug, 2 wrong use of the command line, 130 an interrupt. Numbers are never reused.
"""

from __future__ import annotations

from dataclasses import dataclass

Key = str | int


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a scenario file: the file and the line, counted from 1."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        """Format as editors understand it: ``file:line``."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


class FedskdError(Exception):
    """Base of all errors; the message names the value, ``fix`` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "", key: tuple[Key, ...] = (), where: Where | None = None) -> None:
        """Keep what went wrong, the fix, the scenario key it belongs to and, once known, its place in the file.

        ``second_hand``: another hospital's failure is only passed on; ``stop``: the round and hop that never came.
        """
        super().__init__(message)
        self.message, self.fix, self.key, self.where = message, fix, key, where
        self.others: tuple[FedskdError, ...] = ()
        self.second_hand = False
        self.stop = (0, 0)

    def __str__(self) -> str:
        """Write one line for the problem (place, key, value) and one for the fix; other problems follow."""
        parts = [str(self.where or ""), ".".join(str(part) for part in self.key), self.message]
        fix = [f"  fix: {self.fix}"] if self.fix else []
        return "\n".join([": ".join(part for part in parts if part), *fix, *map(str, self.others)])


class ScenarioError(FedskdError):
    """The scenario file or the data it names cannot be run."""

    exit_code = 12


class ScenarioSyntaxError(ScenarioError):
    """The file is not one YAML mapping that can be read safely."""

    exit_code = 10


class UnknownKey(ScenarioError):
    """A key that the schema does not have."""

    exit_code = 11


class InvalidValue(ScenarioError):
    """A value of the wrong type or out of range, or a missing key."""


class DuplicateHospital(ScenarioError):
    """Two hospitals have the same name."""

    exit_code = 13


class TooFewHospitals(ScenarioError):
    """A ring needs at least two hospitals."""

    exit_code = 14


class UnknownArchitecture(ScenarioError):
    """No architecture of that name is registered."""

    exit_code = 15


class ImageTooSmall(ScenarioError):
    """The input is smaller than the architecture's taps allow."""

    exit_code = 16


class RegionGridTooLarge(ScenarioError):
    """A similarity grid is finer than an architecture's feature map."""

    exit_code = 17


class LabelSpacesDiffer(ScenarioError):
    """Hospitals do not share one list of classes."""

    exit_code = 18


class NoTrainingSamples(ScenarioError):
    """A hospital has no training samples."""

    exit_code = 19


class OneClassOnly(ScenarioError):
    """All training samples of a hospital belong to one class."""

    exit_code = 20


class DataMissing(ScenarioError):
    """A data file is not where the scenario and ``--data`` say."""

    exit_code = 21


class DataCorrupt(ScenarioError):
    """A data file is truncated or does not hold what it should."""

    exit_code = 22


class ArchitecturesDiffer(ScenarioError):
    """An algorithm that averages models, and hospitals with different architectures."""

    exit_code = 23


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


class ReceiptTimeout(RunError):
    """The next hospital never confirmed a hop."""

    exit_code = 45


class ForkServerDied(RunError):
    """The process that starts hospitals, and learns how they end, died."""

    exit_code = 46


class WireError(FedskdError):
    """Something arrived that no member of the run would send."""

    exit_code = 50


class BadMessage(WireError):
    """A message that breaks the wire schema or its size limits."""


class DigestMismatch(WireError):
    """Weights whose digest is not the one in their header."""

    exit_code = 51
