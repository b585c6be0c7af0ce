"""Every error a user can meet, and its exit code.

FedskdError                         exit code
+-- ScenarioError
|   +-- ScenarioSyntaxError         10  not YAML, doubled key, tab, looping anchor, unreadable
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
|   +-- ArchitecturesDiffer         23  averaging asks for one architecture
|   +-- UnknownReader               24  no such reader of data
|   `-- ReaderFailed                25  a reader of one's own failed, or gave what is no data
+-- PlaceError
|   +-- PortInUse                   30  an address is taken
|   +-- OutputNotWritable           31  the run folder cannot be written
|   +-- OutputNotEmpty              32  the run folder holds something already
|   +-- SocketPathTooLong           33  the folder for Unix sockets has too long a path
|   +-- RunUnreadable               34  not a run folder, or its records are damaged
|   +-- DeviceUnavailable           35  the scenario asks for a device that is not here
|   +-- ClusterUnavailable          36  no way to the cluster, or to the namespace
|   +-- ChartNotInstallable         37  helm is missing, or refused the chart
|   +-- PodCannotStart              38  a pod that will never run: image, security, no fitting node
|   `-- RunExists                   39  a run of that name is in the namespace
+-- RunError
|   +-- HopTimeout                  40  a visitor did not come in time
|   +-- HospitalCrashed             41  a hospital's or the controller's process died
|   +-- RunAborted                  42  another hospital failed, so this one stopped
|   +-- NonFiniteLoss               43  too many sessions in a row had to be rolled back
|   +-- RegistrationTimeout         44  hospitals or the controller did not appear
|   +-- AcknowledgementTimeout      45  the next hospital never confirmed a hop
|   +-- ForkServerDied              46  the process that starts hospitals died
|   |-- CanaryFailed                47  a short run says that the whole one would not end well
|   |-- HospitalLost                48  a hospital gave no sign of life for too long
|   `-- LeftBehind                  49  the run goes on without this hospital
+-- WireError
|   +-- BadMessage                  50  a message that breaks the wire schema
|   `-- DigestMismatch              51  weights that changed on the way
+-- ChainBroken                     60  what a run has left does not fit together
+-- CustodyForeign                  61  what was kept is not of this run, program or data
+-- LibraryMissing                  62  a library that is optional is not installed
+-- CodeDiffers                     63  hospitals compute with different code
+-- BudgetSpent                     64  a private hospital has spent its privacy
`-- BoundExceeded                   65  an audit refutes what a hospital claims of its privacy

0 is success, 1 a bug, 2 wrong use of the command line, 130 an interrupt. Numbers are never reused.
"""

from __future__ import annotations

from fedskd_sim.errors.base import (
    FedskdError,
    Key,
    Where,
)
from fedskd_sim.errors.run import (
    AcknowledgementTimeout,
    BadMessage,
    BoundExceeded,
    BudgetSpent,
    CanaryFailed,
    ChainBroken,
    ChartNotInstallable,
    ClusterUnavailable,
    CodeDiffers,
    CustodyForeign,
    DeviceUnavailable,
    DigestMismatch,
    ForkServerDied,
    HopTimeout,
    HospitalCrashed,
    HospitalLost,
    LeftBehind,
    LibraryMissing,
    NonFiniteLoss,
    OutputNotEmpty,
    OutputNotWritable,
    PlaceError,
    PodCannotStart,
    PortInUse,
    RegistrationTimeout,
    RunAborted,
    RunError,
    RunExists,
    RunUnreadable,
    SocketPathTooLong,
    WireError,
    extras_named,
)
from fedskd_sim.errors.scenario import (
    ArchitecturesDiffer,
    DataCorrupt,
    DataMissing,
    DuplicateHospital,
    ImageTooSmall,
    InvalidValue,
    LabelSpacesDiffer,
    NoTrainingSamples,
    OneClassOnly,
    ReaderFailed,
    RegionGridTooLarge,
    ScenarioError,
    ScenarioSyntaxError,
    TooFewHospitals,
    UnknownArchitecture,
    UnknownKey,
    UnknownReader,
)

__all__ = [
    "AcknowledgementTimeout",
    "ArchitecturesDiffer",
    "BadMessage",
    "BoundExceeded",
    "BudgetSpent",
    "CanaryFailed",
    "ChainBroken",
    "ChartNotInstallable",
    "ClusterUnavailable",
    "CodeDiffers",
    "CustodyForeign",
    "DataCorrupt",
    "DataMissing",
    "DeviceUnavailable",
    "DigestMismatch",
    "DuplicateHospital",
    "FedskdError",
    "ForkServerDied",
    "HopTimeout",
    "HospitalCrashed",
    "HospitalLost",
    "ImageTooSmall",
    "InvalidValue",
    "Key",
    "LabelSpacesDiffer",
    "LeftBehind",
    "LibraryMissing",
    "NoTrainingSamples",
    "NonFiniteLoss",
    "OneClassOnly",
    "OutputNotEmpty",
    "OutputNotWritable",
    "PlaceError",
    "PodCannotStart",
    "PortInUse",
    "ReaderFailed",
    "RegionGridTooLarge",
    "RegistrationTimeout",
    "RunAborted",
    "RunError",
    "RunExists",
    "RunUnreadable",
    "ScenarioError",
    "ScenarioSyntaxError",
    "SocketPathTooLong",
    "TooFewHospitals",
    "UnknownArchitecture",
    "UnknownKey",
    "UnknownReader",
    "Where",
    "WireError",
    "extras_named",
]
