"""Errors of the place where a run is to happen: codes 30 to 39."""

from __future__ import annotations

from fedskd_sim.errors.base import FedskdError


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
