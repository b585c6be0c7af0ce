"""Texts of strangers on their way to the terminal: control characters are shown, never sent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fedskd_sim.cli import common, main

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b1m\u202egnp\r"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b1m\u202egnp\r"
CONTROLS = [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u202a\u202e\u2066\u2069\u200f"]
SKIN = """\
name: skin
data: {name: ham10000, file: made.npz}
hospitals:
  - {name: a, architecture: cnn-plain, data: {site: s0}}
  - {name: b, architecture: cnn-plain, data: {site: s1}}
algorithm: {name: fedskd}
"""


def invoke(*words: Any) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def test_nothing_but_text_lines_and_tabs_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every control character of Unicode's first two blocks, and those that turn text around, are
    escaped on standard output, on standard error and on the console of live views, which moves the
    terminal itself.
    """
    for name in ("stdout", "stderr"):
        stream = io.StringIO()
        monkeypatch.setattr(f"sys.{name}", stream)
        common.settle()
        print("".join(CONTROLS), file=getattr(common.sys, name))
        console = common.console(stderr=name == "stderr")
        console.print("".join(CONTROLS), markup=False)
        assert {one for one in stream.getvalue() if one in CONTROLS} == {"\n", "\t"}
        assert r"\x1b" in stream.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run that has ended well."""
    folder = tmp_path_factory.mktemp("run") / "run"
    done = invoke("launch", "placebo-ok", "--on", "memory", "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


def change(file: Path, change: Any) -> None:
    """Change the first line of a file that holds JSON."""
    first, *rest = file.read_text(encoding="utf-8").splitlines()
    whole = first.startswith("{") and first.endswith("}")
    known = json.loads(first if whole else "\n".join([first, *rest]))
    change(known)
    file.write_text("\n".join([json.dumps(known), *(rest if whole else [])]) + "\n")


@pytest.mark.parametrize("source", ["reason", "samples", "outcome", "scenario"])
def test_a_run_folder_reaches_the_terminal_escaped(source: str, run: Path) -> None:
    """A record's reason, the names of classes that were counted, how a run ended and keys of its
    scenario are a stranger's: ``report`` and ``status`` show what they hold and send none of it.
    """
    record = next(iter((run / "records").glob("*.jsonl")))
    kept = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    try:
        if source == "reason":
            change(record, lambda known: known.update(reason=EVIL, outcome="trained"))
        elif source == "samples":
            given: dict[str, Any] = {"host": "north", "source": EVIL, "left_out": {}}
            given["used"] = {"train": {EVIL: 3}, "validation": {}, "test": {}}
            line = json.dumps({**given, "found": {EVIL: 3}})
            (run / "samples" / "north.jsonl").write_text(line + "\n")
        elif source == "outcome":
            change(run / "outcome.json", lambda known: known.update(reason=EVIL, state="failed"))
        else:
            text = (run / "scenario.yaml").read_text(encoding="utf-8")
            (run / "scenario.yaml").write_text(text + f"{json.dumps(EVIL)}: 1\n")
        said = [invoke("report", run), invoke("status", run)]
    finally:
        for file, content in kept.items():
            file.write_bytes(content)
    told = "".join(one.output for one in said)
    assert not [one for one in told if one in CONTROLS and one not in "\n\t"]
    assert SHOWN[:12] in told, told


def test_names_of_classes_reach_the_terminal_escaped(tmp_path: Path) -> None:
    """An archive's ``label_names`` are shown by ``validate`` as they are escaped, whether it takes
    them or refuses them.
    """
    rows = np.arange(80)
    np.savez(
        tmp_path / "made.npz",
        image=np.random.default_rng(0).integers(0, 255, (80, 16, 16, 3)).astype(np.uint8),
        label=(rows % 2).astype(np.uint8), label_names=np.array(["plain", EVIL]),
        site=(rows >= 40).astype(np.uint8), site_names=np.array(["s0", "s1"]),
        fold=(rows // 4 % 5).astype(np.uint8), split_group=rows,
    )  # fmt: skip
    (tmp_path / "skin.yaml").write_text(SKIN, encoding="utf-8")
    told = invoke("validate", tmp_path / "skin.yaml", "--data", tmp_path).output
    assert not [one for one in told if one in CONTROLS and one not in "\n\t"]
    assert SHOWN[:12] in told.replace("\\\\", "\\"), told
