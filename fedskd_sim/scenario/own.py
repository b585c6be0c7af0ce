"""What a scenario brings along: code of the user's own in files beside it, and algorithms of which
only that code knows the keys.

The code is run by hospitals alone. All others read what `launch` has asked of it once
(`Resolved`), which lies beside the scenario in a run folder and in a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, get_args

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic.json_schema import SkipJsonSchema

from fedskd_sim.errors import InvalidValue, Key, RunUnreadable, Where
from fedskd_sim.scenario.algorithms import (
    BUILT_IN,
    Circulation,
    Cyclic,
    FedAvg,
    FedSKD,
    Local,
    Mutual,
    Placebo,
    Pooled,
)
from fedskd_sim.scenario.circulation import (
    AlgorithmKeys,
    CommunicationPattern,
    NetworkPart,
    Schedule,
    Tap,
)
from fedskd_sim.scenario.packages import offers
from fedskd_sim.scenario.part import Architecture, Count, Part, Plain

ALGORITHMS, KEYS = "fedskd_sim.algorithms", "fedskd_sim.keys"
"""The entry point groups of packages that offer algorithms, and the keys of these by themselves."""
NAMES = frozenset({*(one.name for one in BUILT_IN.values()), "placebo"})
"""The built-in algorithms, whose names nobody else may use."""
FOLDER, FILE, PACKED = "code", "resolved.json", "code.json"
"""Beside a run's scenario: its code, what was asked of that, and in a cluster the code packed."""
LARGEST = 512 << 10
"""Bytes of code in all: a cluster keeps it beside the scenario, in an object of 1 MiB at most."""
MOST_FILES = 100
CELL = "cell.py"
"""What Python knows of the source of code that a program has given, to be read by people."""
DIGITS = 32
"""Of a digest of code."""


class Resolved(Part):
    """What a run has to know of an algorithm of the user's own, as `AlgorithmKeys` has it."""

    pattern: CommunicationPattern
    warms_up: bool
    averages: bool
    keeps_models: bool
    words: str
    work: float
    """Passes of one model in a round, among the hospitals of this scenario."""
    keys: dict[str, Any]
    """All of its keys with their values, those that were left out, too."""
    circulating: FedSKD | None = None
    """How its models circulate, where they do."""
    architecture: Architecture | None = None
    """That of a common model, where it names one."""
    alike: NetworkPart | None = None
    one_label: bool = False
    personal: bool = False
    base_sessions: bool = False
    compared: dict[Tap, tuple[str, ...]] = {}
    needs: dict[NetworkPart, str] = {}
    idle: dict[str, str] = {}
    idle_once: dict[str, str] = {}
    """What is idle where there is one round only, on which nothing else here depends."""

    @classmethod
    def of(cls, keys: type[AlgorithmKeys], one: Asked, size: int) -> Self:
        """Ask the keys that an algorithm is given, among ``size`` hospitals that train."""
        given = keys.model_validate_json(json.dumps(dict(one.given)))
        if given.pools or not given.learns:
            raise ValueError("pools and learns are for built-in algorithms")
        beside = getattr(given, "architecture", None)
        return cls(
            pattern=given.pattern,
            warms_up=given.warms_up,
            averages=given.averages,
            keeps_models=given.keeps_models,
            words=given.words,
            work=float(given.work(size)),
            keys=given.model_dump(mode="json", by_alias=True),
            circulating=getattr(given, "circulating", None),
            architecture=beside if isinstance(beside, Architecture) else None,
            alike=given.alike,
            one_label=given.one_label,
            personal=given.personal,
            base_sessions=given.base_sessions,
            compared=_taps(given.compared),
            needs=dict(given.needs),
            idle=dict(given.model_copy(update={"rounds": 2}).idle),
            idle_once=dict(given.model_copy(update={"rounds": 1}).idle),
        )


def _taps(compared: Mapping[str, Sequence[str]]) -> dict[Tap, tuple[str, ...]]:
    """Check the names of maps; raises ValueError."""
    known: tuple[Tap, ...] = get_args(Tap)
    if strange := {*compared} - {*known}:
        raise ValueError(f"compared are maps called {' and '.join(known)}, not {strange}")
    return {tap: tuple(compared[tap]) for tap in known if tap in compared}


class OwnAlgorithm(Part):
    """An algorithm that a package, or a file beside the scenario, offers; its other keys are those
    of its class.
    """

    model_config = ConfigDict(extra="allow")
    learns: ClassVar[bool] = True
    pools: ClassVar[bool] = False
    name: Annotated[str, WithJsonSchema({"type": "string", "not": {"enum": sorted(NAMES)}})]
    """As it is offered under."""
    rounds: Count = 2
    """Rounds of training."""
    loss: str | None = None
    """See fedavg."""
    options: dict[str, Plain] = {}
    """See fedavg."""
    resolved: SkipJsonSchema[Annotated[Resolved | None, Field(exclude=True)]] = None
    """What was asked of its class; no scenario says it."""

    @property
    def facts(self) -> Resolved:
        """What was asked of its class; raises RuntimeError where nobody has."""
        if self.resolved is None:
            raise RuntimeError(f"nobody has asked the class of {self.name!r}")
        return self.resolved

    @property
    def pattern(self) -> CommunicationPattern:
        """What travels in a round."""
        return self.facts.pattern

    @property
    def warms_up(self) -> bool:
        """Return whether models train alone before the first round."""
        return self.facts.warms_up

    @property
    def averages(self) -> bool:
        """Return whether all hospitals train one model, of one architecture."""
        return self.facts.averages

    @property
    def alike(self) -> NetworkPart | None:
        """Return the part of a network that has one form at all hospitals."""
        return self.facts.alike

    @property
    def one_label(self) -> bool:
        """Return whether each sample must be of one class."""
        return self.facts.one_label

    @property
    def personal(self) -> bool:
        """Return whether what is tested is a model of the hospital's own."""
        return self.facts.personal

    @property
    def keeps_models(self) -> bool:
        """Return whether sums travel that do not change every hospital's own model."""
        return self.facts.keeps_models

    @property
    def settings(self) -> dict[str, Any]:
        """All keys with their values, as plain data."""
        return {**self.facts.keys, "rounds": self.rounds}

    @property
    def base_sessions(self) -> bool:
        """Return whether its sessions, visits and homecomings are those of a base."""
        return self.facts.base_sessions

    @property
    def compared(self) -> Mapping[Any, Sequence[str]]:
        """The maps of a model that it compares, and the keys of the weights."""
        return self.facts.compared

    @property
    def needs(self) -> Mapping[Any, str]:
        """The parts of a network that it treats apart, and the key that asks for each."""
        return self.facts.needs

    @property
    def idle(self) -> Mapping[str, str]:
        """The keys that have no effect with these values, and why."""
        return self.facts.idle if self.rounds > 1 else self.facts.idle_once

    @property
    def circulating(self) -> FedSKD | None:
        """How its models circulate, where they do."""
        return self.facts.circulating

    @property
    def schedule(self) -> Schedule:
        """Who visits whom when."""
        return self.circulating.schedule if self.circulating else Schedule()

    @property
    def architecture(self) -> Architecture | None:
        """Return the architecture of a common model, where it names one."""
        return self.facts.architecture

    @property
    def words(self) -> str:
        """Describe what travels and who trains with whom, for reports."""
        return self.facts.words

    def work(self, size: int) -> float:  # noqa: ARG002 - it was asked for the scenario's size
        """Return the work of a round, in passes of one model over its hospital's data."""
        return self.facts.work


def _tag(given: Any) -> str | None:
    """Choose the class of an algorithm by its name; another's than a built-in one has been asked
    what it is, or is none.
    """
    if not isinstance(given, dict):
        return OWN if isinstance(given, OwnAlgorithm) else getattr(given, "name", None)
    return OWN if given.get("resolved") is not None else given.get("name")


OWN = "own"
Algorithm = Annotated[
    Annotated[FedSKD, Tag("fedskd")]
    | Annotated[Circulation, Tag("circulation")]
    | Annotated[Mutual, Tag("mutual")]
    | Annotated[Cyclic, Tag("cyclic")]
    | Annotated[Local, Tag("local")]
    | Annotated[Pooled, Tag("pooled")]
    | Annotated[FedAvg, Tag("fedavg")]
    | Annotated[Placebo, Tag("placebo")]
    | Annotated[OwnAlgorithm, Tag(OWN)],
    Discriminator(_tag),
]


@dataclass(frozen=True)
class OwnCode:
    """The files that a scenario brings along, by their names with slashes between folders."""

    files: Mapping[str, bytes] = field(repr=False)
    home: str
    """The folder that they were read from."""
    things: tuple[Any, ...] = ()
    """Classes and functions that a program has given in the place of files."""
    told: str = ""
    """Their source, as far as Python knows it."""

    @cached_property
    def digest(self) -> str:
        """The beginning of a SHA-256 of all names and bytes, so long that nobody writes two codes
        with one digest: `resume` runs by it what was launched before.
        """
        whole = sha256(self.told.encode())
        for name, data in sorted(self.files.items()):
            whole.update(f"{name}\0{sha256(data).hexdigest()}\n".encode())
        return whole.hexdigest()[:DIGITS]

    @property
    def modules(self) -> list[str]:
        """The names under which Python imports them, packages without what is inside."""
        tops = {PurePosixPath(name).parts[0].removesuffix(".py") for name in self.files}
        return sorted(tops)

    def write(self, folder: Path) -> None:
        """Write all files into a folder; raises OSError."""
        for name, data in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        if self.told:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CELL).write_text(self.told + "\n", "utf-8")

    def packed(self) -> str:
        """Return all files as one JSON text."""
        return json.dumps({name: data.decode() for name, data in sorted(self.files.items())})


def read_code(folder: Path, entries: Sequence[Any]) -> OwnCode | None:
    """Read the code of a scenario from beside it, or from what a run or a cluster keeps of it;
    nothing of it is run. None where there is none.

    Args:
        folder: where the scenario is.
        entries: the scenario's ``code``.

    Raises:
        InvalidValue: a file is not there, leads elsewhere or is no Python module; there are too
            many or too large ones; two have one name.

    """
    if not entries:
        return None
    if (packed := folder / PACKED).is_file():
        files = {name: text.encode() for name, text in json.loads(packed.read_text()).items()}
        return OwnCode(files, str(packed))
    home = folder / FOLDER if (folder / FILE).is_file() else folder
    found = dict[str, bytes]()
    for index, entry in enumerate(entries):
        for name, data in _read_entry(home, entry, ("code", index)):
            if name in found:
                text = f"{name} is named twice"
                raise InvalidValue(text, fix="name it once", key=("code", index))
            found[name] = data
    if len(found) > MOST_FILES or sum(map(len, found.values())) > LARGEST:
        text = (
            f"{len(found)} files of {sum(map(len, found.values())):,} bytes: the most is "
            f"{MOST_FILES} files and {LARGEST:,} bytes"
        )
        fix = "bring only what the run needs; a larger package is installed where hospitals run"
        raise InvalidValue(text, fix=fix, key=("code",))
    return OwnCode(found, str(home))


def _read_entry(home: Path, entry: str, key: tuple[Key, ...]) -> Iterator[tuple[str, bytes]]:
    """Read a module, or all modules of a package folder."""
    place, parts = home / entry, PurePosixPath(entry).parts
    fix = "name a Python file, or the folder of a package, that lies beside the scenario"
    if len(parts) != 1 or not parts[0].removesuffix(".py").isidentifier():
        raise InvalidValue(f"{entry!r} is no module beside the scenario", fix=fix, key=key)
    if place.is_symlink() or not (place.is_dir() or (place.is_file() and entry.endswith(".py"))):
        there = "is a link" if place.is_symlink() else f"is no Python file in {home}"
        raise InvalidValue(f"{entry!r} {there}", fix=fix, key=key)
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    if not files:
        raise InvalidValue(f"there is no Python file in {entry!r}", fix=fix, key=key)
    for file in files:
        if file.is_symlink():
            text = f"{file.relative_to(home)} is a link"
            raise InvalidValue(text, fix="put the file in its place", key=key)
        data = file.read_bytes()
        try:
            data.decode()
        except UnicodeDecodeError as error:
            text = f"{file.relative_to(home)} is no text in UTF-8: byte {error.start + 1}"
            raise InvalidValue(text, fix="save it as UTF-8", key=key) from error
        yield file.relative_to(home).as_posix(), data


class Asked(NamedTuple):
    """An algorithm whose class has to be asked: where it stands, and the keys it is given."""

    key: tuple[Key, ...]
    given: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The keys but ``rounds``, on which nothing of it depends, in one form however written."""
        said = {name: value for name, value in self.given.items() if name != "rounds"}
        return json.dumps(said, sort_keys=True)


def keys_of(base: type[AlgorithmKeys], one: Asked) -> type[AlgorithmKeys]:
    """Return the class of an algorithm's keys, with the name under which it is offered."""
    called: Any = (Literal[one.given["name"]], ...)
    found: type[AlgorithmKeys] = create_model(base.__name__, __base__=base, name=called)
    return found


def offered_names() -> list[str]:
    """List the algorithms whose keys packages offer, sorted."""
    return sorted({one.name for one in offers(KEYS)} - NAMES)


Answers = Mapping[str, Mapping[str, Any]]
"""What was asked, by the keys that an algorithm is given, as `Asked.text`."""


def to_ask(values: Mapping[str, Any], *, any_name: bool = False) -> list[Asked]:
    """List the algorithms of a scenario, as plain data, that a file beside it or an installed
    package may offer; no code is run. ``any_name``: other code may, too.
    """
    variants = values.get("variants")
    places: list[tuple[tuple[Key, ...], Any]] = [(("algorithm",), values.get("algorithm"))]
    if isinstance(variants, dict):
        places += [
            (("variants", label, "algorithm"), one.get("algorithm"))
            for label, one in variants.items()
            if isinstance(one, dict)
        ]
    any_name = any_name or bool(values.get("code"))
    offered = None if any_name else {*offered_names(), *(one.name for one in offers(ALGORITHMS))}
    return [
        Asked(key, given)
        for key, given in places
        if isinstance(given, dict)
        and isinstance(name := given.get("name"), str)
        and name not in NAMES
        and (offered is None or name in offered)
    ]


def read_answers(folder: Path) -> Answers:
    """Read what was asked when a run was launched; nothing where the scenario is not a run's.

    Raises:
        RunUnreadable: it is damaged.

    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
        return {
            one["given"]: Resolved.model_validate_json(json.dumps(one["resolved"])).model_dump(
                mode="json"
            )
            for one in found["algorithms"]
        }
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        fix = "take it from where the run was launched"
        raise RunUnreadable(
            "this does not say what algorithms are", fix=fix, where=Where(str(file))
        ) from error


def as_text(answers: Answers, code: OwnCode | None) -> str:
    """Write what was asked, and the digests of the code that was, as `FILE` holds it."""
    files = {name: sha256(data).hexdigest() for name, data in code.files.items()} if code else {}
    algorithms = [{"given": given, "resolved": dict(told)} for given, told in answers.items()]
    return json.dumps({"algorithms": algorithms, "code": files}, indent=1) + "\n"
