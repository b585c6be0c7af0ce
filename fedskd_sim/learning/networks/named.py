"""Networks as they are: a class of networks of an installed package, which a scenario names as
``package.module:Class``.

Its options are the arguments of the class. A module is found through the installed package that
has it and nowhere else: neither in the working directory nor among Python's own modules, and what
is named is called only if it is a class of networks.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from torch import nn

from fedskd_sim.errors import FedskdError, InvalidValue, Key, UnknownArchitecture
from fedskd_sim.learning.installed import STRANGE, let_signals
from fedskd_sim.learning.networks.shapes import ImageShape
from fedskd_sim.scenario import Architecture, nearest

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
PLACEHOLDERS = ("$channels", "$classes", "$size")
OWN_FUNCTION = "write a function that builds the network, and offer it in `code:` or a package"
NO_OBJECTS = f"where an option has to be a class or another object of Python, {OWN_FUNCTION}"
COUNTS = ("num_classes", "n_classes", "classes", "out_channels", "num_labels")
"""What packages call the number of classes."""
KEY: tuple[Key, ...] = ("name",)


def find(name: str) -> type[nn.Module]:
    """Import the class of networks that a scenario names.

    Raises:
        UnknownArchitecture: no installed package has it.
        InvalidValue: the name has another form, its module cannot be imported, or it is no class
            of networks.

    """
    if not FORM.fullmatch(name):
        fix = "write it as package.module:Class, as in torchvision.models:DenseNet"
        raise InvalidValue(f"{name!r} names no class of a package", key=KEY, fix=fix)
    place, _, wanted = name.partition(":")
    _require_installed(place.partition(".")[0])
    found = getattr(module := _import(place), wanted, None)
    if found is None:
        fix = nearest(wanted, _classes(module), f"see what {place} has")
        raise UnknownArchitecture(f"{place} has no {wanted!r}", key=KEY, fix=fix)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        kind = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
        text = f"{name!r} is {kind}, and no class of networks (torch.nn.Module)"
        near = nearest(wanted, _classes(module), "name such a class")
        fix = f"{near}{' Or' if near.endswith('?') else ', or'} {OWN_FUNCTION}"
        if inspect.isroutine(found):
            fix = f"functions need a function of yours (docs/own-code.md): {OWN_FUNCTION}"
        raise InvalidValue(text, key=KEY, fix=fix)
    return found


def _classes(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    ]


def _require_installed(top: str) -> None:
    """Refuse a module that no installed package has, or that Python would take from elsewhere."""
    places = [Path(place).resolve() for place in _places(top)]
    if top in sys.stdlib_module_names:
        text = f"{top!r} is a module of Python itself, and those are not searched"
        raise UnknownArchitecture(text, key=KEY, fix="name a class of an installed package")
    owner = next(_owners(top), None)
    if owner is None or not places:
        text = f"no installed package has the module {top!r}"
        fix = "install its package wherever hospitals run; the working directory is not searched"
        raise UnknownArchitecture(text, key=KEY, fix=fix)
    roots = [Path(str(owner.locate_file(""))).resolve(), *_editable(owner)]
    for place in places:
        if not any(place.is_relative_to(root) for root in roots):
            text = f"Python would import {top!r} from {place}, and not from the installed package"
            raise InvalidValue(text, key=KEY, fix="rename that, or start from another folder")


def _places(top: str) -> list[str]:
    """List where Python would import a module from, without importing it."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None or spec.origin in ("built-in", "frozen"):
        return []
    return [*(spec.submodule_search_locations or ([spec.origin] if spec.origin else []))]


def _owners(top: str) -> Iterator[Distribution]:
    """Find installed packages that have a module, those of its name first."""
    here = Path.cwd()
    path = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    alike = distributions(path=path, name=top)
    for one in (*alike, *distributions(path=path)):
        record = f"\n{one.read_text('RECORD') or one.read_text('installed-files.txt') or ''}"
        listed = (one.read_text("top_level.txt") or "").split()
        within = any(Path(place).resolve().is_relative_to(folder)
                     for folder in _editable(one) for place in _places(top))  # fmt: skip
        if top in listed or within or f"\n{top}/" in record or f"\n{top}.py" in record:
            yield one


def _editable(owner: Distribution) -> list[Path]:
    """Return the folder of a package that is installed from there, as ``pip install -e`` does."""
    told = owner.read_text("direct_url.json") or ""
    if not re.search(r'"editable":\s*true', told):
        return []
    found = re.search(r'"url":\s*"(file:[^"]*)"', told)
    return [Path(unquote(urlsplit(found[1]).path)).resolve()] if found else []


def _import(place: str) -> ModuleType:
    try:
        return import_module(place)
    except STRANGE as error:
        let_signals(error)
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            text = f"there is no module {error.name!r}"
            fix = "see what the installed version of the package has"
            raise UnknownArchitecture(text, key=KEY, fix=fix) from error
        text = f"{place} cannot be imported: {type(error).__name__}: {error}"
        raise InvalidValue(text, key=KEY, fix="repair that package") from error


def wrong_arguments(chosen: Architecture) -> Iterator[FedskdError]:
    """Find options that the class does not have, that it needs, and words that stand for nothing;
    raises as `find`.
    """
    for name, value in chosen.options.items():
        for word in _words(value):
            if word.startswith("$") and word not in PLACEHOLDERS:
                near = nearest(word, PLACEHOLDERS, "")
                fix = f"{near} There are {', '.join(PLACEHOLDERS)}".lstrip()
                yield InvalidValue(f"{word!r} stands for nothing", key=("options", name), fix=fix)
    cls = find(chosen.name)
    try:
        known = inspect.signature(cls).parameters
    except ValueError:  # written in C
        return
    open_ended = any(one.kind is one.VAR_KEYWORD for one in known.values())
    named = [name for name, one in known.items() if one.kind not in (one.VAR_KEYWORD,
             one.VAR_POSITIONAL, one.POSITIONAL_ONLY)]  # fmt: skip
    for name in chosen.options:
        if name not in named and not open_ended:
            fix = f"{nearest(name, named, '')} It has {', '.join(named)}".lstrip()
            text = f"{cls.__name__} has no option {name!r}"
            yield InvalidValue(text, key=("options", name), fix=fix)
    lacking = [
        name for name in named if known[name].default is inspect.Parameter.empty
        and name not in chosen.options
    ]  # fmt: skip
    if lacking:
        text = f"{cls.__name__} needs {', '.join(lacking)}"
        fix = f"give {'it' if len(lacking) == 1 else 'them'} under options; {NO_OBJECTS}"
        yield InvalidValue(text, key=("options",), fix=fix)


def class_option(chosen: Architecture, count: int) -> str:
    """Return the argument of a class that says how many classes there are, where it said
    ``count``; empty if none is known.
    """
    given = [name for name, value in chosen.options.items() if name in COUNTS or value == count]
    try:
        known = [*inspect.signature(find(chosen.name)).parameters]
    except ValueError:  # written in C
        known = []
    return next(iter(sorted(given, key=lambda one: one not in COUNTS)), "") or next(
        (name for name in COUNTS if name in known), ""
    )


def _words(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _words(one)


def construct(chosen: Architecture, shape: ImageShape) -> nn.Module:
    """Build a network with its options, ``$channels``, ``$classes`` and ``$size`` filled in; raises
    as `find`, and whatever the class raises.
    """
    values = dict(zip(PLACEHOLDERS, (shape.channels, shape.classes, shape.size), strict=True))
    return find(chosen.name)(**_filled(chosen.options, values))


def _filled(value: Any, values: Mapping[str, int]) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(one, values) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, values) for one in value]
    return values.get(value, value) if isinstance(value, str) else value
