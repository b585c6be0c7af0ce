"""Names that may be one or two: whoever wrote them knows, so they are an error that names both."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from fedskd_sim.errors import DataCorrupt

FIX = "write one name in one way, and two so that they differ"


def normal_form(name: str) -> str:
    """Write a name as it is apart from capital letters, blanks and the coding of accents."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def check_once(source: object, table: Sequence[Mapping[str, str]], *columns: str) -> None:
    """Refuse a value that stands twice in one of the columns, in whatever letters; raises
    DataCorrupt, naming both.
    """
    _check(source, table, columns, once=True)


def check_spelling(source: object, table: Sequence[Mapping[str, str]], *columns: str) -> None:
    """Refuse values that differ in letters only, as `normal_form` tells; raises DataCorrupt, naming
    both.
    """
    _check(source, table, columns, once=False)


def problem(source: object, what: str, values: Sequence[str], *, once: bool) -> str:
    """Say which two values are one, in different letters or, if each may stand there once only,
    in the same; else empty.
    """
    first: dict[str, int] = {}
    for number, value in enumerate(values):
        before = first.setdefault(normal_form(value), number)
        if before != number and (once or values[before] != value):
            how = "stands there twice" if values[before] == value else "is written in two ways"
            both = f"{values[before]!r} in row {before + 1} and {value!r} in row {number + 1}"
            return f"{source}: {'an' if what[0] in 'aeiou' else 'a'} {what} {how}: {both}"
    return ""


def _check(
    source: object, table: Sequence[Mapping[str, str]], columns: Sequence[str], *, once: bool
) -> None:
    for column in columns:
        if wrong := problem(source, column, [row[column] for row in table], once=once):
            raise DataCorrupt(wrong, fix=FIX, key=("data", "file"))
