"""Which precision, memory format and number of threads take the least of this machine, for every
hospital of a scenario: measured before any run, and written into the scenario's file.

Hospitals of one network, device and number of threads are measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedskd_sim.errors import InvalidValue, OutputNotWritable
from fedskd_sim.found import scenarios
from fedskd_sim.learning.devices import device
from fedskd_sim.learning.networks.shapes import GRIDLESS
from fedskd_sim.learning.stopwatch import WORTH, Arithmetic, ComparedArithmetic, compare
from fedskd_sim.observe.words import counted
from fedskd_sim.operate.checks import Slowly
from fedskd_sim.runtimes.folder import usable_cores
from fedskd_sim.scenario import Loaded, Scenario, examine
from fedskd_sim.scenario.schema import ON_A_CPU
from fedskd_sim.wholefiles import settle, write

REPETITIONS = 5
HINTED = 2
"""Repetitions where it is only to be said whether a look is worth it."""


@dataclass(frozen=True)
class TunedHospitals:
    """What was measured for hospitals that have a network, a device and their threads in common."""

    names: tuple[str, ...]
    network: str
    now: Arithmetic
    chosen: Arithmetic
    formats: tuple[ComparedArithmetic, ...] = ()
    """Precisions and memory formats, the scenario's own first."""
    threads: tuple[ComparedArithmetic, ...] = ()
    skipped: str = ""
    """Why nothing was measured."""

    @property
    def gain(self) -> float:
        """The share of a step's seconds that the chosen precision and memory format save."""
        found = [one.ratio for one in self.formats if one.setting.words == self.chosen.words]
        return 1 - found[0] if found and self.chosen.words != self.now.words else 0.0


def choose(now: Arithmetic, found: Iterable[ComparedArithmetic]) -> Arithmetic:
    """Choose the setting that saves most, if that is enough; another precision, which changes
    results, only where it saves so much more than the scenario's own can.
    """
    good = [one for one in found if one.worth]
    best = min(good, key=lambda one: one.ratio, default=None)
    same = [one for one in good if one.setting.precision == now.precision]
    exact = min(same, key=lambda one: one.ratio, default=None)
    if best and best not in same:
        rest = exact.ratio if exact else 1.0
        best = best if rest - best.ratio >= WORTH else exact
    return best.setting if best else now


@dataclass(frozen=True)
class Tuned:
    """What was measured of a scenario on this machine, and what to change in its file."""

    loaded: Loaded
    cores: int
    repetitions: int
    hospitals: tuple[TunedHospitals, ...]

    @property
    def changes(self) -> list[str]:
        """What to change, as ``launch --set`` takes it: one key of ``training`` where all
        hospitals change alike, and the hospitals' own elsewhere.
        """
        scenario, found = self.loaded.scenario, list[str]()
        chosen = {name: one for one in self.hospitals for name in one.names}
        for key in ("precision", "memory_format"):
            wanted = {name: getattr(one.chosen, key) for name, one in chosen.items()}
            new = [name for name, one in chosen.items() if getattr(one.now, key) != wanted[name]]
            common = {*wanted.values()}
            own = any(key in one.own_arithmetic for one in scenario.hospitals)
            if len(common) == 1 and len(new) == len(chosen) and not own:
                found.append(f"training.{key}={common.pop()}")
            else:
                found += [f"hospitals.{name}.{key}={wanted[name]}" for name in new]
        for name, one in chosen.items():
            if one.chosen.threads != one.now.threads:
                found.append(f"hospitals.{name}.resources.cpu={one.chosen.threads}")
        return found

    def write(self) -> Path:
        """Make the changes in the scenario's file as it is by now, whose comments stay, and return
        the file.

        Raises:
            ScenarioError: a key is meant in several places of the file, or it is wrong by now.
            OutputNotWritable: it cannot be written.

        """
        file = Path(self.loaded.document.file).resolve()
        changed = Slowly().resolve(examine(file, self.changes)).good()
        write(file, [changed.document.text.encode()], file.stat().st_mode & 0o777)
        settle(file.parent)
        return file

    def as_plain(self) -> dict[str, Any]:
        """Return plain values, for programs; seconds are those of a step."""
        return {
            "scenario": self.loaded.scenario.name,
            "cores": self.cores,
            "repetitions": self.repetitions,
            "hospitals": {
                name: {
                    "network": one.network,
                    "now": one.now._asdict(),
                    "chosen": one.chosen._asdict(),
                    "gain": round(one.gain, 4),
                    "formats": [*map(_plain, one.formats)],
                    "threads": [*map(_plain, one.threads)],
                    "skipped": one.skipped,
                }
                for one in self.hospitals
                for name in one.names
            },
            "changes": self.changes,
        }

    def lines(self) -> Iterator[str]:
        """Write for people what a step takes, what is saved and how sure that is."""
        said = counted(self.repetitions, "repetition")
        yield f"a step on this machine, {self.cores} cores, {said} in turn; 1: as the scenario is"
        for one in self.hospitals:
            yield f"{', '.join(one.names)}: {one.network}, {one.now.words}"
            yield from _of_hospitals(one)
        changes = self.changes
        yield f"worth it: {', '.join(changes)}" if changes else "nothing saves a tenth"
        if any(one.chosen.precision != one.now.precision for one in self.hospitals):
            yield "another precision changes what is learned: compare accuracies before you keep it"
        elif changes:
            yield "a run after these changes has not the bytes of one before"


def _of_hospitals(one: TunedHospitals) -> Iterator[str]:
    if one.skipped:
        yield f"  not measured: {one.skipped}"
        return
    for found in one.formats:
        mark = f", chosen: {one.gain:.0%} less" if one.gain and _is(found, one) else ""
        given_up = f", after {found.repetitions}" if found.repetitions < _most(one) else ""
        yield (
            f"  {found.setting.words:<19}  {found.words:<16}  {1000 * found.cpu:.1f} ms of a CPU, "
            f"{1000 * found.wall:.1f} ms{given_up}{mark}"
        )
    for found in one.threads:
        mark = ", chosen" if found.setting.threads == one.chosen.threads else ""
        said = counted(found.setting.threads, "thread")
        yield f"  {said:<19}  {found.words:<16}  {1000 * found.wall:.1f} ms{mark}"


def _is(found: ComparedArithmetic, one: TunedHospitals) -> bool:
    return found.setting.words == one.chosen.words


def _most(one: TunedHospitals) -> int:
    return max(found.repetitions for found in one.formats)


def _plain(one: ComparedArithmetic) -> dict[str, Any]:
    numbers = {key: round(getattr(one, key), 6) for key in ("cpu", "wall", "ratio", "low", "high")}
    return {**one.setting._asdict(), **numbers, "repetitions": one.repetitions}


def check(loaded: Loaded, *, write: bool) -> None:
    """Refuse what has nothing to measure, or a file that is not the user's to change.

    Raises:
        InvalidValue: nothing is learned.
        OutputNotWritable: with ``write``, the scenario comes with the program.

    """
    if not loaded.scenario.learns:
        text = f"{loaded.scenario.algorithm.name!r} computes nothing that could be measured"
        raise InvalidValue(text, key=("algorithm", "name"), fix="choose an algorithm that learns")
    file = Path(loaded.document.file).resolve()
    for name, there in scenarios().items():
        if write and there.resolve() == file:
            text = f"{name} comes with the program and is not changed"
            fix = f"fedskd-sim init mine --from {name}, then fedskd-sim tune mine.yaml --write"
            raise OutputNotWritable(text, fix=fix)


def tune(
    loaded: Loaded,
    *,
    data: Path | None = None,
    repetitions: int = REPETITIONS,
    keep_precision: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Measure what a step of every hospital takes, and choose.

    Args:
        loaded: the scenario.
        data: where data files are.
        repetitions: how often every setting is measured; 2 or more say how sure it is.
        keep_precision: compare memory formats and threads alone.
        tell: is told the hospital that is measured next.

    Raises:
        InvalidValue: nothing is learned.

    """
    check(loaded, write=False)
    scenario, found = loaded.scenario, list[TunedHospitals]()
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in scenario.members:
        groups.setdefault(_alike(scenario, name), []).append(name)
    for names in groups.values():
        tell(names[0])
        found.append(_tune(loaded, tuple(names), data, repetitions, keep=keep_precision))
    return Tuned(loaded, usable_cores(), repetitions, tuple(found))


def _alike(scenario: Scenario, name: str) -> tuple[str, ...]:
    """Return what hospitals have in common that are measured once."""
    one, now = scenario.hospital(name), now_of(scenario, name)
    network = scenario.architecture(name).model_dump_json()
    return network, one.device, str(now.threads), now.words, str(one.privacy is None)


def now_of(scenario: Scenario, name: str) -> Arithmetic:
    """Return how a hospital computes as the scenario is."""
    training, one = scenario.training_of(name), scenario.hospital(name)
    means = ON_A_CPU if device(one.device) == "cpu" else {}
    precision, memory_format = training.precision, training.memory_format
    known = means.get(precision, precision), means.get(memory_format, memory_format)
    return Arithmetic(*known, one.resources.cpu)


def settings_of(
    scenario: Scenario, name: str, *, grids: bool, keep: bool = False
) -> list[Arithmetic]:
    """Return the precisions and memory formats that a hospital may have, its own first.

    Args:
        scenario: the scenario.
        name: the hospital.
        grids: its network takes images or volumes, which memory formats are for.
        keep: its precision stays.

    """
    now, card = now_of(scenario, name), device(scenario.hospital(name).device) != "cpu"
    precisions = ["fp32", *(["tf32"] if card else []), "bf16"]
    if keep or scenario.hospital(name).privacy:
        precisions = [now.precision]
    formats = ["contiguous", "channels_last"] if grids else [now.memory_format]
    pairs = [(one, two) for one in precisions for two in formats if (one, two) != now[:2]]
    return [now, *(now._replace(precision=one, memory_format=two) for one, two in pairs)]


def _tune(
    loaded: Loaded, names: tuple[str, ...], data: Path | None, repetitions: int, *, keep: bool
) -> TunedHospitals:
    """Measure the first of several hospitals that are alike."""
    scenario, host = loaded.scenario, names[0]
    network, now = scenario.architecture(host), now_of(scenario, host)
    if scenario.hospital(host).privacy:
        why = "steps of private hospitals are others, and would spend its privacy"
        return TunedHospitals(names, network.name, now, now, skipped=why)
    settings = settings_of(scenario, host, grids=network.takes not in GRIDLESS, keep=keep)
    formats: list[ComparedArithmetic] = []
    chosen = now
    if settings[1:]:
        formats = compare(loaded, host, settings, data=data, repetitions=repetitions)
        chosen = choose(now, formats[1:])
    share = usable_cores() // len(scenario.members)
    numbers = threads_of(now.threads, share)
    threads: list[ComparedArithmetic] = []
    if numbers[1:] and device(scenario.hospital(host).device) == "cpu":
        threads = compare(
            loaded,
            host,
            [chosen._replace(threads=number) for number in numbers],
            data=data,
            repetitions=repetitions,
            by_clock=share > 1,
        )
        chosen = choose(chosen, threads[1:])
    known = network.name, now, chosen
    return TunedHospitals(names, *known, tuple(formats), tuple(threads))


def threads_of(now: int, share: int) -> list[int]:
    """Return the numbers of threads to compare, the scenario's own first: powers of two up to a
    hospital's share of the processors, where all work at once.

    >>> threads_of(1, 0), threads_of(4, 0), threads_of(1, 5)
    ([1], [4, 1], [1, 2, 4])

    """
    powers = [1 << place for place in range(max(1, share).bit_length())]
    return [now, *(one for one in powers if one != now)]


def hint(loaded: Loaded, host: str, *, data: Path | None = None) -> str:
    """Say in a line whether a tenth of the steps of a hospital's own model could be saved, after
    few repetitions; nothing where it could not, or the hospital is private.
    """
    scenario = loaded.scenario
    if not scenario.learns or scenario.hospital(host).privacy:
        return ""
    grids = scenario.architecture(host).takes not in GRIDLESS
    settings = settings_of(scenario, host, grids=grids)
    found = compare(loaded, host, settings, data=data, repetitions=HINTED, guests={host: 1})
    chosen = choose(settings[0], found[1:])
    saved = [1 - one.ratio for one in found if one.setting == chosen]
    if chosen == settings[0]:
        return ""
    return f"{host}'s steps take about {saved[0]:.0%} less with {chosen.words}: fedskd-sim tune"
