"""The command line: it says where a scenario runs, never what is learned."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from fedskd_sim import __version__
from fedskd_sim.errors import INTERRUPTED, FedskdError, RunUnreadable, all_errors
from fedskd_sim.scenario import Loaded, Scenario, load

Args = ParamSpec("Args")
Result = TypeVar("Result")

SCENARIO = click.argument("scenario", type=click.Path(path_type=Path))
DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with data files. Default: the environment variable FEDSKD_DATA.",
)


def exit_codes() -> str:
    """Write the table of exit codes for the help text."""
    leaves = [error for error in all_errors() if not error.__subclasses__()]
    rows = [f"{error.exit_code:>3}  {(error.__doc__ or '').splitlines()[0]}" for error in leaves]
    rows = ["  0  Success.", "  1  An error nobody foresaw: please report it.", "  2  Wrong use of the command line.", *rows]
    return "\b\nExit codes:\n" + "\n".join([*rows, f"{INTERRUPTED}  Interrupted."])


def shown(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """Turn errors into a message on standard error and their exit code."""

    @wraps(function)
    def wrapper(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except FedskdError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted: everything has been stopped", err=True)
            sys.exit(INTERRUPTED)

    return wrapper


@click.group(epilog=exit_codes(), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Simulate federated learning without a centre.

    Every hospital is a process of its own with its own architecture; models travel a ring and teach each other.

    \b
    Examples:
      fedskd-sim validate scenarios/quickstart.yaml
      fedskd-sim launch scenarios/quickstart.yaml
      fedskd-sim launch scenarios/fedskin-ham10000.yaml --data ~/data --out runs/skin
      fedskd-sim report runs/skin
      eval "$(_FEDSKD_SIM_COMPLETE=bash_source fedskd-sim)"    # completion; also zsh_source, fish_source
    """


@main.command()
@click.argument("scenario", type=click.Path(path_type=Path), required=False)
@DATA
@click.option("--schema", is_flag=True, help="Print the JSON Schema of scenario files, for editors, and stop.")
@shown
def validate(scenario: Path | None, data: Path | None, *, schema: bool) -> None:
    """Check SCENARIO without starting anything.

    \b
    Examples:
      fedskd-sim validate scenarios/quickstart.yaml
      fedskd-sim validate --schema > scenario.schema.json
    """
    if schema:
        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        click.echo(json.dumps(dialect | Scenario.model_json_schema(by_alias=True), indent=1))
        return
    if scenario is None:
        raise click.UsageError("give a SCENARIO, or --schema")
    loaded = _checked(scenario, data)
    names = ", ".join(f"{hospital.name} ({hospital.architecture.name})" for hospital in loaded.scenario.hospitals)
    click.echo(f"{scenario} is a good scenario: {names}")


@main.command()
@SCENARIO
@click.option(
    "--on",
    "runtime",
    type=click.Choice(["processes", "memory"]),
    default="processes",
    show_default=True,
    help="processes: each hospital is its own process; memory: all in this one. The records are the same.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder, new or empty. Default: runs/NAME-DATE-TIME-ID.")
@DATA
@shown
def launch(scenario: Path, runtime: str, out: Path | None, data: Path | None) -> None:
    """Run SCENARIO to its end and report.

    \b
    Examples:
      fedskd-sim launch scenarios/quickstart.yaml
      fedskd-sim launch scenarios/quickstart.yaml --on memory --out runs/try
    """
    place = _runtime(runtime)
    loaded = _checked(scenario, data, place.prepare)

    from rich.console import Console  # noqa: PLC0415 - only commands that run something pay for it

    from fedskd_sim import report  # noqa: PLC0415
    from fedskd_sim.progress import Progress  # noqa: PLC0415
    from fedskd_sim.ring import Ring  # noqa: PLC0415
    from fedskd_sim.runtimes import folder  # noqa: PLC0415
    from fedskd_sim.runtimes.base import Order  # noqa: PLC0415

    order = Order(loaded, secrets.token_hex(4), folder.make(loaded, out, runtime), data)
    ring = Ring(loaded.scenario.names, loaded.scenario.algorithm.rounds)
    click.echo(f"{loaded.scenario.name}: {ring.size} hospitals, {ring.rounds} rounds, {runtime}; run folder {_short(order.folder)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Progress(ring, Console()) as progress:
            place.launch(order)
            place.wait(progress)
    except BaseException:
        with suppress(FedskdError):  # a failed run has a report as far as it goes, which must not hide the error that ended it
            report.write(order.folder, loaded.scenario.names)
        raise
    finally:
        place.stop()
    summary = report.write(order.folder, loaded.scenario.names)
    click.echo("\n" + report.as_text(summary))
    click.echo(f"report: {_short(order.folder / 'report.html')}")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="What to print.")
@shown
def report(run: Path, form: str) -> None:
    """Compute the tables and the HTML page of a RUN folder again, from its records.

    \b
    Examples:
      fedskd-sim report runs/skin
      fedskd-sim report runs/skin --format json | jq .personalization
    """
    from fedskd_sim import report as reports  # noqa: PLC0415 - only this command pays for it

    if not (run / "scenario.yaml").is_file():
        raise RunUnreadable(f"{run} is not a run folder", fix="give the folder that 'fedskd-sim launch' named")
    loaded = load(run / "scenario.yaml")
    summary = reports.write(run, loaded.scenario.names)
    click.echo(reports.as_text(summary) if form == "text" else json.dumps(reports.as_json(summary), indent=1))
    if form == "text":
        click.echo(f"report: {_short(run / 'report.html')}")


@main.command()
@shown
def models() -> None:
    """List architectures: parameters, taps and minimum input.

    \b
    Example:
      fedskd-sim models
    """
    from fedskd_sim.learning import models as registry  # noqa: PLC0415 - needs PyTorch

    click.echo(registry.listing())


@main.command(hidden=True)
@SCENARIO
@click.option("--run", required=True, help="Name of the run; the same for all members.")
@click.option("--out", type=click.Path(path_type=Path, exists=True), required=True, help="Run folder.")
@click.option("--bind", required=True, help="Where to listen: ipc://PATH, tcp://HOST:PORT or tcp://HOST:*.")
@click.option("--keys", type=click.Path(path_type=Path, exists=True), help="This member's key file.")
@shown
def controller(scenario: Path, run: str, out: Path, bind: str, keys: Path | None) -> None:
    """Be the controller of a run; runtimes start it. Prints the address it listens at."""
    from fedskd_sim.runtimes.member import MemberOrder, run_controller  # noqa: PLC0415

    run_controller(MemberOrder(scenario, "controller", run, out, bind, bind, keys), click.echo)


@main.command(hidden=True)
@SCENARIO
@click.option("--name", required=True, help="Which hospital of the scenario to be.")
@click.option("--run", required=True, help="Name of the run; the same for all members.")
@click.option("--out", type=click.Path(path_type=Path, exists=True), required=True, help="Run folder.")
@click.option("--bind", required=True, help="Where to listen: ipc://PATH, tcp://HOST:PORT or tcp://HOST:*.")
@click.option("--controller", "controller_at", required=True, help="Address of the controller.")
@click.option("--keys", type=click.Path(path_type=Path, exists=True), help="This member's key file.")
@click.option("--metrics", default="127.0.0.1:0", show_default=True, help="Where to serve /metrics.")
@DATA
@shown
def hospital(**given: Any) -> None:
    """Be one hospital of a run; runtimes start it."""
    from fedskd_sim.runtimes.member import MemberOrder, run_hospital  # noqa: PLC0415

    given["folder"], given["controller"] = given.pop("out"), given.pop("controller_at")
    run_hospital(MemberOrder(**given))


def _checked(scenario: Path, data: Path | None, meanwhile: Callable[[Loaded], None] = lambda _: None) -> Loaded:
    """Load a scenario and refuse it if its models or data cannot work; ``meanwhile`` is called before the slow part."""
    from fedskd_sim.scenario import raise_all  # noqa: PLC0415

    loaded = load(scenario)
    meanwhile(loaded)
    if loaded.scenario.algorithm.name != "placebo":
        from fedskd_sim.learning.admission import problems  # noqa: PLC0415 - needs PyTorch

        raise_all(loaded.document, problems(loaded.scenario, data))
    return loaded


def _runtime(name: str) -> Any:
    if name == "memory":
        from fedskd_sim.runtimes.memory import MemoryRuntime  # noqa: PLC0415

        return MemoryRuntime()
    from fedskd_sim.runtimes.processes import ProcessRuntime  # noqa: PLC0415

    return ProcessRuntime()


def _short(path: Path) -> str:
    """Show a path relative to here where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
