"""What people give by name, and shells complete: scenarios that come with the program, and run
folders. Finding them imports nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def scenarios() -> Mapping[str, Path]:
    """Find what comes with the program, by name: in the package where it is installed, in the
    project where it is developed.
    """
    folders = (PACKAGE / "scenarios", PACKAGE.parent / "scenarios")
    return {file.stem: file for folder in folders[::-1] for file in sorted(folder.glob("*.yaml"))}


def run_folders() -> list[Path]:
    """List the run folders here and in ``runs``."""
    here = Path()
    return sorted(
        file.parent for pattern in ("*", "runs/*") for file in here.glob(f"{pattern}/scenario.yaml")
    )
