"""What the Kubernetes client's own models refuse in an object: the one place that knows that they
are pydantic's from version 37 on and plain classes before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes
from kubernetes.client import models

ModelProblem = Mapping[str, Any]
"""As pydantic lists it: ``loc``, the place in the object, and ``msg``, what is wrong there."""
LIST, MAPPING = re.compile(r"list\[(.+)\]"), re.compile(r"dict\(str, (.+)\)")
PLAIN: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a valid string"),
    "int": ((int,), "a valid integer"),
    "float": ((int, float), "a valid number"),
    "bool": ((bool,), "a valid boolean"),
}


def problems_of(name: str, body: Any) -> list[ModelProblem]:
    """List what is wrong with an object, in the words of pydantic.

    Args:
        name: the model, such as ``V1Job``.
        body: the object as it is written in JSON.

    Returns:
        An empty list if the client knows every field and accepts every value. Clients before 37
        tell unknown fields and wrong types, which a server would drop or misread; what is missing
        or out of range they leave to the server, which refuses it.

    """
    model = getattr(models, name)
    if not hasattr(model, "model_fields"):
        return [*_walk(name, body, ())]
    try:
        model.model_validate(body)
    except ValueError as error:  # pydantic's, which this module need not know
        listed: Any = error
        return [*listed.errors()]
    return []


def _walk(kind: str, value: Any, place: tuple[str | int, ...]) -> Iterator[ModelProblem]:
    """Compare a value with the type that a model of an older client names for it."""
    if found := LIST.fullmatch(kind):
        yield from _entries(found[1], value, list, "a valid list", place)
    elif found := MAPPING.fullmatch(kind):
        yield from _entries(found[1], value, dict, "a valid dictionary", place)
    elif kind in PLAIN:
        types, words = PLAIN[kind]
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
            yield {"loc": place, "msg": f"Input should be {words}"}
    elif model := getattr(models, kind, None):  # what has no model may be anything
        yield from _fields(model, value, place)


def _entries(
    kind: str, value: Any, type_: type, words: str, place: tuple[str | int, ...]
) -> Iterator[ModelProblem]:
    if not isinstance(value, type_):
        yield {"loc": place, "msg": f"Input should be {words}"}
        return
    held: Any = value
    for key, entry in enumerate(held) if type_ is list else held.items():
        yield from _walk(kind, entry, (*place, key))


def _fields(model: Any, value: Any, place: tuple[str | int, ...]) -> Iterator[ModelProblem]:
    if not isinstance(value, Mapping):
        yield {"loc": place, "msg": "Input should be a valid dictionary"}
        return
    types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    for key, entry in value.items():
        if key not in types:
            text = f"kubernetes {kubernetes.__version__}, the client that is installed, knows no "
            yield {"loc": (*place, key), "msg": f"{text}such field; a newer one may"}
        elif entry is not None:
            yield from _walk(types[key], entry, (*place, key))
