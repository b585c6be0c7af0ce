"""What to do about an error in a hospital's pod: it has no command line at which a folder could be
given, and a package is installed by building it into an image.
"""

from __future__ import annotations

from pathlib import Path

from fedskd_sim.errors import (
    DataMissing,
    FedskdError,
    LibraryMissing,
    UnknownArchitecture,
    UnknownReader,
)

PACKAGES = (UnknownArchitecture, UnknownReader, LibraryMissing)


def tell_of_pod(error: FedskdError, hospital: str, data: Path | None) -> None:
    """Add to an error's fix what is to be done for a hospital's pod, which has its data in a
    folder, or none.
    """
    if isinstance(error, PACKAGES):
        error.fix += (
            f"; in a cluster it has to be in the image of {hospital!r}, which images.hospital of "
            "the chart's values names, or a patch of its pod"
        )
    elif isinstance(error, DataMissing):
        keys = f"hospitals.defaults.data, or hospitals.overrides.{hospital}.data"
        error.fix = (
            f"say in the chart's values where the data of {hospital!r} are: {keys}"
            if data is None
            else f"put it where the chart's values have the data of {hospital!r} ({keys}), which "
            f"are {data} in its pod"
        )
