"""What must hold before a run starts, and after it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fedskd_sim.errors import (
    ChainBroken,
    FedskdError,
    InvalidValue,
    Key,
    RunUnreadable,
    Where,
    extras_named,
)
from fedskd_sim.member.schedule import unmet
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import (
    KEYS,
    AlgorithmKeys,
    Asked,
    Examined,
    Loaded,
    NoData,
    OwnAlgorithm,
    OwnCode,
    Scenario,
    ValidParts,
    examine,
    find,
    offered_here,
    raise_all,
    spaceless,
)

if TYPE_CHECKING:
    from fedskd_sim.custody.verify import Verdict

Result = TypeVar("Result")
Described = tuple[Mapping[str, Any], str]
"""Tensors of the networks, and why they are not known."""


class Learnable(NamedTuple):
    """What `of_learning` finds: what is wrong, and if nothing is, what should be known."""

    problems: list[FedskdError]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Slowly:
    """How the slow part of the checks is done: reading data and building models.

    Somebody else is ``asked`` for what `of_learning` finds, in place of this process, if nothing is
    wrong until then; ``tell`` is told the name of every hospital before its data is read, which may
    take long, ``seen`` in this process the `Facts` of it, and ``note`` every note.
    """

    asked: Callable[..., Learnable] | None = None
    tell: Callable[[str], None] = lambda _: None
    seen: Callable[[Any], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    says: Callable[[OwnCode], None] = lambda _: None
    """Is told which code of the user's own is about to be run."""
    code: Callable[..., Any] | None = None
    """Asks what algorithms of the user's own are, as `of_code`, in place of this process."""

    def resolve(self, found: Examined) -> Examined:
        """Ask code of the user's own for what it says of its algorithms, if there are any."""
        if not (found.asked and found.rest):
            return found
        size = len(found.rest.scenario.members)
        told, wrong = (self.code or of_code)(found.code, found.asked, size)
        if wrong:
            return replace(found, problems=(*found.problems, *wrong), asked=())
        return found.answered(told)

    def find(self, rest: ValidParts, data: Path | None, *, ready: bool) -> list[FedskdError]:
        """Find what is wrong with models and data."""
        if ready and self.asked:
            found = self.asked(rest, data, tell=self.tell)
        else:
            found = of_learning(rest, data, self.seen, self.tell)
        for text in found.notes:
            self.note(text)
        return found.problems


def load_and_check(
    scenario: Path | Loaded,
    data: Path | None,
    meanwhile: Callable[[Loaded], None] = lambda _: None,
    *,
    changes: Iterable[str] = (),
    elsewhere: tuple[type[FedskdError], ...] = (),
    also: Callable[[ValidParts], Iterable[FedskdError]] = lambda _: (),
    slowly: Slowly | None = None,
) -> Loaded:
    """Load a scenario and refuse it if its models or data cannot work.

    Args:
        scenario: the file, or the name of a scenario that comes with the program; or one that was
            loaded before.
        data: where data files are.
        meanwhile: is called before the slow part, if nothing is wrong until then.
        changes: what to change in the file before it is checked (`fedskd_sim.scenario.edit`).
        elsewhere: errors that say nothing here, because the run will happen at another place.
        also: finds what else is wrong, in view of what is meant to be done with what is right of
            the scenario.
        slowly: how to do the slow part.

    Raises:
        ScenarioError: the first problem, by line, with all others listed under it.

    """
    slowly = slowly or Slowly()
    found = _with_code(examined(scenario, changes), meanwhile, slowly)
    if _code_is_wrong(found):  # all that it should offer is missing, too
        return found.good()
    rest, more = found.rest, list[FedskdError]()
    if rest:  # what is right of a wrong scenario is checked, too, so that all is told at once
        more = [*also(rest), *(() if found.problems else never_met(rest.scenario))]
        if ready := not found.problems and not more:
            meanwhile(found.good())
        if _learns(rest):
            problems = slowly.find(rest, data, ready=ready)
            more += [error for error in problems if not isinstance(error, elsewhere)]
    return found.good(more)


def _with_code(found: Examined, meanwhile: Callable[[Loaded], None], slowly: Slowly) -> Examined:
    """Return which code of the user's own is about to be run, and let it say what its algorithms
    are.
    """
    if found.code:
        slowly.says(found.code)
    if not (found.asked and found.rest) or _code_is_wrong(found):
        return found
    meanwhile(Loaded(found.rest.scenario, found.document, found.code))
    return slowly.resolve(found)


def _code_is_wrong(found: Examined) -> bool:
    """Return whether code of the user's own cannot be read or imported."""
    return any(problem.key[:1] == ("code",) for problem in found.problems)


def examined(scenario: Path | Loaded, changes: Iterable[str] = ()) -> Examined:
    """Read a scenario; one that was loaded before has nothing wrong with it until it is changed."""
    if isinstance(scenario, Loaded):
        if changed := [*changes]:
            return scenario.changed(changed)
        rest = ValidParts(scenario.scenario, code=scenario.code)
        return Examined(scenario.document, rest, code=scenario.code)
    return examine(find(scenario), changes)


def never_met(scenario: Scenario, *under: Key) -> Iterator[FedskdError]:
    """Find faults that never come, at a place of the scenario's text."""
    if scenario.faults:
        for index, key, text, fix in unmet(scenario, Topology.of(scenario)):
            yield InvalidValue(text, key=(*under, "faults", index, key), fix=fix)


def _learns(rest: ValidParts) -> bool:
    """Return whether a scenario learns, as far as anybody can tell."""
    scenario = rest.scenario
    nothing_to_learn = all(isinstance(hospital.data, NoData) for hospital in scenario.hospitals)
    return scenario.learns and not (rest.lacks("algorithm", "name") and nothing_to_learn)


def of_code(code: OwnCode | None, asked: Iterable[Asked], size: int) -> Any:
    """Ask what algorithms of the user's own are, and what is wrong with them: runs their code, and
    imports PyTorch.
    """
    with extras_named():
        from fedskd_sim.learning.algorithms.own import ask  # noqa: PLC0415 - needs PyTorch

    return ask(code, asked, size)


def keys_in(
    found: Examined, says: Callable[[OwnCode], None] = lambda _: None
) -> dict[str, type[AlgorithmKeys]]:
    """Return the keys of all algorithms that packages and a scenario's own code offer, by their
    names: runs that code, and imports PyTorch.

    Raises:
        FedskdError: the code cannot be read or imported, or an algorithm has no keys.

    """
    import_code(found, says)
    with extras_named():
        from fedskd_sim.learning.algorithms.own import all_keys  # noqa: PLC0415 - needs PyTorch

    return all_keys()


def import_code(found: Examined, says: Callable[[OwnCode], None] = lambda _: None) -> None:
    """Import a scenario's own code, so that what it offers is known here; imports PyTorch.

    Raises:
        FedskdError: the code cannot be read or imported.

    """
    raise_all(found.document, [one for one in found.problems if one.key[:1] == ("code",)])
    if found.code:
        says(found.code)
    with extras_named():
        from fedskd_sim.learning.offers import OWN  # noqa: PLC0415 - needs PyTorch

    OWN.use(found.code)


def of_learning(
    rest: ValidParts,
    data: Path | None,
    seen: Callable[[Any], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Learnable:
    """Find what is wrong with models and data, or maps of which a level compares little or nothing;
    as `Slowly` says. Imports PyTorch.
    """
    with extras_named():
        from fedskd_sim.learning.comparable import notes_of_maps  # noqa: PLC0415 - needs PyTorch
        from fedskd_sim.learning.offers import OWN  # noqa: PLC0415
        from fedskd_sim.learning.preflight import find_problems  # noqa: PLC0415

    known = list[Any]()

    def keep(facts: Any) -> None:
        known.append(facts)
        seen(facts)

    try:
        OWN.use(rest.code)
    except FedskdError as error:
        return Learnable([error], [])
    wrong = [*find_problems(rest.scenario, data, keep, rest.doubtful, tell=tell)]
    return Learnable(wrong, [] if wrong else [*notes_of_maps(rest.scenario, known)])


def unused_card(scenario: Scenario, runtime: object = None) -> str:
    """Return why hospitals whose device is ``auto`` will not use this machine's card;
    empty where there is none, or they will. PyTorch is asked only where there are signs of a card.

    Args:
        scenario: what is to run here.
        runtime: where it is to run; one that has PyTorch in a process of its own is asked.

    """
    if not scenario.learns or all(hospital.device != "auto" for hospital in scenario.hospitals):
        return ""
    from fedskd_sim.learning.drivers import signs_of_card  # noqa: PLC0415 - only who learns here has cards

    return (asker(runtime, of_card) or of_card)() if signs_of_card() else ""


def of_card() -> str:
    """Return why PyTorch cannot use the card that this machine has; imports PyTorch."""
    with extras_named():
        from fedskd_sim.learning.devices import card_support  # noqa: PLC0415 - needs PyTorch

    return card_support().unused


def own_parts(loaded: Loaded) -> str:
    """Name the loss and the algorithm of the user's own that a scenario has; '' for none."""
    algorithm = loaded.scenario.algorithm
    own = [f"loss {algorithm.loss}"] if algorithm.loss else []
    if isinstance(algorithm, OwnAlgorithm) and not offered_here(KEYS, algorithm.name):
        own.append(f"algorithm {algorithm.name}")
    return " and ".join(own)


def apart(rest: ValidParts, runtime: str) -> Iterator[FedskdError]:
    """Refuse to pool data where hospitals are apart, and volumes of which a cluster cannot tell
    whether they lie alike.
    """
    scenario = rest.scenario
    if scenario.pools and runtime != "memory":
        text = (
            f"'pooled' puts all hospitals' data into one place, and --on {runtime} keeps them apart"
        )
        fix = "it is a reference, no federation: launch it with --on memory"
        yield InvalidValue(text, key=("algorithm", "name"), fix=fix)
    if runtime == "kubernetes":
        yield from spaceless(scenario.hospitals)


def licences(scenario: Scenario) -> list[str]:
    """List what the licence of each data set asks for, where it asks for more than naming the
    source.
    """
    asked = dict.fromkeys(getattr(hospital.data, "licence", "") for hospital in scenario.hospitals)
    return [licence for licence in asked if licence]


def asker(runtime: object, question: Callable[..., Result]) -> Callable[..., Result] | None:
    """Return how a runtime's own process is asked what takes PyTorch, if it has one."""
    from fedskd_sim.runtimes.base import AnswersQuestions  # noqa: PLC0415 - only who runs something pays for it

    return partial(runtime.ask, question) if isinstance(runtime, AnswersQuestions) else None


def verify_run(
    run: Path, scenario: Scenario, data: Path | None, found: Described | None = None
) -> tuple[Verdict, str]:
    """Verify the folder of a scenario's run; gives what was found and, if weights could not be
    compared, why. What is not shown with it, `not_proven` says.

    Args:
        run: the folder.
        scenario: what ran.
        data: where data files are, for a run without a list of its networks' tensors.
        found: what `of_models` has found, where that is known.

    Raises:
        RunUnreadable: it is no run folder, has no records, or a file of it cannot be read.

    """
    from fedskd_sim.custody import seal  # noqa: PLC0415 - only who looks at a run pays for it
    from fedskd_sim.custody.verify import verify  # noqa: PLC0415

    if found is None and (kept := seal.kept_tensors(run)) is not None:
        found = kept, ""
    if found is None:
        found = of_models(scenario, data) if scenario.learns else ({}, "")
    tables, remark = found
    try:
        verdict = verify(run, scenario, tables, [*_finished_hospitals(run)])
    except OSError as error:
        text = f"{error.filename or run} cannot be read: {error.strerror or error}"
        raise RunUnreadable(text, fix="make it readable") from error
    broken = verdict.broken or _beyond_records(run, scenario, verdict)
    return verdict._replace(broken=broken), remark


def _beyond_records(run: Path, scenario: Scenario, found: Verdict) -> ChainBroken | None:
    """Return the first break that lies in predictions, or in the seal that is gone."""
    from fedskd_sim.custody import seal  # noqa: PLC0415 - only who looks at a run pays for it
    from fedskd_sim.observe import outcome  # noqa: PLC0415

    if any(run.glob("predictions/*.npz")):
        from fedskd_sim.results.agreement import disagreements  # noqa: PLC0415 - needs NumPy

        if error := next(disagreements(run, scenario), None):
            return error
    how = outcome.read(run)
    if how is None or how.state != "ended well" or found.sealed:
        return None
    where = Where(str(run / seal.FILE))
    return ChainBroken("missing: the run ended well and was sealed", fix=seal.FIX, where=where)


def not_proven(run: Path, scenario: Scenario, found: Verdict) -> Iterator[str]:
    """Return what `verify_run` has not shown of a folder that is whole, line by line.

    Raises:
        ChainBroken: the signature of the seal is none.

    """
    from fedskd_sim.custody import seal  # noqa: PLC0415 - only who looks at a run pays for it

    signed, sealed = seal.signature(run), seal.read(run)
    if not sealed:
        yield "not sealed: nothing shows whether measures were changed since"
    elif not sealed.meaning:
        yield "not proven: what the scenario meant; the seal, of version 0.1.0, has no word of it"
    elif sealed.meaning != seal.meaning_of(scenario):
        yield "not proven: that this version reads the scenario as the one did that sealed the run"
    if signed:
        yield signed
    yield from (f"not proven: {text}" for text in _without_proof(run, scenario, found))
    if sealed and not signed:
        yield (
            "not proven: settings and measures, of which records have no digest, against somebody "
            "who seals again; a signed seal shows it"
        )


def _without_proof(run: Path, scenario: Scenario, found: Verdict) -> Iterator[str]:
    """Return which files are missing that could show more, and of what only records tell."""
    away = [*found.lost, *found.back]
    if away:
        yield f"that {', '.join(away)} was lost: only the records of the others say so"
    if not scenario.learns:
        return
    here = [name for name in scenario.names if name not in found.lost]
    kept = {
        folder: {file.stem for file in run.glob(f"{folder}/*") if file.is_file()}
        for folder in ("samples", "predictions", "weights")
    }
    for folder, names, what in (
        ("weights", [name for name in here if name in scenario.members], "models at the end"),
        ("predictions", here, "accuracies"),
        ("samples", here, "numbers of samples"),
    ):
        gone = [name for name in names if name not in kept[folder]]
        if gone:
            whose = "" if gone == names else f" of {', '.join(gone)}"
            yield f"{what}{whose}: {folder} are not kept"


def prove(
    run: Path,
    scenario: Scenario,
    data: Path | None,
    runtime: object,
    code: OwnCode | None = None,
) -> str:
    """Verify the folder of a run that has ended well, seal it, and say in one line what was proven.

    Args:
        run: the folder.
        scenario: what ran.
        data: where data files are.
        runtime: where it ran; one that has PyTorch in a process of its own is asked for what takes
            it.
        code: what the scenario brings along, which has run.

    Raises:
        ChainBroken: the first break; nothing is sealed.
        OutputNotWritable: the folder cannot be written.

    """
    from fedskd_sim.custody import seal  # noqa: PLC0415 - only who has run something pays for it

    for file in (seal.FILE, seal.TENSORS):
        (run / file).unlink(missing_ok=True)  # of an earlier end, before the run went on
    found: Described = ({}, "")
    if scenario.learns:
        found = (asker(runtime, of_models) or of_models)(scenario, data, code)
    verdict, remark = verify_run(run, scenario, data, found)
    if verdict.broken:
        raise verdict.broken
    if found[0]:
        seal.keep_tensors(run, found[0])
    seal.seal(run, scenario)
    return f"{verdict}" + (f"; {remark}" if remark else "")


def of_models(scenario: Scenario, data: Path | None, code: OwnCode | None = None) -> Described:
    """Describe the networks' tensors, or say why that cannot be; imports PyTorch, and runs no other
    code of the user's own than it is given.
    """
    if scenario.code and code is None:
        return {}, "weights were not compared: the scenario brings code, which is not run to verify"
    try:
        with extras_named():
            from fedskd_sim.learning.comparable import image_shape  # noqa: PLC0415 - needs PyTorch
            from fedskd_sim.learning.offers import OWN  # noqa: PLC0415
            from fedskd_sim.learning.site import specs_of  # noqa: PLC0415
        OWN.use(code)
        return specs_of(scenario, image_shape(scenario, scenario.members[0], data)), ""
    except FedskdError as error:
        return {}, f"weights were not compared: {error}"


def _finished_hospitals(run: Path) -> Iterator[str]:
    """List the hospitals whose log says that they have finished."""
    from fedskd_sim.observe import events  # noqa: PLC0415 - only who looks at a run pays for it
    from fedskd_sim.runtimes.folder import Tail  # noqa: PLC0415

    for file in sorted(run.glob("logs/*.jsonl")):
        told = Tail(file, only=f'"{events.name_of(events.DoneEvent)}"'.encode())
        if any(isinstance(logged.what, events.DoneEvent) for logged in told.events()):
            yield file.stem
