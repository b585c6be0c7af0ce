"""Whether the weights that a run has left are those of which its records speak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors

from fedskd_sim.custody.due import apart, tests_traveller
from fedskd_sim.custody.kept import KeptRecord
from fedskd_sim.errors import ChainBroken, Where
from fedskd_sim.messages import Buffer, Spec, Weights, digest
from fedskd_sim.scenario import Scenario

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
LAST = "last/"
"""What stands before the names of a finished model's tensors, where it travels behind the one that
predicts."""


class Claim(NamedTuple):
    """What records say of a file: by itself, or joined with the other with which it travelled,
    it has a digest ('': nothing).
    """

    file: str
    digest: str
    parts: tuple[tuple[str, str], ...]
    """Names of files, each with the hospital whose model is in it; the tensors of the second have
    `LAST` before their names."""


class Finals:
    """The files in ``weights``; counts those that are equal to what records say, and those of
    which that is unknown.
    """

    def __init__(self, run: Path, scenario: Scenario, tables: Mapping[str, Spec]) -> None:
        """Take the run's folder; files are read by `breaks`. ``tables`` are those of
        `fedskd_sim.custody.verify.verify`.
        """
        self._folder, self._scenario, self._tables = run / "weights", scenario, tables
        self.equal = self.unknown = 0

    def breaks(self, records: Iterable[KeptRecord]) -> Iterator[ChainBroken]:
        """Compare all files with what the records of a run say of their models, file by file."""
        claims = {claim.file: claim for claim in self._claims(*_digests_in(records))}
        for file in sorted(self._folder.glob("*")):
            claim = claims.get(file.name)
            if claim is None:
                yield _error("foreign: no model of this run is called so", file)
                continue
            there = all((self._folder / name).is_file() for name, _ in claim.parts)
            if not (claim.digest and self._tables and there):
                self.unknown += 1
                continue
            wrong = self._wrong(claim)
            if wrong:
                yield _error(f"altered: these are not the weights of the run's end: {wrong}", file)
            else:
                self.equal += 1

    def _wrong(self, claim: Claim) -> str:
        """Say how a file is not what records say; empty if it is."""
        try:
            found = digest(self._read_parts(claim))
        except (ValueError, KeyError, safetensors.SafetensorError) as error:
            return str(error)
        return (
            ""
            if found == claim.digest
            else f"their digest is {found}, and records say {claim.digest}"
        )

    def _claims(self, said: Mapping[str, str], homes: Mapping[str, str]) -> Iterator[Claim]:
        """Say for every file that a run may leave which digest it must have."""
        prediction, members = self._scenario.prediction, self._scenario.members
        kept = apart(self._scenario)
        tested = tests_traveller(self._scenario) and prediction.model == "reconciled"
        travels = ".traveller" if tested else ""
        for name in members:
            shown, mark = (f"{name}{travels}.safetensors", name), said.get(name, "")
            behind = ((f"{name}.ensemble.{name}.safetensors", name),) if prediction.ensemble else ()
            yield Claim(shown[0], mark, (shown, *behind))
            if travels:
                yield Claim(
                    f"{name}.safetensors", homes.get(name, ""), ((f"{name}.safetensors", name),)
                )
            elif kept:
                yield Claim(f"{name}.traveller.safetensors", "", ())
            for host in members if prediction.ensemble else ():
                file = f"{host}.ensemble.{name}.safetensors"
                yield Claim(file, mark, (shown, (file, name)))

    def _read_parts(self, claim: Claim) -> Weights:
        found: dict[str, Buffer] = {}
        for (file, model), prefix in zip(claim.parts, ("", LAST), strict=False):
            found |= {
                prefix + name: buffer
                for name, buffer in self._read(self._folder / file, self._tables[model]).items()
            }
        return found

    def _read(self, file: Path, table: Spec) -> Weights:
        """Read a file's tensors in the order of a table; raises ValueError, KeyError or
        SafetensorError.
        """
        found = dict(safetensors.deserialize(file.read_bytes()))
        if found.keys() != table.keys():
            raise ValueError("it has other tensors than the network")
        return {
            name: Buffer(
                _TYPES[found[name]["dtype"]],
                tuple(found[name]["shape"]),
                bytes(found[name]["data"]),
            )
            for name in table
        }


def _digests_in(records: Iterable[KeptRecord]) -> tuple[dict[str, str], dict[str, str]]:
    """Give the digest under which each model was evaluated, and that of its home model after the
    last homecoming.
    """
    said: dict[str, str] = {}
    homes: dict[str, tuple[int, str]] = {}
    for found, came, left, _ in records:
        if found.kind == "evaluation" and found.hop:
            said[found.model] = came
        elif found.kind == "homecoming":
            homes[found.model] = max(homes.get(found.model, (0, "")), (found.round, left))
    return said, {name: mark for name, (_, mark) in homes.items()}


def _error(text: str, file: Path) -> ChainBroken:
    return ChainBroken(
        text, fix="restore the file from a copy, or run the scenario again", where=Where(str(file))
    )
