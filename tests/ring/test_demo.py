"""The first command of the README, and what it is said to print."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def form(text: str) -> list[str]:
    """Give the lines of a text with every run of digits and of spaces made alike: numbers are
    those of one type of CPU.
    """
    return [re.sub(r" +", " ", re.sub(r"\d+", "0", line)).strip() for line in text.splitlines()]


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path, cli: Callable) -> None:
    """The command behind `make demo` ends well and prints every line that the README shows of
    it, in any numbers.
    """
    recipe = re.search(
        r"^demo:.*\n\t\$\(BIN\)/fedskd-sim (.+)$",
        (ROOT / "Makefile").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    told = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition("$ make demo\n")[2]
        .partition("```")[0]
    )
    assert recipe
    command = [
        ROOT / word if word.startswith("scenarios/") else word for word in recipe.group(1).split()
    ]
    done = cli(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = {*form(done.stdout)}
    lines = [line for line in form(told) if line != "..."]
    assert len(lines) > 2
    assert not [line for line in lines if line not in printed]
