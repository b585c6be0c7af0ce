"""Print the requirements of an image, from pyproject.toml: what a launcher needs and a pod does
not is left out. With ``locked`` as second word they are those versions, by their hashes, that the
lock for this Python has, with all that they need themselves.
"""

import platform
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


def locked(wanted: list[str], lock: str) -> str:
    """Return the part of a lock that requirements need: it says of each version who asks for it.

    Raises KeyError with the library that the lock lacks.
    """
    parts = {name(part): part for part in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]}
    asked = {one: re.findall(r"^ +#(?: via)? +(\S+)", parts[one], re.MULTILINE) for one in parts}
    found, new = {}, {name(line) for line in wanted}
    while new:
        found |= {one: parts[one] for one in new}
        new = {one for one in parts if one not in found and found.keys() & {*asked[one]}}
    return "".join(found[one] for one in sorted(found))


def lock_here() -> Path:
    """Return the place of the lock for this Python."""
    version = ".".join(platform.python_version_tuple()[:2])
    return PLACE / "locks" / f"python{version}-linux-{platform.machine()}.txt"


if __name__ == "__main__":
    chosen = WANTED[sys.argv[1]]
    if "locked" in sys.argv[2:]:
        print(locked(chosen, lock_here().read_text(encoding="utf-8")), end="")
    else:
        print("\n".join(chosen))
