"""The scenarios that come with the program, each found by its name, and new ones made from them."""

from __future__ import annotations

import re
from pathlib import Path

from fedskd_sim.errors import (
    InvalidValue,
    OutputNotEmpty,
    OutputNotWritable,
    ScenarioSyntaxError,
    Where,
)
from fedskd_sim.found import scenarios
from fedskd_sim.scenario.document import read
from fedskd_sim.scenario.explain import nearest
from fedskd_sim.scenario.own import OwnCode, read_code
from fedskd_sim.scenario.schema import NAME, PATTERNS

OWN_NAME = re.compile(r"^name: .*$", re.MULTILINE)
OWN_HEADER = re.compile(r"\A# A scenario of your own, made from .*\n(?:#   fedskd-sim .*\n)*")
HEADER = """\
# A scenario of your own, made from '{source}'. What next:
#   fedskd-sim validate {name}.yaml     every problem with its fix, and what is read of the data
#   fedskd-sim launch {name}.yaml       run it; --on memory runs all hospitals in one process
#   fedskd-sim models                 the architectures that hospitals may have, with their options
#   fedskd-sim validate --schema      every key with its meaning and default, for your editor
"""


def find(given: Path) -> Path:
    """Return the file that a person means: their own, or where there is none of that name, one that
    comes with the program.

    Raises:
        ScenarioSyntaxError: a bare name, such as ``quickstart``, that is neither.

    """
    bare = given.name == str(given) and not given.suffix
    there = given.is_file() or (given.is_dir() and given.name not in scenarios())
    return given if not bare or there else path_of(str(given))


def path_of(name: str) -> Path:
    """Return the file of a scenario that comes with the program.

    Raises:
        ScenarioSyntaxError: there is none of that name; the error lists those that there are.

    """
    known = scenarios()
    if name not in known:
        own = Path(f"{name}.yaml")
        near = (
            f"write '{own}', which lies here; or give a name"
            if own.is_file()
            else nearest(name, [*known], "give the path of a YAML file, or a name")
        )
        text = "there is no such file, and no scenario of that name comes with the program"
        raise ScenarioSyntaxError(
            text, fix=f"{near} (there are: {', '.join(sorted(known))})", where=Where(name)
        )
    return known[name]


def begin(name: str, source: str, folder: Path = Path()) -> Path:
    """Write ``NAME.yaml`` with the text of another scenario, under its own name, and the code that
    this brings along.

    Args:
        name: of the new scenario.
        source: the scenario to begin with: the name of one that comes with the program, or a file.
        folder: where to put it.

    Raises:
        InvalidValue: the name is none for a scenario.
        ScenarioSyntaxError: ``source`` is neither, or cannot be read as text.
        OutputNotEmpty: the file is there already.
        OutputNotWritable: it cannot be written.

    """
    if not re.fullmatch(NAME, name):
        raise InvalidValue(
            f"{name!r} is no name for a scenario", fix=f"{PATTERNS[NAME]}; '.yaml' is added"
        )
    text, code = _with_name(find(Path(source)), name), _code_of(find(Path(source)))
    file = folder / f"{name}.yaml"
    for there, data in code.files.items() if code else ():
        if (folder / there).exists() and (folder / there).read_bytes() != data:
            fix = "go to another folder, or remove it"
            raise OutputNotEmpty(f"{folder / there} is there already, and another", fix=fix)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(HEADER.format(name=name, source=source) + text)
        if code:
            code.write(folder)
    except FileExistsError as error:
        raise OutputNotEmpty(
            f"{file} is there already", fix="choose another name, or remove it"
        ) from error
    except OSError as error:
        fix = "go to a folder that you may write to"
        raise OutputNotWritable(f"{file} cannot be written: {error.strerror}", fix=fix) from error
    return file


def _code_of(file: Path) -> OwnCode | None:
    """Read what a scenario brings along; None for one that is in no state to say."""
    try:
        entries = read(file).data.get("code", [])
    except ScenarioSyntaxError:
        return None
    return read_code(file.parent, entries) if isinstance(entries, list) else None


def _with_name(file: Path, name: str) -> str:
    """Read a scenario and give its text under another name, without what `begin` has written over
    it.
    """
    fix = "give --from a scenario's file, or the name of one that comes with the program"
    try:
        text = OWN_HEADER.sub("", file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioSyntaxError(
            f"it cannot be read: {error}", fix=fix, where=Where(str(file))
        ) from error
    text, found = OWN_NAME.subn(f"name: {name}", text, count=1)
    if not found:
        raise ScenarioSyntaxError("it has no line 'name: ...'", fix=fix, where=Where(str(file)))
    return text
