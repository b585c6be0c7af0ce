"""README, manual and messages are plain English, as `tests/prose.py` measures it."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest

PROSE = run_path(str(Path(__file__).parents[2] / "prose.py"))
LONG = " ".join(["word"] * 31)


def test_texts_are_plain() -> None:
    """No sentence is longer than 30 words, beside those that were left, and no word is private."""
    assert PROSE["main"]([]) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"A {LONG}.", 1),
        (f"```text\n{LONG}\n```\n", 0),
        (f"`{LONG}` is code.", 0),
        (f"{LONG[:99]}. Word {LONG[100:]}", 0),
        (f"| a | {LONG} |\n|---|---|\n| b | c |", 1),
        (f"- {LONG}\n- short", 1),
        (f"[{LONG}](page.md)", 1),
    ],
)
def test_long_sentences_are_found_on_pages(text: str, found: int, tmp_path: Path) -> None:
    """Paragraphs, lists, tables and links count; code does not."""
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert len(PROSE["long_sentences"](page)) == found


def test_messages_are_read_and_docstrings_are_not(tmp_path: Path) -> None:
    """A message within a function is checked, with what stands around its values; the help of a
    command is checked, and other docstrings are not.
    """
    module = tmp_path / "module.py"
    module.write_text(
        f'"""{LONG}"""\nraise Wrong(f"this {{name}} is a good scenario")\n'
        f'def other():\n    """{LONG}"""\n'
        f'@main.command()\ndef verb():\n    """{LONG}"""\n',
        encoding="utf-8",
    )
    assert PROSE["long_sentences"](module) == [LONG]
    assert PROSE["private_words"](module) == ["'good scenario': write 'valid'"]
