"""The command line: it says where a scenario runs, never what is learned."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim import __version__
from fedskd_sim.cli import members
from fedskd_sim.cli.common import (
    AS_JSON,
    CHANGES,
    DATA,
    SCENARIO,
    PathArgument,
    Spoken,
    Waiting,
    complete_scenarios,
    exit_codes,
    say_code,
    wanted,
    with_exit_code,
)
from fedskd_sim.cli.compare import compare
from fedskd_sim.cli.data import data as data_group
from fedskd_sim.cli.follow import audit, collect, export, init, logs, report, status, stop, verify
from fedskd_sim.cli.launch import launch, resume
from fedskd_sim.cli.watch import list_runs, open_page, remove, watch
from fedskd_sim.errors import FedskdError
from fedskd_sim.observe.words import short_path

if TYPE_CHECKING:
    from fedskd_sim.scenario import Loaded, Scenario

DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


@click.group(
    cls=Spoken,
    epilog="Exit codes: fedskd-sim help exit-codes",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "color": True,  # else click takes out what is shown escaped
    },
)
@click.version_option(__version__)
@click.option("--quiet", "-q", is_flag=True, help="No progress: only results and errors.")
@click.option("--verbose", "-v", is_flag=True, help="With an error, where in the program it arose.")
def main(*, quiet: bool, verbose: bool) -> None:
    """Simulate federated learning without a centre.

    Every hospital is a process or a pod of its own, with its own architecture; models travel a ring
    and teach each other.

    \b
    Examples:
      fedskd-sim launch quickstart
      fedskd-sim watch
      fedskd-sim launch fedskin-ham10000 --data ~/data --out runs/skin
      fedskd-sim report runs/skin
      eval "$(_FEDSKD_SIM_COMPLETE=bash_source fedskd-sim)"    # also zsh_source, fish_source
    """


@main.command()
@click.argument(
    "scenario",
    type=PathArgument(path_type=Path),
    required=False,
    shell_complete=complete_scenarios,
)
@CHANGES
@DATA
@click.option(
    "--no-code",
    is_flag=True,
    help="Import nothing of the scenario's own code, and no data: check what can be without.",
)
@click.option(
    "--schema",
    is_flag=True,
    help="Print the JSON Schema of scenario files, for editors, and stop; with SCENARIO, that of "
    "its own algorithms, too.",
)
@AS_JSON
@with_exit_code
def validate(
    scenario: Path | None,
    changes: tuple[str, ...],
    data: Path | None,
    *,
    schema: bool,
    no_code: bool,
    as_json: bool,
) -> None:
    """Check SCENARIO, a file or a name as for launch, without starting anything, and show what is
    read of its data.

    \b
    Examples:
      fedskd-sim validate quickstart
      fedskd-sim validate mine.yaml --data ~/data
      fedskd-sim validate mine.yaml --set hospitals.aachen.architecture=vit-tiny
      fedskd-sim validate theirs.yaml --no-code
      fedskd-sim validate --schema > scenario.schema.json
      fedskd-sim validate own.yaml --schema > scenario.schema.json
    """
    if schema:
        from fedskd_sim.operate.checks import keys_in  # noqa: PLC0415 - help and completion need no scenario
        from fedskd_sim.scenario import examine, find, json_schema  # noqa: PLC0415

        given = None if no_code else scenario
        keys = keys_in(examine(find(given), changes), say_code) if given else {}
        click.echo(json.dumps(DIALECT | json_schema(keys), indent=1))
        return
    if scenario is None:
        raise click.UsageError("give a SCENARIO, or --schema")
    if no_code and as_json:
        raise click.UsageError("--json tells of data, which --no-code does not read")
    if no_code:
        _without_code(scenario, changes)
        return
    _check(scenario, changes, data, as_json=as_json)


def _check(scenario: Path, changes: tuple[str, ...], data: Path | None, *, as_json: bool) -> None:
    """Check a scenario, and show what is read of its data."""
    from fedskd_sim.operate.checks import Slowly, load_and_check  # noqa: PLC0415 - help and completion need no scenario

    known: list[Any] = []
    with Waiting() as waiting:
        loaded = load_and_check(
            scenario,
            data,
            changes=changes,
            slowly=Slowly(tell=waiting.checks, seen=known.append, says=say_code),
        )
        notes = [*_of_samples(loaded, known, data, waiting.checks)]
    names = ", ".join(
        f"{hospital.name} ({hospital.architecture.name})" for hospital in loaded.scenario.hospitals
    )
    tried = _try(loaded, data)
    if as_json:
        found = loaded.scenario
        told = [*_of_links(found), *notes, *_in_vain(loaded), *tried]
        named = {one.name: one.architecture.name for one in found.hospitals}
        about = {"scenario": found.name, "algorithm": found.algorithm.name, "seed": found.seed}
        click.echo(json.dumps(about | {"hospitals": named, "notes": told}, indent=1))
        return
    click.echo(f"{scenario} is valid: {names}")
    for line in (*_of_links(loaded.scenario), *notes, *_in_vain(loaded), *tried):
        click.echo(line)
    for geometry in [facts.geometry for facts in known if facts.geometry][:1]:
        click.echo(f"Volumes lie in one space: {geometry.key()}")


@main.command()
@SCENARIO
@DATA
@click.option(
    "--repetitions",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="How often every way to compute is measured, in turn.",
)
@click.option(
    "--keep-precision", is_flag=True, help="Compare memory formats and threads alone, not bf16."
)
@click.option("--write", is_flag=True, help="Change SCENARIO, a file; its comments stay.")
@AS_JSON
@with_exit_code
def tune(
    scenario: Path,
    data: Path | None,
    repetitions: int,
    *,
    keep_precision: bool,
    write: bool,
    as_json: bool,
) -> None:
    """Measure on this machine which precision, memory format and threads SCENARIO should have.

    Every hospital takes a few steps of its sessions under each, in turn. What saves less than a
    tenth of a step is left as it is. Another precision changes what is learned.

    \b
    Examples:
      fedskd-sim tune quickstart
      fedskd-sim tune mine.yaml --data ~/data --write
      fedskd-sim tune mine.yaml --keep-precision --json
    """
    from fedskd_sim.operate import tune as tuning  # noqa: PLC0415 - needs PyTorch
    from fedskd_sim.operate.checks import Slowly, load_and_check  # noqa: PLC0415 - help and completion need no scenario

    with Waiting() as waiting:
        slowly = Slowly(tell=waiting.checks, says=say_code)
        loaded = load_and_check(scenario, data, changes=(), slowly=slowly)
    tuning.check(loaded, write=write)
    found = tuning.tune(
        loaded,
        data=data,
        repetitions=repetitions,
        keep_precision=keep_precision,
        tell=lambda name: None if wanted("quiet") else click.echo(f"measuring {name}", err=True),
    )
    if as_json:
        click.echo(json.dumps(found.as_plain(), indent=1))
    else:
        click.echo("\n".join(found.lines()))
    if write and found.changes:
        click.echo(f"{short_path(found.write())} is changed", err=as_json)


def _try(loaded: Loaded, data: Path | None) -> list[str]:
    """Take a few steps at all hospitals with the scenario's own loss or algorithm, if it has any,
    and say so; raises what ends them.
    """
    from fedskd_sim.operate.checks import own_parts  # noqa: PLC0415 - help and completion need no scenario

    own = own_parts(loaded)
    if not own:
        return []
    from fedskd_sim.operate.trial import try_own  # noqa: PLC0415 - only code of one's own needs it

    with redirect_stderr(io.StringIO()):  # a traceback says no more
        try_own(loaded, data)
    return [f"Tried: {own}, in a short run of all hospitals, which ended well"]


def _without_code(scenario: Path, changes: tuple[str, ...]) -> None:
    """Check what can be checked of a scenario without its own code, and name that."""
    from fedskd_sim.scenario import examine, find, raise_all  # noqa: PLC0415 - help and completion need no scenario

    found = examine(find(scenario), changes)
    raise_all(found.document, found.problems)
    click.echo(f"{scenario}: nothing is wrong, as far as can be known without its code and data")
    if found.code:
        click.echo(f"Not imported: {', '.join(sorted(found.code.files))}, in {found.code.home}")
        click.echo(f"  digest {found.code.digest}")
    if found.rest and any(one.privacy for one in found.rest.scenario.hospitals):
        click.echo("Note: what private hospitals will spend is known once their data is read.")
    for one in found.asked:
        name = one.given["name"]
        click.echo(f"Note: {found.document.locate(one.key)}: only code knows the keys of {name!r}.")


def _in_vain(loaded: Loaded) -> Iterator[str]:
    """Yield a line for every key that has no effect, and of a card that none uses."""
    from fedskd_sim.operate.checks import unused_card  # noqa: PLC0415 - help and completion need no scenario

    for text, where in loaded.idle.items():
        yield f"Note: {where}: {text}."
    if text := unused_card(loaded.scenario):
        yield f"Note: {text}."


def _of_links(scenario: Scenario) -> Iterator[str]:
    """Return what the scenario's links do."""
    if scenario.links:
        yield f"Links: {scenario.links_in_words}"


def _of_samples(
    loaded: Loaded, known: Sequence[Any], data: Path | None, tell: Callable[[str], None]
) -> Iterator[str]:
    """Return what is known of every hospital's samples."""
    scenario = loaded.scenario
    if known:
        from fedskd_sim.learning import comparable  # noqa: PLC0415 - needs PyTorch

        yield from comparable.notes_of(known)
        yield from comparable.notes_of_maps(scenario, known)
        try:
            yield from comparable.notes_of_arrays(scenario, data, tell)
        except FedskdError as error:
            raise loaded.place_error(error) from None
    from fedskd_sim.results import samples  # noqa: PLC0415 - the controller has no numpy, which reports need

    counts = [facts.counts for facts in known]
    training = [one for one in counts if one.host not in scenario.held_out]
    yield from samples.lines(counts)
    yield from samples.short_passes(training, scenario.training.batch_size)
    if known and any(hospital.privacy for hospital in scenario.hospitals):
        from fedskd_sim.learning import guarded  # noqa: PLC0415 - needs PyTorch

        yield from guarded.lines(scenario, known)


@main.command()
@click.argument("name", required=False)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the architecture (options..., input, taps); repeatable.",
)
@click.option(
    "--scenario",
    type=PathArgument(path_type=Path),
    help="Know the networks of this scenario's own code, which is imported, too.",
)
@AS_JSON
@with_exit_code
def models(
    name: str | None, changes: tuple[str, ...], scenario: Path | None, *, as_json: bool
) -> None:
    """List architectures: parameters, operations, taps, minimum input and options; or the modules
    of the network NAME that give maps, among which its taps are chosen.

    \b
    Examples:
      fedskd-sim models
      fedskd-sim models torchvision.models:SqueezeNet --set 'options.num_classes=$classes'
      fedskd-sim models my-cnn --scenario mine.yaml
    """
    if scenario:
        from fedskd_sim.operate.checks import import_code  # noqa: PLC0415 - help and completion need no scenario
        from fedskd_sim.scenario import examine, find  # noqa: PLC0415

        import_code(examine(find(scenario)), say_code)
    if as_json and name:
        raise click.UsageError("--json lists all architectures: give it without NAME")
    if not (name or as_json):
        from fedskd_sim.learning.networks.listed import listing  # noqa: PLC0415 - only here

        click.echo(listing())
        return
    from fedskd_sim.learning.networks.listing import as_plain, modules_of  # noqa: PLC0415 - needs PyTorch

    if name:
        from fedskd_sim.scenario import load_architecture  # noqa: PLC0415 - help and completion need no scenario

        click.echo(modules_of(load_architecture(name, changes)))
    else:
        click.echo(json.dumps(as_plain(), indent=1))


@main.command("help")
@click.argument("topic", required=False)
@click.pass_context
def help_(context: click.Context, topic: str | None) -> None:
    """Show the help of a command, or all exit codes.

    \b
    Examples:
      fedskd-sim help launch
      fedskd-sim help exit-codes
    """
    if topic == "exit-codes":
        click.echo(exit_codes())
        return
    root = context.find_root()
    found = main.get_command(root, topic) if topic else main
    if found is None:
        raise click.UsageError(f"there is no command {topic!r}; 'fedskd-sim help' lists all")
    named = click.Context(found, info_name=topic, parent=root) if topic else root
    click.echo(found.get_help(named))


for command in (
    init,
    launch,
    compare,
    data_group,
    list_runs,
    watch,
    open_page,
    remove,
    status,
    logs,
    stop,
    collect,
    report,
    audit,
    export,
    resume,
    verify,
    members.controller,
    members.hospital,
    members.conduct,
    members.read_claim,
):
    main.add_command(command)
