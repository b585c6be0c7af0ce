"""Errors of scenario files and of the data that they name: codes 10 to 29."""

from __future__ import annotations

from fedskd_sim.errors.base import FedskdError


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


class UnknownReader(ScenarioError):
    """No installed package offers a reader of that name."""

    exit_code = 24


class ReaderFailed(ScenarioError):
    """A reader of one's own raised an exception, or gave what is no data."""

    exit_code = 25
