"""Data of hospitals that are pods: no pod sees a folder of the machine that launches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedskd_sim.errors import InvalidValue, ScenarioError, Where
from fedskd_sim.observe.words import short_path
from fedskd_sim.scenario.document import read

FIX = (
    "say in a file for --values where pods find their data, as hospitals.defaults.data: {claim: "
    "data-{hospital}}, or with hostPath or fetch; beside that --data is for the checks on this "
    "machine"
)


def check_seen(data: Path | None, values: Iterable[Path]) -> None:
    """Refuse a folder with data for pods where no file of the chart's values says what they mount;
    raises InvalidValue.
    """
    if data and not any(_mounts(values)):
        text = f"no pod sees {short_path(data)}, a folder of this machine"
        raise InvalidValue(text, fix=FIX, where=Where("--data"))


def _mounts(values: Iterable[Path]) -> Iterator[Any]:
    """Yield what files of values say of data, for all hospitals or for one."""
    for file in values:
        with suppress(ScenarioError):  # helm says it better
            hospitals = _part(read(file).data, "hospitals")
            overrides = _part(hospitals, "overrides")
            for one in (
                _part(hospitals, "defaults"),
                *(_part(overrides, key) for key in overrides),
            ):
                yield _part(one, "data")


def _part(values: Any, key: Any) -> Mapping[Any, Any]:
    inner = values.get(key) if isinstance(values, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}
