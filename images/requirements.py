"""Print the requirements of an image, from pyproject.toml: what a launcher needs and a pod does
not is left out.
"""

import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = next(folder for folder in (HERE, HERE.parent) if (folder / "pyproject.toml").is_file())
"""The project's folder: an image's build puts this file beside pyproject.toml."""
PROJECT = tomllib.loads((PLACE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
AT_THE_USERS = {"jinja2", "matplotlib", "psutil", "rich", "scipy"}
"""What commands take that a person gives: reports, tables on a terminal, processes of a machine."""
WITHOUT_WEIGHTS = {"numpy", "safetensors"}
"""What a controller, and a hospital of a placebo, never opens."""


def name(requirement: str) -> str:
    """Give the library that a requirement asks for."""
    return re.split(r"[<>=~!\[]", requirement)[0]


LEFT_OUT = {"controller": AT_THE_USERS | WITHOUT_WEIGHTS, "hospital": AT_THE_USERS}
ADDED = {"controller": EXTRAS["cluster"], "hospital": EXTRAS["learning"]}
WANTED = {
    image: [line for line in PROJECT["dependencies"] if name(line) not in LEFT_OUT[image]] + added
    for image, added in ADDED.items()
}

if __name__ == "__main__":
    print("\n".join(WANTED[sys.argv[1]]))
