"""Users' own architectures: installed packages offer them through the entry point group
``fedskd_sim.architectures``.

An entry point's name is the architecture's name; its object is a function ``(channels, image_size,
classes, *, options...)`` that gives a module whose forward gives (logits, Taps(mid, deep)). A name
that begins with ``roi-`` takes connectivity, one with ``vol-`` volumes, any other images. Nothing
is remembered between calls, so every process and every pod that has the package installed finds the
same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from fedskd_sim.errors import FedskdError, InvalidValue, UnknownArchitecture

Builder = Callable[..., nn.Module]
GROUP = "fedskd_sim.architectures"
UNBUILDABLE = (RuntimeError, ValueError, ZeroDivisionError, TypeError, AssertionError)
"""What PyTorch raises when an architecture cannot have its input or its options."""


def names() -> list[str]:
    """List the names that installed packages offer, sorted, usable or not."""
    return sorted(entry_points(group=GROUP).names)


def load(name: str, taken: Collection[str]) -> Builder:
    """Import the function that builds an architecture.

    Args:
        name: the entry point's name.
        taken: names of built-in architectures, which no package may use.

    Raises:
        UnknownArchitecture: no installed package offers it.
        InvalidValue: it cannot be imported, is no such function, or its name is offered twice or
            built in.

    """
    offers = tuple(entry_points(group=GROUP, name=name))
    if not offers:
        fix = f"install a package with the entry point {name!r} in the group {GROUP}"
        raise UnknownArchitecture(f"there is no architecture {name!r}", fix=fix)
    origin = " and ".join(sorted(f"{_package(offer)} ({offer.value})" for offer in offers))
    if name in taken:
        raise InvalidValue(
            f"{name!r} is built in, and {origin} offers it too",
            fix="rename the entry point, or remove the package",
        )
    if len(offers) > 1:
        raise InvalidValue(f"{name!r} is offered by {origin}", fix="remove one of these packages")
    try:
        builder = offers[0].load()
    except Exception as error:  # a stranger's module may raise anything
        text = f"{name!r} of {origin} cannot be imported: {type(error).__name__}: {error}"
        raise InvalidValue(
            text, fix="repair that package, or choose another architecture"
        ) from error
    wrong = _unlike(builder)
    if wrong:
        fix = "write a function (channels, image_size, classes, *, option=default)"
        raise InvalidValue(f"{name!r} of {origin} {wrong}", fix=fix)
    checked: Builder = builder
    return checked


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn whatever a stranger's code raises into what PyTorch raises, so that it is reported as an
    architecture's failure.

    Raises:
        RuntimeError: the code raised something that is neither ours nor one of `UNBUILDABLE`.

    """
    try:
        yield
    except (FedskdError, *UNBUILDABLE):
        raise
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _package(offer: EntryPoint) -> str:
    return offer.dist.name if offer.dist else "an unnamed package"


def _unlike(builder: object) -> str:
    """Say what keeps an object from being a builder; empty if nothing does."""
    if not callable(builder):
        return f"is {type(builder).__name__}, not a function"
    signature = inspect.signature(builder)
    try:
        signature.bind(3, 32, 2)
    except TypeError as error:
        return f"cannot be called with channels, image_size and classes: {error}"
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not isinstance(
            parameter.default, int | float | str
        ):
            return f"has the option {parameter.name} whose default is neither a number nor a word"
    return ""
