"""The schema's complaints in words for people: which key of the file, what it holds, what to write
instead, also for keys and words that had another name before; nothing reads those.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from fedskd_sim.errors import FedskdError, InvalidValue, Key, UnknownKey
from fedskd_sim.scenario.circulation import AlgorithmKeys
from fedskd_sim.scenario.document import Document, escape_unseen, shorten
from fedskd_sim.scenario.elsewhere import whereabouts
from fedskd_sim.scenario.own import OWN, Asked, offered_names
from fedskd_sim.scenario.schema import PATTERNS, Scenario
from fedskd_sim.scenario.training import Training

KEYS: Mapping[str, str] = MappingProxyType(
    {
        "council": "ensemble",
        "class_offset": "logit_adjustment",
        "slow_weight": "averaging_weight",
        "lock": "self_distillation",
        "lock_kl": "self_distillation_kl",
        "receipt": "acknowledgement",
    }
)
VALUES: Mapping[str, str] = MappingProxyType({"slow": "averaged"})
MOVED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("behaviour", "culprit"),
        "write 'faults: [{hospital: ..., what: ...}]' at the top level, for every algorithm",
    )
)
"""What has another form now, in words."""


REQUIRED = ("name", "hospitals", "algorithm", "architecture", "hospital", "what")
NUMBER = r"[-+]?[0-9.]+(e[-+]?[0-9]+)?"
STRUCTURES = ("model_type", "dict_type", "model_attributes_type", "tuple_type", "list_type")
CHOICES = ("int", "float", "str", "bool")
LITERALS: Mapping[str, str] = MappingProxyType(
    {"int": r"-?\d+", "float": r"-?\d*\.?\d+(e-?\d+)?|\d+\.", "str": r"'.*'", "bool": "True|False"}
)
"""How values of these kinds are written."""
HOW = {
    "hospitals": "a list with one '- {name: ..., architecture: ...}' per hospital",
    "architecture": "a name that 'fedskd-sim models' lists, or {name: ..., options: {...}}",
    "options": "a mapping such as {width: 32}",
    "faults": "a list with one '- {hospital: ..., what: ...}' per fault",
    "links": "a list with one '- {from: ..., to: ..., delay: ...}' per rule",
    "between": "a list of two hospitals",
    "data": "a mapping such as {name: synthetic-skin}",
    "algorithm": "a mapping such as {name: fedskd}",
    "grid": "a mapping such as {training.epochs: [1, 2]}",
}
"""What to write at keys where an example says more than a type."""
ITEMS: Mapping[Key, str] = {
    "hospitals": "a hospital is a mapping such as {name: north, architecture: cnn-plain}",
    "faults": "a fault is a mapping such as {hospital: north, what: kill, round: 1, hop: 1}",
    "links": "a rule is a mapping such as {from: north, to: south, delay: 0.05}",
    "partition": "a time without a link is a mapping such as {begin: 30, lasts: 5}",
}
"""... and in lists."""
WANTED = {
    "int_type": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le:.15g} or less",
    "less_than": "less than {lt}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
}
"""What to give, by pydantic's type of error."""


YOURS: Mapping[Key, str] = MappingProxyType(
    {
        "data": "; what a reader of yours reads is {name: own, reader: ...}",
        "algorithm": "; one of your own comes with a file under code, or with a package",
    }
)
"""What may stand there besides what is built in."""


def translate(document: Document, error: ValidationError) -> list[FedskdError]:
    """Turn pydantic's errors into ours; what hospitals inherit is reported once, where it
    stands, and so is a misspelt key.
    """
    problems: list[Any] = list(error.errors(include_url=False))
    own = [problem for problem in problems if not _inherited(document, problem["loc"])]
    found = [_one(document, problem) for problem in own or problems]
    meant = {
        guess
        for error in found
        if isinstance(error, UnknownKey)
        for guess in _meant(error.key, document)
    }
    missing = {
        id(error)
        for error, problem in zip(found, own or problems, strict=True)
        if problem["type"] == "missing"
    }
    return [error for error in found if not (id(error) in missing and error.key in meant)]


def find_wrong_keys(form: type[AlgorithmKeys], one: Asked) -> Iterator[FedskdError]:
    """Find keys that the class of an algorithm does not have, or not with these values."""
    try:
        form.model_validate_json(json.dumps(dict(one.given)))
    except ValidationError as error:
        known = _names(form)
        for problem in error.errors(include_url=False):
            loc = problem["loc"]
            inside = loc[:-1] if loc[-1] in CHOICES else loc
            key, value, kind = (*one.key, *inside), problem["input"], problem["type"]
            if kind == "extra_forbidden":
                under = _written_under(Training, key[-1])
                fix = f"{_instead(str(key[-1]), known)}; known here: {', '.join(known)}"
                fix = f"write it under training: {{{under}}}" if under else fix
                yield UnknownKey(f"unknown key (value {_show(value)})", key=key, fix=fix)
            elif kind == "missing":
                yield InvalidValue("this key is missing", key=key, fix=f"add '{key[-1]}: ...' here")
            else:
                limits = problem.get("ctx", {})
                wanted = str(problem["msg"])
                wanted = f"give {WANTED[kind].format(**limits)}" if kind in WANTED else wanted
                if kind == "literal_error":
                    wanted = _suggest_choice(value, _find_quoted(limits["expected"]))
                yield InvalidValue(f"{_show(value)} cannot be used", key=key, fix=wanted)


def explain_class(error: BaseException, line: str) -> str:
    """Describe in our words what pydantic has against the class of keys that begins with a line of
    code; '' for any other error.
    """
    if getattr(error, "code", None) != "model-field-missing-annotation":
        return ""
    name = re.match(r"class (\w+)", line)
    written = re.search(r"`(\w+) = (.*?)`", str(error))
    if not written:
        return ""
    key, value = written.groups()
    kind = next((one for one in CHOICES if re.fullmatch(LITERALS[one], value)), "...")
    whose = f"{name[1]}.{key}" if name else key
    return f"{whose} has no type: write {key}: {kind} = {value}"


def nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    """Suggest the known name nearest to a mistyped one, or say something else when none is near.

    >>> nearest("epoch", ["epochs", "batch_size"], "remove it")
    "did you mean 'epochs'?"
    >>> nearest("colour", ["epochs", "batch_size"], "remove it")
    'remove it'

    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def _one(document: Document, problem: Any) -> FedskdError:
    key, value = _drop_members(document, problem["loc"]), problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            text, fix = f"unknown key (value {_show(value)})", _instead_of(key, document)
            return UnknownKey(text, key=key, fix=fix)
        case "missing":
            return _missing(key, document)
        case "union_tag_invalid":
            found = _find_quoted(problem["ctx"]["expected_tags"])
            choices = [one for one in found if one != OWN or key[-1] == "data"]
            choices += offered_names() if key[-1] == "algorithm" else []
            fix = _suggest_choice(value.get("name"), choices) + YOURS.get(key[-1], "")
            fix = (key[-1] == "algorithm" and whereabouts(value.get("name"))) or fix
            return InvalidValue(
                f"there is no {key[-1]} {_show(value.get('name'))}", key=(*key, "name"), fix=fix
            )
        case "union_tag_not_found" if not isinstance(value, dict):
            shown = "null (nothing)" if value is None else _show(value)
            fix = _structure(value, key, document)
            return InvalidValue(f"{shown} cannot be used", key=key, fix=fix)
        case "union_tag_not_found":
            return InvalidValue(
                "it does not say which one",
                key=key,
                fix=f"add 'name: ...' here{_how(key[-1], ': it is ')}",
            )
        case kind:
            text = (
                "null (nothing) cannot be used"
                if value is None
                else f"{_show(value)} cannot be used"
            )
            optional = value is None and isinstance(key[-1], str) and key[-1] not in REQUIRED
            fix = _fix(kind, problem, key, document) + (", or remove the key" if optional else "")
            return InvalidValue(text, key=key, fix=fix)


def _missing(key: tuple[Key, ...], document: Document) -> FedskdError:
    """Make the error of a mapping that lacks a key, or of a list that lacks an item."""
    if isinstance(key[-1], int):
        text = f"{_show(_at(document.data, key[:-1]))} is too short"
        return InvalidValue(text, key=key[:-1], fix="add what is missing to the list")
    fix = f"add '{key[-1]}: ...' here{_how(key[-1], ', ')}"
    return InvalidValue("this key is missing", key=key, fix=fix)


def _instead_of(key: tuple[Key, ...], document: Document) -> str:
    """Suggest what to write in place of an unknown key: its new name, the nearest one, or where it
    belongs.
    """
    if key[:1] == ("algorithm",) and (under := _written_under(Training, key[-1])):
        return f"write it under training: {{{under}}}, which is the same for every algorithm"
    part = _part(key[:-1], document)
    known = _names(part)
    inner = _written_under(part, key[-1], _at(document.data, key[:-1])) if part else ""
    fix = f"it stands under {inner}" if "{" in inner else _instead(str(key[-1]), known)
    fix += f"; known here: {', '.join(known)}" if known else ""
    if key[-2:-1] == ("architecture",):
        fix += f"; an option of the architecture stands under options: {{{key[-1]}: ...}}"
    return fix


def _instead(name: str, known: Sequence[str]) -> str:
    """Suggest what to write for an unknown key: its new name or form, or one that is near."""
    now = KEYS.get(name)
    if now in known:
        return f"it is called {now} now"
    return MOVED.get(name) or nearest(name, known, "remove it")


def _fix(kind: str, problem: Any, key: tuple[Key, ...], document: Document) -> str:
    """Suggest what to write instead of a value of the wrong type or out of range."""
    value, limits = problem["input"], problem.get("ctx", {})
    if key[-1:] == ("taps",):
        return "give two modules, the middle and the deep one"
    if problem["loc"][-1] in CHOICES and problem["loc"] != key:
        return "give a number, a word, true or false"
    if kind == "literal_error":
        return _suggest_choice(value, _find_quoted(limits["expected"]))
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(limits["pattern"], str(problem["msg"]))
    if kind in STRUCTURES or (kind == "too_short" and isinstance(value, dict)):
        return _structure(value, key, document)
    wanted = "give " + WANTED[kind].format(**limits) if kind in WANTED else str(problem["msg"])
    if (
        kind in ("int_type", "float_type")
        and re.fullmatch(NUMBER, str(value))
        and isinstance(value, str)
    ):
        wanted += ": remove the quotes"
    elif kind == "int_type" and isinstance(value, float) and value.is_integer():
        wanted += f": write {value:.0f}"
    elif kind == "string_type" and isinstance(value, int | float):
        wanted += _quoted(value, key, document)
    return wanted


def _quoted(value: float, key: tuple[Key, ...], document: Document) -> str:
    """Suggest how a number becomes a text: it may read otherwise than it is written, as 007 and 1e3
    do.
    """
    line = document.locate(key).line
    written = document.text.splitlines()[line - 1] if line else ""
    for word in re.findall(r"[\w.+-]+", written):
        if re.fullmatch(NUMBER, word, re.IGNORECASE) and float(word) == value:
            return f': put it in quotes, "{word}"'
    return ": put it in quotes, as it is written there"


def _structure(value: Any, key: tuple[Key, ...], document: Document) -> str:
    """Describe what a list or a mapping must look like at a key."""
    last = key[-1] if key else ""
    if isinstance(value, str) and last in ("data", "algorithm"):
        return f"write '{last}: {{name: {value}}}'"
    if isinstance(last, int):
        within = [one for one in key if one in ITEMS]
        return ITEMS[within[-1]] if within else ITEMS["hospitals"]
    if last == "partition" and "links" in key:
        return "give a list with one '- {begin: ..., lasts: ...}' per time without a link"
    if key[:1] == ("grid",) and len(key) > 1:
        return "give a list of the values to try, as in [1, 2]"
    if last in HOW:
        return f"give {HOW[last]}"
    return f"give a mapping of some of these keys: {', '.join(_fields(key, document))}"


def _show(value: Any) -> str:
    """Show a value nearly as it stands in the file, but short."""
    text = escape_unseen(json.dumps(value, ensure_ascii=False))
    return {"NaN": ".nan", "Infinity": ".inf", "-Infinity": "-.inf"}.get(text, shorten(text))


def _how(key: Key, between: str) -> str:
    return f"{between}{HOW[str(key)]}" if key in HOW else ""


def _find_quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _suggest_choice(value: Any, known: Sequence[str]) -> str:
    """Suggest the nearest of a few words, or the one that a word has become, and list them all."""
    if isinstance(value, str) and VALUES.get(value) in known:
        return f"it is called {VALUES[value]} now; choose one of {', '.join(known)}"
    return (
        nearest(value, known, "") + " " if isinstance(value, str) else ""
    ).lstrip() + f"choose one of {', '.join(known)}"


def _inherited(document: Document, loc: tuple[Key, ...]) -> bool:
    """Return whether a problem of a hospital's data stands in the top level's data, where it is
    reported already.
    """
    match loc:
        case ("hospitals", int(index), "data", _, *rest) if rest:
            return ("hospitals", index, "data", *rest) not in document.lines and (
                "data",
                rest[0],
            ) in document.lines
        case ("hospitals", int(index), "data"):
            own = document.data["hospitals"][index].get("data", {})
            return isinstance(own, dict) and "name" not in own and "data" in document.data
    return False


def _drop_members(document: Document, loc: tuple[Key, ...]) -> tuple[Key, ...]:
    """Drop the names of union members, which pydantic puts into locations and which are not in
    the file.
    """
    key: tuple[Key, ...] = ()
    for index, part in enumerate(loc):
        member = part in CHOICES and (*key, part) not in document.lines
        if (*key, part) in document.lines or (index == len(loc) - 1 and not member):
            key = (*key, part)
    return key


def _fields(path: tuple[Key, ...], document: Document) -> list[str]:
    """List the keys the schema knows inside the mapping at a path of the file."""
    return _names(_part(path, document))


def _part(path: tuple[Key, ...], document: Document) -> type[BaseModel] | None:
    """Find the class of the mapping at a path of the file, if it has one."""
    part: Any = Scenario
    data = document.data
    for step in path:
        data = _inside(data, step)
        if isinstance(step, str) and isinstance(part, type) and issubclass(part, BaseModel):
            fields = {field.alias or name: field for name, field in part.model_fields.items()}
            part = (
                _choose(fields[step].annotation, _name(data, document)) if step in fields else None
            )
    return part if isinstance(part, type) and issubclass(part, BaseModel) else None


def _names(part: type[BaseModel] | None) -> list[str]:
    return [field.alias or name for name, field in part.model_fields.items()] if part else []


def _written_under(part: type[BaseModel], key: Key, data: Any = None) -> str:
    """Write a key as it stands in a part, or in one of the parts that this has; ``data`` tells of
    which kinds these are.
    """
    if key in part.model_fields:
        return f"{key}: ..."
    for name, field in part.model_fields.items():
        within = _inside(data, name)
        inner = _choose(field.annotation, _inside(within, "name"))
        if inner and (found := _written_under(inner, key, within)):
            return f"{name}: {{{found}}}"
    return ""


def _meant(key: tuple[Key, ...], document: Document) -> list[tuple[Key, ...]]:
    """Guess which key an unknown one stands for, so that it is not reported as missing as well."""
    near = difflib.get_close_matches(str(key[-1]), _fields(key[:-1], document), n=1)
    return [(*key[:-1], name) for name in near]


def _at(data: Any, path: Iterable[Key]) -> Any:
    for step in path:
        data = _inside(data, step)
    return data


def _inside(data: Any, step: Key) -> Any:
    try:
        return data[step]
    except (KeyError, IndexError, TypeError):
        return None


def _name(data: Any, document: Document) -> Any:
    """Return the ``name`` that tells which kind a mapping is; a hospital's data inherits it."""
    shared = document.data.get("data")
    inherited = shared.get("name") if isinstance(shared, dict) else None
    return data.get("name", inherited) if isinstance(data, dict) else None


def _choose(annotation: Any, name: Any) -> Any:
    """Pick the schema class behind an annotation: the class itself, a tuple's item, or the union
    member called ``name``.
    """
    members = [getattr(one, "__origin__", one) for one in getattr(annotation, "__args__", ())]
    members.append(annotation)
    classes = [
        member for member in members if isinstance(member, type) and issubclass(member, BaseModel)
    ]
    for candidate in classes:
        field = candidate.model_fields.get("name")
        if len(classes) == 1 or (field and name in getattr(field.annotation, "__args__", ())):
            return candidate
    return None
