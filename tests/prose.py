"""Checks the English of README, manual and messages: `make lint` runs it.

A sentence has at most 30 words, and no text has a word of `PRIVATE`. `python tests/prose.py
--figures` prints words and lengths of sentences.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted((ROOT / "fedskd_sim").rglob("*.py"))
LONGEST = 30
PRIVATE = {
    "links of digests": "transfers intact",
    "digest that no record tells": "transfers that could not be checked",
    "good scenario": "valid",
    "take it that": "assume that",
    "are what they are called": "(leave it out)",
    "of which nothing runs any more": "interrupted",
    "for who has": "for users who have",
    "refused in words": "refused with an error",
    "All else": "anything else",
    "was not at hand": "was not available",
}
"""Patterns of this project's private diction, and what to write in their place."""


def paragraphs(markdown: str) -> Iterator[str]:
    """Yield the texts of a page: paragraphs, items of lists and cells of tables, without code."""
    text = re.sub(r"^( *)```.*?^\1```", "\n", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]+`", "CODE", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^ *(?:[-*>] |\d+\. |#+ )", "\n", text, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n", text):
        if block.lstrip().startswith("|"):
            yield from (cell.strip() for row in block.splitlines() for cell in row.split("|"))
        else:
            yield block


def sentences(text: str) -> Iterator[str]:
    """Split a paragraph after full stops, question marks and exclamation marks."""
    for one in re.split(r"(?<=[.!?])[)\"*_]*\s+(?=[\"(*_]*[A-Z0-9])", " ".join(text.split())):
        if re.search(r"\w", one):
            yield one


def words(sentence: str) -> int:
    """Count what is written between blanks and has a letter or a digit."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def messages(source: str) -> Iterator[str]:
    """Yield the strings of a module that a user may read: all but docstrings, commands' help
    excepted; a value within an f-string counts as one word.
    """
    tree = ast.parse(source)
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            apart.update(map(id, node.values))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            ".command" in ast.unparse(one) for one in node.decorator_list
        ):
            yield from (ast.get_docstring(node) or "").split("\n\n")
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "VALUE"
                for part in node.values
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in apart
            and " " in node.value
        ):
            yield from re.split(r"\n\n|\n#", node.value)


def texts(path: Path) -> list[str]:
    """List the texts of a page or a module."""
    read = path.read_text(encoding="utf-8")
    return list(messages(read) if path.suffix == ".py" else paragraphs(read))


def long_sentences(path: Path) -> list[str]:
    """List the sentences of a file that have more than 30 words."""
    return [one for text in texts(path) for one in sentences(text) if words(one) > LONGEST]


def private_words(path: Path) -> list[str]:
    """List the private words of a file, each with what to write."""
    return [
        f"{found[0]!r}: write {better!r}"
        for text in texts(path)
        for pattern, better in PRIVATE.items()
        if (found := re.search(pattern, " ".join(text.split())))
    ]


def faults(path: Path) -> list[str]:
    """List what is wrong with a file."""
    long = (f"{words(one)} words: {one[:110]}" for one in long_sentences(path))
    return [f"{path.name}: {one}" for one in (*private_words(path), *long)]


def figures(paths: list[Path]) -> str:
    """Say how many words files have, and how long their sentences are."""
    lengths = [words(one) for path in paths for text in texts(path) for one in sentences(text)]
    over = sum(length > LONGEST for length in lengths)
    return (
        f"{sum(lengths)} words, {len(lengths)} sentences: median {median(lengths):g}, "
        f"longest {max(lengths)}, over {LONGEST}: {over}"
    )


def main(arguments: list[str]) -> int:
    """Print what is wrong; return 1 if anything is."""
    if "--figures" in arguments:
        for path in PAGES:
            print(f"{path.name}: {figures([path])}")
        print(f"all pages: {figures(PAGES)}\nmessages: {figures(MODULES)}")
        return 0
    wrong = [one for path in [*PAGES, *MODULES] for one in faults(path)]
    print("\n".join(wrong), file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
