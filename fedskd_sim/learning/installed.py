"""Users' own architectures, readers, losses and algorithms: installed packages offer them through
the entry point groups ``fedskd_sim.architectures``, ``.readers``, ``.losses`` and ``.algorithms``,
files beside the scenario through `fedskd_sim.learning.offers`.

An entry point's name is the architecture's name; its object is a function ``(channels, image_size,
classes, *, options...)`` that gives a module whose forward gives (logits, Taps(mid, deep)). A name
that begins with ``roi-`` takes connectivity, one with ``vol-`` volumes, any other images. A
reader's object is a function ``(folder, *, options...)`` that gives a `Cohort`. Options are its
keyword-only arguments with their defaults. Every process and every pod that has the package
installed finds the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedskd_sim.errors import FedskdError, InvalidValue, Key, UnknownArchitecture, UnknownReader
from fedskd_sim.learning.offers import ARCHITECTURES as GROUP
from fedskd_sim.learning.offers import LOSSES, OWN, READERS, REPLACES
from fedskd_sim.scenario import ALGORITHMS, nearest, offers

if TYPE_CHECKING:
    from torch import nn


Builder = Callable[..., "nn.Module"]


class Offered(NamedTuple):
    """What packages may offer: its group, what it is, arguments like those that it is called with,
    these in words, how it is written, and the error where nobody offers it.
    """

    group: str
    what: str
    arguments: tuple[object, ...]
    names: str
    signature: str
    unknown: type[FedskdError]


ARCHITECTURE = Offered(
    GROUP,
    "architecture",
    (3, 32, 2),
    "channels, image_size and classes",
    "(channels, image_size, classes, *, option=default)",
    UnknownArchitecture,
)
READER = Offered(
    READERS, "reader", (Path(),), "a folder", "(folder, *, option=default)", UnknownReader
)
ALGORITHM = Offered(
    ALGORITHMS, "algorithm", (None, None), "a site and keys", "(site, config)", InvalidValue
)
LOSS = Offered(LOSSES, "loss", (None,), "a step", "(step, *, option=default)", InvalidValue)
UNBUILDABLE = (RuntimeError, ValueError, ZeroDivisionError, TypeError, AssertionError)
"""What PyTorch raises when an architecture cannot have its input or its options."""
STRANGE = (Exception, SystemExit)
"""What a stranger's code may raise: anything, and it may be a program that ends itself."""


def names(group: str = GROUP) -> list[str]:
    """List the names that installed packages and the run's own code offer, sorted, usable or
    not.
    """
    return sorted({*(one.name for one in offers(group)), *OWN.names(group)})


def load(name: str, taken: Collection[str]) -> Builder:
    """Import the function that builds an architecture; ``taken`` are the built-in ones, whose names
    no package may use. Raises as `fetch`.
    """
    builder: Builder = fetch(ARCHITECTURE, name, taken)
    return builder


def fetch(offered: Offered, name: str, taken: Collection[str] = ()) -> Callable[..., Any]:
    """Import a function that an installed package, or the run's own code, offers.

    Args:
        offered: what it is to be.
        name: the entry point's name.
        taken: names that no package may use.

    Raises:
        UnknownArchitecture, UnknownReader, InvalidValue: nobody offers it.
        InvalidValue: it cannot be imported, is no such function, or its name is offered twice or
            built in.

    """
    known, own = offers(offered.group, name), OWN.find(offered.group, name)
    origins = sorted(f"{_package(offer)} ({offer.value})" for offer in known)
    origins += [] if own is None else [f"{getattr(own, '__module__', 'code')}.py"]
    if not origins:
        fix = (
            f"install a package with the entry point {name!r} in the group {offered.group}, or "
            f"offer it by @{offered.what}({name!r}) in a file under code"
        )
        raise offered.unknown(f"there is no {offered.what} {name!r}", fix=fix)
    origin = " and ".join(origins)
    if name in taken:
        raise InvalidValue(
            f"{name!r} is built in, and {origin} offers it too",
            fix="rename one of yours, or remove the package",
        )
    if len(origins) > 1:
        raise InvalidValue(f"{name!r} is offered by {origin}", fix="remove one of these")
    function = _imported(known[0], offered, origin) if own is None else own
    if wrong := _unlike(function, offered):
        fix = f"write a function {offered.signature}"
        raise InvalidValue(f"{name!r} of {origin} {wrong}", fix=fix)
    checked: Callable[..., Any] = function
    return checked


def _imported(offer: EntryPoint, offered: Offered, origin: str) -> Any:
    """Import what a package offers; raises InvalidValue where that cannot be."""
    try:
        return offer.load()
    except STRANGE as error:
        let_signals(error)
        text = f"{offer.name!r} of {origin} cannot be imported: {type(error).__name__}: {error}"
        fix = f"repair that package, or choose another {offered.what}"
        raise InvalidValue(text, fix=fix) from error


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
    except STRANGE as error:
        let_signals(error)
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def let_signals(error: BaseException) -> None:
    """Raise an error again that only a signal raises, in whatever code the process is just then;
    that is a kind of SystemExit of our own.
    """
    if isinstance(error, SystemExit) and type(error) is not SystemExit:
        raise error


def _package(offer: EntryPoint) -> str:
    return offer.dist.name if offer.dist else "an unnamed package"


def _unlike(function: object, offered: Offered) -> str:
    """Describe what keeps an object from being such a function; empty if nothing does."""
    if not callable(function):
        return f"is {type(function).__name__}, not a function"
    signature, (arguments, said) = inspect.signature(function), (offered.arguments, offered.names)
    if offered is LOSS and isinstance(function, type):
        arguments, said = (), "its options"
    elif offered is LOSS and getattr(function, REPLACES, False):
        arguments, said = (None, ""), "a step and a role"
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return f"cannot be called with {said}: {error}"
    for number, parameter in enumerate(signature.parameters.values()):
        by_place = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if offered is not ALGORITHM and by_place and number >= len(arguments):
            return f"has the option {parameter.name} without a star before it"
        if parameter.kind is parameter.KEYWORD_ONLY and not isinstance(
            parameter.default, int | float | str
        ):
            return f"has the option {parameter.name} whose default is neither a number nor a word"
    return ""


OptionBounds = tuple[int, int]


def options_of(function: Callable[..., Any]) -> dict[str, object]:
    """List the options of a function with their defaults."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def fill_in(known: Mapping[str, object], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they are handed over: a whole number as a float, where the default is one;
    ``known`` are all with their defaults.
    """
    return {
        name: float(value) if _widens(value, known.get(name)) else value
        for name, value in given.items()
    }


def _widens(value: object, default: object) -> bool:
    return type(value) is int and type(default) is float


def wrong_options(
    name: str,
    known: Mapping[str, object],
    given: Mapping[str, object],
    key: tuple[Key, ...],
    bounds: OptionBounds | None = None,
) -> Iterator[InvalidValue]:
    """Check the names and the kinds of options.

    Args:
        name: what has them.
        known: its options with their defaults, each of whose kind a value has to be.
        given: the scenario's.
        key: of what has them, in the scenario.
        bounds: the smallest and the largest whole number; None for any.

    """
    for option, value in given.items():
        place = (*key, "options", option)
        if option not in known:
            there = f"{name} has the options {', '.join(known)}" if known else f"{name} has none"
            fix = f"{nearest(option, list(known), '')} {there}".lstrip()
            yield InvalidValue(f"{name} has no option {option!r}", key=place, fix=fix)
        elif _widens(value, known[option]):
            continue
        elif type(value) is not type(known[option]) or (
            type(value) is int and bounds and not bounds[0] <= value <= bounds[1]
        ):
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            fix = f"give {_expectation(known[option], bounds)}"
            yield InvalidValue(f"{option} is {shown}", key=place, fix=fix)


def _expectation(default: object, bounds: OptionBounds | None) -> str:
    """Describe what an option with such a default may be."""
    match default:
        case bool():
            return "true or false"
        case int():
            limits = f" from {bounds[0]} to {bounds[1]}" if bounds else ""
            return f"a whole number{limits}, like {default}"
        case float():
            return f"a number, like {default}"
        case "":
            return "a word"
    return f"a word, like {default!r}"
