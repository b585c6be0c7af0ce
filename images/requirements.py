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


def name(requirement: str) -> str:
    """Give the library that a requirement asks for."""
    return re.split(r"[<>=~!\[]", requirement)[0]


WANTED = {
    "controller": EXTRAS["cluster"],
    "hospital": [
        line for line in EXTRAS["cluster"] + EXTRAS["learning"] if name(line) != "kubernetes"
    ],
}
LEFT_OUT = {
    image: {name(line) for line in PROJECT["dependencies"]} - {name(line) for line in lines}
    for image, lines in WANTED.items()
}

if __name__ == "__main__":
    print("\n".join(WANTED[sys.argv[1]]))
