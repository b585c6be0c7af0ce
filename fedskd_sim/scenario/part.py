"""The base of every part of a scenario: frozen, and an unknown key is an error. Also one data set
that is cut into parts for several hospitals, and what these may not contradict each other about.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from posixpath import normpath
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue

from fedskd_sim.errors import InvalidValue, Key


@cache
def _said_under_keys(module: ModuleType) -> Mapping[str, Mapping[str, str]]:
    """Find the texts under the attributes of a module's classes, by class and attribute."""
    try:
        parsed = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # no source is kept, or it has changed since
        return {}
    found: dict[str, dict[str, str]] = {}
    for one in ast.walk(parsed):
        if isinstance(one, ast.ClassDef):
            texts = found.setdefault(one.name, {})
            for said, text in zip(one.body, one.body[1:], strict=False):
                if not (isinstance(said, ast.AnnAssign) and isinstance(said.target, ast.Name)):
                    continue
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    texts[said.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def _said_of(kind: type, key: str) -> str:
    """Return the text under a key, where the first class that has it stands."""
    for one in kind.__mro__:
        if key in inspect.get_annotations(one):
            module = sys.modules.get(one.__module__)
            said = _said_under_keys(module) if module else {}
            return said.get(one.__name__, {}).get(key, "")
    return ""


class Part(BaseModel):
    """One mapping of the scenario file. The texts under its keys are read when a JSON Schema is
    asked for, not whenever the program starts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: Any, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Add the text under every key."""
        found = handler(core_schema)
        entries = handler.resolve_ref_schema(found)["properties"]
        for key, field in cls.model_fields.items():
            shown = entries.get(field.alias or key)
            if shown is not None and (text := field.description or _said_of(cls, key)):
                shown["description"] = text
        return found


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
LONGEST_S = 1e9
"""Some thirty years, for which clocks, threads and sockets have numbers."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]
SomeSeconds = Annotated[float, Field(gt=0, le=LONGEST_S)]
Share = Annotated[float, Field(ge=0, le=1)]
Fold = Annotated[int, Field(ge=0, le=4)]
ImageSize = Annotated[int, Field(ge=8, le=512)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""What is counted one by one: a thousand million of anything would never end."""
SampleCount = Annotated[int, Field(ge=10, le=10_000_000)]
"""So many synthetic samples have numbers that fit into memory."""
SIZE = r"^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$"


Plain = int | float | str | bool
"""An argument of what a user offers: a reader, a loss."""
Option = Plain | list[Plain | list[Plain | list[Plain]]]
"""An argument of a network."""
Takes = Literal["image", "volume", "roi", "table"]


class Architecture(Part):
    """A named architecture with its options, or a class of networks of an installed package. A bare
    name in the file means no options.
    """

    name: str
    """One of ``fedskd-sim models``; or ``package.module:Class``, a class of networks
    (``torch.nn.Module``) of an installed package, such as ``torchvision.models:DenseNet``."""
    options: dict[str, Option] = {}
    """Options of this architecture, for example ``{width: 32, norm: group}``; of a class its
    arguments. In these ``$channels``, ``$classes`` and ``$size`` stand for what the data have. Size
    is pixels or voxels along the shortest axis, regions, or columns."""
    input: Takes | None = None
    """What the network takes; null: volumes if its name begins with ``vol-``, connectivity with
    ``roi-``, rows of tables with ``tab-``, else images."""
    taps: Annotated[tuple[str, ...], Field(min_length=2, max_length=2, strict=False)] | None = None
    """Two modules of a network of a package, the middle and the deep one, whose outputs are
    compared. With null, a class gets the two that a trial pass proposes; ``fedskd-sim models
    NAME`` shows them."""
    output: str | int | None = None
    """The entry that holds the logits, if a network of a package returns several: its name, or its
    number from 0."""
    weights: str = ""
    """A file of initial weights with the names of the network's own ``state_dict``: safetensors, or
    what ``torch.save`` made of it. If only the number of classes differs, the head stays as it was
    drawn."""
    trainable: Annotated[
        Literal["all", "head"] | Annotated[tuple[str, ...], Field(min_length=1, strict=False)],
        Field(union_mode="left_to_right"),
    ] = "all"
    """Which part trains: all; head, the last module whose weights have as many rows as there are
    classes; or patterns of names of parameters, such as ``[layer4.*, fc.*]``. The rest stays as it
    is, in evaluation mode."""
    head_rate: Positive | None = None
    """Learning rate of the head; null: ``training.optimiser.learning_rate``."""
    buffers: Literal["travel", "stay"] = "travel"
    """What a network holds beside its parameters, such as the statistics of batch normalisation.
    ``travel``: they go where the model goes, and are averaged with it. ``stay``: every hospital
    keeps those with which a model left it, and uses them when it comes again. Where it has not
    trained yet, those that it brings count."""

    @property
    def is_class(self) -> bool:
        """Whether it is a class of networks of an installed package."""
        return ":" in self.name

    @property
    def restricted(self) -> bool:
        """Whether not all of its parts train alike."""
        return self.trainable != "all" or self.head_rate is not None

    @property
    def takes(self) -> Takes:
        """What goes into the network: ``input``, or what its name says."""
        prefixes: dict[str, Takes] = {"roi-": "roi", "vol-": "volume", "tab-": "table"}
        by_name = [kind for prefix, kind in prefixes.items() if self.name.startswith(prefix)]
        return self.input or (by_name[0] if by_name else "image")


def with_a_name(shown: Any) -> BeforeValidator:
    """Accept a bare name for a mapping with that name; ``shown`` is what the JSON Schema says."""
    return BeforeValidator(
        lambda value: {"name": value} if isinstance(value, str) else value,
        json_schema_input_type=shown,
    )


NamedArchitecture = Annotated[Architecture | None, with_a_name(str | Architecture | None)]
"""An architecture, of which the name alone may be written, or null."""


SITE_OR_ALL = ("medmnist", "derm7pt", "own")
"""Data of which a hospital without site and partition has all samples."""


class Partition(Part):
    """A data set cut among hospitals: they share all keys but ``part``, so that together they
    have every sample once.
    """

    by: Literal["dirichlet", "quantity"] = "dirichlet"
    """``dirichlet``: the shares of every class are drawn anew, so class frequencies differ.
    ``quantity``: only the sizes differ."""
    parts: Annotated[int, Field(ge=2, le=1000)]
    """Into how many parts the data set is cut; a part that no hospital has is not used."""
    part: Annotated[int, Field(ge=0)] | None = None
    """The part of this hospital, counted from 0."""
    alpha: Annotated[float, Field(ge=0.001, le=1e6)] = 0.5
    """Concentration of the Dirichlet distribution: 0.1 is very uneven, 100 nearly even."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Decides the cut; it does not depend on the scenario's seed, so that repeated runs have the
    same hospitals."""
    least: Count = 10
    """A part with fewer training samples is an error."""


def contradictions(datasets: Sequence[tuple[str, Any]]) -> Iterator[InvalidValue]:
    """Find parts that are missing or impossible, and parts and sites that are owned twice.

    Args:
        datasets: names of the hospitals and their data; only data from files are looked at.

    Yields:
        Errors with the scenario key they belong to.

    """
    before: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for index, (name, data) in enumerate(datasets):
        if not hasattr(data, "file"):
            continue
        file = data.file if data.name == "own" else normpath(data.file)
        others = before.setdefault((data.name, file), [])
        key: tuple[Key, ...] = ("hospitals", index, "data")
        alone = [*_alone(data, key)]
        yield from alone or [*_together(data, others, key)] or _alike(data, others, key)
        others.append((name, data))


def partless(partition: Partition, key: tuple[Key, ...]) -> InvalidValue:
    """Return the error of a partition that lacks its ``part``."""
    return InvalidValue(
        "it does not say which part is this hospital's",
        key=key,
        fix=f"add 'data: {{partition: {{part: ...}}}}', from 0 to {partition.parts - 1}",
    )


def _alone(data: Any, key: tuple[Key, ...]) -> Iterator[InvalidValue]:
    """Check what a hospital says about its own part."""
    own = getattr(data, "partition", None)
    if own is None:
        return
    last = own.parts - 1
    if getattr(data, "site", ""):
        text = (
            f"site {data.site!r} and a partition cannot both say which samples are this hospital's"
        )
        yield InvalidValue(text, key=(*key, "site"), fix="leave out one of them")
    elif own.part is None:
        yield partless(own, (*key, "partition"))
    elif own.part > last:
        text = f"there is no part {own.part} of {own.parts}"
        yield InvalidValue(text, key=(*key, "partition", "part"), fix=f"choose 0 to {last}")


def _together(
    data: Any, others: Sequence[tuple[str, Any]], key: tuple[Key, ...]
) -> Iterator[InvalidValue]:
    """Compare a hospital's part with those of the hospitals before it that read the same file."""
    own, at = getattr(data, "partition", None), (*key, "partition")
    for name, other in others:
        theirs = getattr(other, "partition", None)
        if own is None and theirs is None and _site(data) != _site(other):
            continue
        if own is None and theirs is None and _site(data)[-1]:
            text = f"site {data.site!r} of {data.file} belongs to {name!r} already"
            fix, at = "give every hospital a site of its own", (*key, "site")
        elif own is None and theirs is None and data.name not in SITE_OR_ALL:
            continue  # the reader says that it needs a site
        elif own is None or theirs is None:
            text = f"{name!r} reads {data.file}, too, and it is not said who has which part"
            fix = "give each of them 'partition: {parts: ..., part: ...}'"
            fix += ", or the 'site' that is its own" if hasattr(data, "site") else ""
        elif own.model_copy(update={"part": 0}) != theirs.model_copy(update={"part": 0}):
            text = (
                f"it cuts {data.file} otherwise than {name!r} does, so their samples would overlap"
            )
            fix = (
                "write the partition once in the top level's data, and only 'partition: {part: "
                "...}' at each hospital"
            )
        elif own.part == theirs.part:
            text, fix = (
                f"part {own.part} belongs to {name!r} already",
                "give every hospital a part of its own",
            )
        else:
            continue
        yield InvalidValue(text, key=at, fix=fix)
        return


def _alike(
    data: Any, others: Sequence[tuple[str, Any]], key: tuple[Key, ...]
) -> Iterator[InvalidValue]:
    """Compare what a hospital's site is, and its test fold, with those of the first hospital that
    has a site of the same file: the same people may stand at two sites.
    """
    sited = [(name, other) for name, other in others if _site(other)[1]]
    if not (sited and _site(data)[1]):
        return
    for field, what in (
        ("by", "so that samples could be at both"),
        ("test_fold", "so that one could train on people whom the other tests on"),
    ):
        name, first = sited[0]
        own, theirs = getattr(data, field, None), getattr(first, field, None)
        if own != theirs:
            text = f"{field} is {own} here and {theirs} at {name!r}, {what}"
            fix = f"write {field!r} once, in the top level's data"
            yield InvalidValue(text, key=(*key, field), fix=fix)


def _site(data: Any) -> tuple[str, str]:
    """Name the site of a hospital, behind the kind of site that it is."""
    return getattr(data, "by", ""), getattr(data, "site", "")
