"""What must hold before a run starts, and after it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.scenario import Loaded, Placebo, Scenario, find, load, raise_all, spaceless

if TYPE_CHECKING:
    from fedskd_sim.custody.verify import Verdict


def checked(
    scenario: Path | Loaded,
    data: Path | None,
    meanwhile: Callable[[Loaded], None] = lambda _: None,
    *,
    changes: Iterable[str] = (),
    elsewhere: tuple[type[FedskdError], ...] = (),
    seen: Callable[[Any], None] = lambda _: None,
) -> Loaded:
    """Load a scenario and refuse it if its models or data cannot work.

    Args:
        scenario: the file, or the name of a scenario that comes with the program; or one that was
            loaded before.
        data: where data files are.
        meanwhile: is called before the slow part.
        changes: what to change in the file before it is checked (`fedskd_sim.scenario.edit`).
        elsewhere: errors that say nothing here, because the run will happen at another place.
        seen: is told what is known of every hospital's data (`fedskd_sim.learning.samples.Facts`).

    Raises:
        ScenarioError: the first problem, by line, with all others listed under it.

    """
    loaded = scenario if isinstance(scenario, Loaded) else load(find(scenario), changes)
    meanwhile(loaded)
    if not isinstance(loaded.scenario.algorithm, Placebo):
        from fedskd_sim.learning.preflight import find_problems  # noqa: PLC0415 - needs PyTorch

        found = find_problems(loaded.scenario, data, seen)
        raise_all(loaded.document, (error for error in found if not isinstance(error, elsewhere)))
    return loaded


def refuse_apart(loaded: Loaded, runtime: str) -> None:
    """Refuse to pool data where hospitals are apart, and volumes of which a cluster cannot tell
    whether they lie alike.

    Raises:
        InvalidValue: the scenario asks for one of them.

    """
    if loaded.scenario.algorithm.name == "pooled" and runtime != "memory":
        text = (
            f"'pooled' puts all hospitals' data into one place, and --on {runtime} keeps them apart"
        )
        fix = "it is a reference, no federation: launch it with --on memory"
        raise loaded.placed(InvalidValue(text, key=("algorithm", "name"), fix=fix))
    if runtime == "kubernetes":
        raise_all(loaded.document, spaceless(loaded.scenario.hospitals))


def licences(scenario: Scenario) -> list[str]:
    """List what the licence of each data set asks for, where it asks for more than naming the
    source.
    """
    asked = dict.fromkeys(getattr(hospital.data, "licence", "") for hospital in scenario.hospitals)
    return [licence for licence in asked if licence]


def verified(run: Path, scenario: Scenario, data: Path | None) -> tuple[Verdict, str]:
    """Verify the folder of a scenario's run; gives what was found and, if weights could not be
    compared, why.

    Raises:
        RunUnreadable: it is no run folder, or has no records.

    """
    from fedskd_sim.custody.verify import verify  # noqa: PLC0415 - only who looks at a run pays for it

    tables, remark = _tables(scenario, data)
    return verify(run, scenario, tables, [*_ended(run)]), remark


def _tables(scenario: Scenario, data: Path | None) -> tuple[Mapping[str, Any], str]:
    """Describe the networks' tensors, or say why that cannot be."""
    if isinstance(scenario.algorithm, Placebo):
        return {}, ""
    from fedskd_sim.learning.preflight import image_shape  # noqa: PLC0415 - needs PyTorch
    from fedskd_sim.learning.site import specs_of  # noqa: PLC0415

    try:
        return specs_of(scenario, image_shape(scenario, scenario.members[0], data)), ""
    except FedskdError as error:
        return {}, f"weights were not compared: {error}"


def _ended(run: Path) -> Iterator[str]:
    """List the hospitals whose log says that they have finished."""
    from fedskd_sim.observe import events  # noqa: PLC0415 - only who looks at a run pays for it
    from fedskd_sim.runtimes.folder import Tail  # noqa: PLC0415

    for file in sorted(run.glob("logs/*.jsonl")):
        if any(isinstance(logged.what, events.Done) for logged in Tail(file).events()):
            yield file.stem
