"""The seal of a run that has ended well: ``seal.json`` in its folder, the SHA-256 of every file of
its results.

Records say of every model with which digest it came and went, and nothing of their own measures. So
the launcher notes at the end of a run what its files are, and what its scenario means. Whoever can
change the files can change the seal as well: against that it is signed, with a key of one's own and
the tools that sign files (docs/reliability.md).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from fedskd_sim.errors import ChainBroken, RunUnreadable, Where
from fedskd_sim.records import NO_OTHER_KEYS
from fedskd_sim.scenario import Scenario
from fedskd_sim.wholefiles import write_text

FILE = "seal.json"
SIGNATURE = f"{FILE}.sig"
NAMESPACE = "fedskd-sim"
"""What a signature is for, as ssh-keygen asks: none that was made for anything else is good."""
PATIENCE_S = 10.0
SCENARIO = "scenario.yaml"
TENSORS = "tensors.json"
"""Names of the tensors of each hospital's model in its network's order, which files of weights do
not keep and digests are taken over."""
SEALED = (
    SCENARIO,
    "environment.json",
    "resolved.json",
    "tensors.json",
    "code/**/*.py",
    "records/*",
    "weights/*",
    "samples/*",
    "predictions/*",
    "similarity/*",
    "pictures/*",
    "audit/*",
)
"""What a run has learned and from what; reports are made from it again at any time, and logs may go
on after the end."""
FIX = "this is not what the run ended with: restore the file from a copy, or run the scenario again"


@dataclass(frozen=True, slots=True)
class Seal:
    """What a run has ended with."""

    __pydantic_config__ = NO_OTHER_KEYS
    files: dict[str, str]
    """SHA-256 in hexadecimal digits, by path in the run folder."""
    version: Literal[1] = 1
    meaning: str = ""
    """`meaning_of` the scenario; '' in seals of version 0.1.0."""


SealBreak = tuple[tuple[int, int], ChainBroken]
"""A break, and when in the run it lies: round and hop."""
_FORM: TypeAdapter[Seal] = TypeAdapter(Seal)
_TENSORS: TypeAdapter[dict[str, list[str]]] = TypeAdapter(dict[str, list[str]])


def seal(run: Path, scenario: Scenario | None = None) -> Seal:
    """Note what the files of a run are, and what its scenario means; an earlier seal is replaced.

    Raises:
        OutputNotWritable: the folder cannot be written.

    """
    files = {str(file.relative_to(run)): _sum(file) for file in _files(run)}
    made = Seal(files, meaning=meaning_of(scenario) if scenario else "")
    write_text(run / FILE, json.dumps(asdict(made), indent=1) + "\n")
    return made


def as_json(scenario: Scenario, *without: str) -> str:
    """Return as JSON what a scenario means, however it is written, without some of its keys.

    Keys that have their default are left out, so that a later version, which has more of them,
    finds the same.
    """
    said = scenario.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={*without}
    )
    return json.dumps(said, sort_keys=True)


def meaning_of(scenario: Scenario) -> str:
    """Return the SHA-256 of what a scenario means."""
    return hashlib.sha256(as_json(scenario).encode()).hexdigest()


def read(run: Path) -> Seal | None:
    """Read the seal of a run; None where there is none. Raises RunUnreadable for a damaged one."""
    file = run / FILE
    try:
        return _FORM.validate_json(file.read_bytes(), strict=True) if file.exists() else None
    except (OSError, ValidationError) as error:
        where = Where(str(file))
        raise RunUnreadable("this is no seal of a run", fix=FIX, where=where) from error


def keep_tensors(run: Path, tables: Mapping[str, Iterable[str]]) -> None:
    """Note which tensors each hospital's model has, so that who verifies the run needs no PyTorch
    and no data; raises OutputNotWritable.
    """
    kept = {model: [*names] for model, names in tables.items()}
    write_text(run / TENSORS, json.dumps(kept) + "\n")


def kept_tensors(run: Path) -> Mapping[str, Iterable[str]] | None:
    """Return what `keep_tensors` has noted; None for a run without. Raises RunUnreadable."""
    file = run / TENSORS
    try:
        return _TENSORS.validate_json(file.read_bytes(), strict=True) if file.exists() else None
    except (OSError, ValidationError) as error:
        where = Where(str(file))
        raise RunUnreadable("these are no names of tensors", fix=FIX, where=where) from error


def breaks(run: Path, sealed: Seal, scenario: Scenario) -> Iterator[ChainBroken]:
    """Compare every file with the seal, in the order of their names."""
    there = {str(file.relative_to(run)): file for file in _files(run)}
    for name in sorted({*there, *sealed.files}):
        where = Where(str(run / name))
        if name not in there:
            yield ChainBroken("missing: the run was sealed with this file", fix=FIX, where=where)
        elif name not in sealed.files:
            yield ChainBroken("foreign: the run was sealed without this file", fix=FIX, where=where)
        elif _sum(there[name]) != sealed.files[name]:
            text = "altered: the run was sealed with other bytes in it"
            if name == SCENARIO and sealed.meaning:
                same = sealed.meaning == meaning_of(scenario)
                text += f"; it means {'the same' if same else 'something else'}"
            yield ChainBroken(text, fix=FIX, where=where)


def signature(run: Path) -> str:
    """Describe what is known of the signature of a run's seal; '' where there is none.

    It is checked with the key that it names itself. Whose key that is, nobody but the reader knows.

    Raises:
        ChainBroken: it is no signature of this seal.

    """
    file, where = run / SIGNATURE, Where(str(run / SIGNATURE))
    if not file.exists():
        return ""
    if not (file.is_file() and (run / FILE).is_file()):
        raise ChainBroken("missing: the seal that is signed here", fix=FIX, where=where)
    command = ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(file.absolute())]
    try:
        done = subprocess.run(  # noqa: S603 - as the manual has it
            command, input=(run / FILE).read_bytes(), capture_output=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        why = "is not here" if isinstance(error, FileNotFoundError) else f"did not run: {error}"
        return f"{SIGNATURE} was not checked: ssh-keygen {why}"
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        if "option" in said[0]:
            return f"{SIGNATURE} was not checked: this ssh-keygen cannot ({said[0]})"
        text = f"altered: this is no signature of {FILE} (ssh-keygen: {said[0]})"
        raise ChainBroken(text, fix="sign the seal again, or remove the signature", where=where)
    key = done.stdout.decode(errors="replace").strip().rpartition(" with ")[2]
    return f"{SIGNATURE} is a good signature with {key}; whose key that is was not checked"


def keep_changed(breaks: list[SealBreak], unlike: list[ChainBroken]) -> list[SealBreak]:
    """Keep to the files that are not as they were sealed.

    Where two records contradict each other, the seal knows which of them was changed.
    """
    files = {error.where.file for error in unlike if error.where}
    kept = [one for one in breaks if one[1].where and one[1].where.file in files]
    return kept or [((0, 0), error) for error in unlike] or breaks


def _files(run: Path) -> list[Path]:
    return sorted(file for pattern in SEALED for file in run.glob(pattern) if file.is_file())


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
