"""Data of hospitals that are pods: no pod sees a folder of the machine that launches. A folder is
split into a part for each hospital, and parts are brought onto claims of the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from fedskd_sim.errors import InvalidValue, OutputNotEmpty, ScenarioError, Where
from fedskd_sim.observe.words import short_path
from fedskd_sim.operate.checks import apart, load_and_check
from fedskd_sim.scenario import BUILT_IN_READERS, Loaded, OwnData
from fedskd_sim.scenario.document import read

if TYPE_CHECKING:
    from fedskd_sim.kubernetes.loading import Pushed
    from fedskd_sim.operate.checks import Slowly

FIX = (
    "bring the hospitals' parts onto claims with 'fedskd-sim data push', or say in --values where "
    "pods find data (hospitals.defaults.data); beside that --data is for checks on this machine"
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


Tell = Callable[[str], None]


def load_for(
    scenario: Path, data: Path | None, changes: Iterable[str], slowly: Slowly, on: str
) -> Loaded:
    """Load a scenario whose data are to be split; ``on`` is where they are for. Imports PyTorch.

    Raises:
        InvalidValue: its hospitals have no data that could be split.
        ScenarioError: as `load_and_check`.

    """
    also = partial(apart, runtime=on)
    loaded = load_and_check(scenario, data, changes=changes, slowly=slowly, also=also)
    for index, hospital in enumerate(loaded.scenario.hospitals):
        if not (hospital.data.name in BUILT_IN_READERS or isinstance(hospital.data, OwnData)):
            what = f"{hospital.name!r} has data of the kind {hospital.data.name!r}"
            text = f"{what}, which every hospital makes by itself: there is nothing to split"
            error = InvalidValue(text, key=("hospitals", index, "data"), fix="launch it as it is")
            raise loaded.place_error(error)
    return loaded


class WrittenPart(NamedTuple):
    """A hospital's part of the data, in a folder of its own."""

    hospital: str
    folder: Path
    size: int
    """Bytes."""


def check_empty(out: Path) -> None:
    """Refuse a folder for parts that holds something; raises OutputNotEmpty."""
    if out.is_dir() and any(out.iterdir()):
        raise OutputNotEmpty(f"{out} is not empty", fix="give another --out")


def split(
    loaded: Loaded, data: Path | None, out: Path, tell: Tell = lambda _: None
) -> list[WrittenPart]:
    """Write the part of each hospital into a folder of its name.

    Args:
        loaded: the scenario.
        data: where the data files are; None looks at the environment.
        out: the folder for the parts.
        tell: is told the name of each hospital before its data are read.

    Raises:
        OutputNotEmpty: ``out`` holds something.
        OutputNotWritable: it cannot be written to.
        FedskdError: as `fedskd_sim.learning.readers.reading.split`.

    """
    from fedskd_sim.learning.readers import reading  # noqa: PLC0415 - needs numpy

    check_empty(out)
    scenario, parts = loaded.scenario, list[WrittenPart]()
    for hospital in scenario.hospitals:
        name = hospital.name
        tell(name)
        size = reading.split(hospital.data, data, scenario.seed, name, out / name)
        parts.append(WrittenPart(name, out / name, size))
    return parts


class Claims(NamedTuple):
    """Where the claims for parts are, as the command line has it."""

    namespace: str = ""
    context: str = ""
    values: tuple[Path, ...] = ()
    storage_class: str = ""
    replace: bool = False


def push(
    loaded: Loaded, data: Path | None, claims: Claims, tell: Tell = lambda _: None
) -> Iterator[Pushed]:
    """Split the data, and bring each part onto its hospital's claim, which is made where there is
    none.

    Args:
        loaded: the scenario.
        data: where the data files are; None looks at the environment.
        claims: where the claims are.
        tell: is told what is waited for.

    Raises:
        FedskdError: as `split` and `fedskd_sim.kubernetes.loading.ClaimLoader.push`, and what is
            wrong with the chart's values.

    """
    from fedskd_sim.kubernetes.helm import Helm  # noqa: PLC0415 - only commands of a cluster pay for it
    from fedskd_sim.kubernetes.loading import ClaimLoader  # noqa: PLC0415
    from fedskd_sim.kubernetes.reach import Reach  # noqa: PLC0415
    from fedskd_sim.kubernetes.runtime import check  # noqa: PLC0415
    from fedskd_sim.runtimes.folder import make  # noqa: PLC0415

    reach = Reach(claims.namespace, claims.context)
    reach.check()
    scenario, values = loaded.scenario, claims.values
    with TemporaryDirectory(prefix="fedskd-data-") as scratch:
        helm, run = Helm(reach.namespace, claims.context), make(loaded, Path(scratch, "run"), "")
        render = partial(helm.render, scenario.name, run / "scenario.yaml", values)
        plan = check(scenario, render, values)
        loader = ClaimLoader(reach, scenario, plan, claims.storage_class, claims.replace)
        loader.check()
        parts = split(loaded, data, Path(scratch, "parts"), tell)
        tell("")
        yield from loader.push({part.hospital: part.folder for part in parts})
