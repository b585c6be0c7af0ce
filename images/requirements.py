"""Print the requirements of an image, from pyproject.toml: what a launcher needs and a pod does not is left out."""

import re
import sys
import tomllib
from pathlib import Path

LEARNING = {"nibabel", "numpy", "pillow", "safetensors", "torch", "torchvision"}
LAUNCHER = {"jinja2", "matplotlib", "psutil", "rich", "scipy"}
LEFT_OUT = {"hospital": {*LAUNCHER, "kubernetes"}, "controller": {*LAUNCHER, *LEARNING}}

if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [line for line in project["dependencies"] if re.split(r"[<>=~!]", line)[0] not in LEFT_OUT[sys.argv[1]]]
    print("\n".join(wanted))
