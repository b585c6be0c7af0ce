"""Commands beside a run: status, logs, stop, collect, report, audit, verify and export, and
``init``, which writes a scenario to begin with.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fedskd_sim import clock
from fedskd_sim.cli import common
from fedskd_sim.cli.common import (
    AS_JSON,
    CONTEXT,
    DATA,
    NAMESPACE,
    PathArgument,
    Waiting,
    complete_runs,
    complete_scenarios,
    say_code,
    with_exit_code,
)
from fedskd_sim.cli.launch import attendant, tell_end
from fedskd_sim.errors import FedskdError
from fedskd_sim.observe.words import short_path

if TYPE_CHECKING:
    from fedskd_sim.custody.verify import Verdict
    from fedskd_sim.observe.progress import LiveView
    from fedskd_sim.operate.run_access import FoundRun


WATCH_S = 2.0


def _hospitals(
    context: click.Context, _argument: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Complete the members of the run that stands before."""
    from fedskd_sim.scenario import load  # noqa: PLC0415 - help and completion need no scenario

    file = Path(context.params.get("run") or "") / "scenario.yaml"
    try:
        names = ("controller", *load(file).scenario.names)
    except FedskdError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(typed)]


RUN = click.argument("run", shell_complete=complete_runs)


@click.command()
@RUN
@NAMESPACE
@CONTEXT
@click.option(
    "--watch", "-w", is_flag=True, help="Show it again every few seconds, until the run has ended."
)
@AS_JSON
@with_exit_code
def status(run: str, namespace: str, context: str, *, watch: bool, as_json: bool) -> None:
    """Show how far a RUN is: a run folder, or the name of a run in a cluster.

    \b
    Examples:
      fedskd-sim status runs/skin
      fedskd-sim status runs/skin --watch
      fedskd-sim status runs/skin --json | jq .seconds_left
      fedskd-sim status quickstart --namespace fedskd
    """
    from fedskd_sim.operate import run_access  # noqa: PLC0415 - only commands that show a run pay for it

    if as_json and watch:
        raise click.UsageError("--json tells how it is now: give it without --watch")
    view: LiveView | None = None
    with closing(run_access.run(run, namespace, context)) as seen:
        if as_json:
            click.echo(json.dumps(_plain_status(seen), indent=1))
            return
        while watch and seen.going:
            common.console().clear()
            began = clock.now()
            view = _show(seen, view, watch=True)
            clock.sleep(max(WATCH_S, clock.now() - began))  # a large run's logs take long to read
        _show(seen, view, watch=watch)


def _plain_status(seen: FoundRun) -> dict[str, Any]:
    """Tell how a run is as plain values."""
    from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415 - only commands that show a run pay for it
    from fedskd_sim.ring.topology import Topology  # noqa: PLC0415

    view, going = LiveView.unseen(Topology.of(seen.loaded.scenario)), seen.going
    for event in seen.events():
        view(event)
    return {
        "scenario": seen.loaded.scenario.name,
        "going": going,
        "seconds_left": view.seconds_left() if going else None,
        "hospitals": {
            name: {
                "now": row.doing,
                "round": row.place[0] if row.place else None,
                "hop": row.place[1] if row.place else None,
                "accuracy": row.accuracy,
                "stops": row.behind_it,
                "of": row.total,
                "device_bytes": row.device_bytes,
                "privacy": asdict(row.spent) if row.spent else None,
            }
            for name, row in view.rows.items()
        },
        "remarks": [*filter(None, [view.remark]), *seen.remarks()],
    }


def _show(seen: FoundRun, view: LiveView | None, *, watch: bool) -> LiveView:
    """Show a run, of which a view knows what was read before; gives the view that knows all."""
    from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415 - only commands that show a run pay for it
    from fedskd_sim.ring.topology import Topology  # noqa: PLC0415

    view = view or LiveView(Topology.of(seen.loaded.scenario), common.console(), quiet=True)
    for event in seen.news() if watch else seen.events():
        view(event)
    view.show()
    if view.remark and seen.going:  # afterwards the outcome tells it
        click.echo(view.remark)
    for line in seen.remarks():
        click.echo(line)
    return view


@click.command()
@RUN
@click.argument("hospital", default="", shell_complete=_hospitals)
@NAMESPACE
@CONTEXT
@click.option(
    "--follow", "-f", is_flag=True, help="Go on with what is logged, until the run has ended."
)
@with_exit_code
def logs(run: str, hospital: str, namespace: str, context: str, *, follow: bool) -> None:
    """Print the log of a HOSPITAL, or of the controller, of a RUN (folder or name in a cluster).

    \b
    Examples:
      fedskd-sim logs runs/skin
      fedskd-sim logs runs/skin aachen --follow
      fedskd-sim logs quickstart bergen --namespace fedskd
    """
    from fedskd_sim.operate import run_access  # noqa: PLC0415 - needs what runs need

    seen = run_access.run(run, namespace, context)
    names = seen.loaded.scenario.names
    if hospital and hospital not in (*names, "controller"):
        raise click.UsageError(
            f"{hospital!r} is no hospital of this run; it has {', '.join(names)}"
        )
    for line in seen.lines(hospital or "controller", follow=follow):
        click.echo(line)


@click.command()
@RUN
@NAMESPACE
@CONTEXT
@with_exit_code
def stop(run: str, namespace: str, context: str) -> None:
    """End a RUN (folder or name in a cluster) and free everything it holds; its records so far stay
    in its folder.

    \b
    Examples:
      fedskd-sim stop runs/skin
      fedskd-sim stop quickstart --namespace fedskd
    """
    from fedskd_sim.operate import run_access  # noqa: PLC0415 - needs what runs need

    click.echo(run_access.run(run, namespace, context).stop())


@click.command()
@RUN
@click.option(
    "--out",
    type=PathArgument(path_type=Path),
    help="Run folder, new or empty, for a run given by name.",
)
@NAMESPACE
@CONTEXT
@click.option(
    "--keep", is_flag=True, help="Leave the run's objects in the cluster when it has ended."
)
@with_exit_code
def collect(run: str, out: Path | None, namespace: str, context: str, *, keep: bool) -> None:
    """Join a RUN in a cluster: show its progress, wait for its end, fetch its results, report.

    \b
    Examples:
      fedskd-sim collect runs/skin                       # launched with --detach
      fedskd-sim collect quickstart --namespace fedskd   # installed with helm
    """
    from fedskd_sim.operate import execution, run_access  # noqa: PLC0415 - needs what runs need

    place, order = run_access.to_collect(run, out, namespace, context)
    place.keep = keep
    click.echo(f"{order.loaded.scenario.name}: collecting into {short_path(order.folder)}")
    tell_end(order, execution.follow(place, order, attendant(order), launched=True))


@click.command()
@click.argument("run", type=PathArgument(path_type=Path), shell_complete=complete_runs)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print.",
)
@click.option(
    "--figures",
    type=PathArgument(path_type=Path),
    metavar="DIR",
    help="Also write every figure as SVG and PDF, and its numbers as CSV, into this folder.",
)
@with_exit_code
def report(run: Path, form: str, figures: Path | None) -> None:
    """Compute the tables and the HTML page of a RUN folder again, from its records.

    For a run in a cluster that was not collected yet, what its pods have logged so far is read
    first.

    \b
    Examples:
      fedskd-sim report runs/skin
      fedskd-sim report runs/skin --format json | jq .personalization
      fedskd-sim report runs/skin --figures paper/figures
    """
    from fedskd_sim.operate import execution, run_access  # noqa: PLC0415 - only this command pays for it
    from fedskd_sim.records.files import no_run  # noqa: PLC0415
    from fedskd_sim.results.report import as_json, as_text  # noqa: PLC0415
    from fedskd_sim.scenario import load  # noqa: PLC0415

    if not (run / "scenario.yaml").is_file():
        raise no_run(run)
    for line in run_access.refresh(run):
        click.echo(line, err=True)
    loaded = load(run / "scenario.yaml")
    summary = execution.report(run, loaded, figures=figures)
    click.echo(
        as_text(summary, whole=False, width=common.width())
        if form == "text"
        else json.dumps(as_json(summary), indent=1)
    )
    if form == "text":
        click.echo(f"report: {short_path(run / 'report.html')}")
    if figures:
        click.echo(f"figures: {short_path(figures)}", err=form == "json")


@click.command()
@click.argument("run", type=PathArgument(path_type=Path), shell_complete=complete_runs)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "parquet", "tensorboard", "mlflow"]),
    default="csv",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--out",
    type=PathArgument(path_type=Path),
    help="Folder for the files. Default: export/ in the folder.",
)
@with_exit_code
def export(run: Path, form: str, out: Path | None) -> None:
    """Write the tables of a RUN folder: hops, measures, matrix, timings and predictions.
    For TensorBoard and MLflow: the measures of every model, by its stops.

    Of the folder of a comparison: methods (means with intervals) and differences, as CSV or
    Parquet.

    \b
    Examples:
      fedskd-sim export runs/compare-heart
      fedskd-sim export runs/skin
      fedskd-sim export runs/skin --format parquet --out tables
      fedskd-sim export runs/skin --format tensorboard
      MLFLOW_TRACKING_URI=http://localhost:5000 fedskd-sim export runs/skin --format mlflow
    """
    from fedskd_sim.records.files import COMPARISON  # noqa: PLC0415 - help and completion need no records
    from fedskd_sim.results import export as exports  # noqa: PLC0415 - only this command pays for it
    from fedskd_sim.results.runs import read_run  # noqa: PLC0415

    place = out or run / "export"
    if (run / COMPARISON).is_file():
        from fedskd_sim.results.comparison.folder import ComparisonFolder  # noqa: PLC0415 - as above

        written = exports.write_comparison(ComparisonFolder.read(run), form, place)
    else:
        written = exports.write(read_run(run), form, place)
    for file, rows in written.items():
        click.echo(
            f"{short_path(file)}: {rows} {'rows' if form in ('csv', 'parquet') else 'values'}"
        )


@click.command()
@click.argument("run", type=PathArgument(path_type=Path), shell_complete=complete_runs)
@AS_JSON
@with_exit_code
def audit(run: Path, *, as_json: bool) -> None:
    """Tell what a RUN reveals of its training data: who can tell whether a patient was trained on,
    and from which hospital a patient is.

    The scenario must have had 'audit'. If what a hospital claims of its privacy is refuted, the
    exit code is 65.

    \b
    Examples:
      fedskd-sim launch heart --set 'audit={canaries: 60}' --out runs/audited
      fedskd-sim audit runs/audited
      fedskd-sim audit runs/audited --json
    """
    from fedskd_sim.records.files import no_run  # noqa: PLC0415 - help and completion need no records
    from fedskd_sim.results import audit as audits  # noqa: PLC0415 - only this command pays for it
    from fedskd_sim.scenario import load  # noqa: PLC0415

    if not (run / "scenario.yaml").is_file():
        raise no_run(run)
    found = audits.audit(run, load(run / "scenario.yaml").scenario)
    if as_json:
        click.echo(json.dumps(audits.as_json(found), indent=1, allow_nan=False))
    else:
        click.echo("\n".join(audits.lines(found)))
    audits.check_claims(found)


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    default="quickstart",
    show_default=True,
    shell_complete=complete_scenarios,
    help="Scenario to begin with: a name, or a file.",
)
@with_exit_code
def init(name: str, source: str) -> None:
    """Write NAME.yaml, a scenario to change, from one that comes with the program or another file.

    \b
    Examples:
      fedskd-sim init mine
      fedskd-sim init skin --from fedskin-ham10000
      fedskd-sim init again --from mine.yaml
    """
    from fedskd_sim.scenario import begin, load  # noqa: PLC0415 - help and completion need no scenario

    file = begin(name, source)
    try:
        load(file)
        next_ = f"'fedskd-sim launch {short_path(file)}' runs it"
    except FedskdError:
        name = short_path(file)
        next_ = f"'fedskd-sim validate {name}' names what is wrong with it, as with {source}"
    click.echo(f"{short_path(file)} is written; {next_}")


@click.command()
@click.argument("run", type=PathArgument(path_type=Path), shell_complete=complete_runs)
@click.option(
    "--replay",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also execute N sessions again, drawn from those that the run kept "
    "(instruments.keep_hops), and compare what comes of them with the records.",
)
@click.option(
    "--trust-code",
    default="",
    metavar="DIGEST",
    help="With --replay: run the code in the folder, which has this digest, though somebody else "
    "launched it.",
)
@DATA
@AS_JSON
@with_exit_code
def verify(
    run: Path, data: Path | None, replay: int | None, trust_code: str, *, as_json: bool
) -> None:
    """Prove that the records and weights of a RUN folder are whole, or name the first break by file
    and line.

    Every step of every hospital has left one record, and every model has arrived as it left. The
    final weights were evaluated, and accuracies follow from the predictions. Neither PyTorch nor
    data are needed. What is not shown is said: of a run that is not sealed, of a signature without
    its key, of files that are not kept. Without --replay no code of the run is executed.

    \b
    Examples:
      fedskd-sim verify runs/skin
      fedskd-sim verify runs/skin --replay 5
    """
    from fedskd_sim.operate.checks import not_proven, verify_run  # noqa: PLC0415 - help and completion need no scenario
    from fedskd_sim.records.files import no_run  # noqa: PLC0415
    from fedskd_sim.scenario import load  # noqa: PLC0415

    if trust_code and not replay:
        raise click.UsageError("--trust-code needs --replay: nothing else runs code")
    if as_json and replay:
        raise click.UsageError("--json tells of records and weights: give it without --replay")
    if not (run / "scenario.yaml").is_file():
        raise no_run(run)
    scenario = load(run / "scenario.yaml").scenario
    with Waiting() as waiting:
        waiting.says("verifying")
        verdict, remark = verify_run(run, scenario, data)
    if verdict.broken:
        raise verdict.broken
    rest = [*filter(None, [remark]), *not_proven(run, scenario, verdict)]
    if as_json:
        click.echo(json.dumps(_plain_verdict(verdict, rest), indent=1))
        return
    for line in (f"{short_path(run)} is {verdict}", *rest):
        click.echo(line)
    if replay:
        _replay(run, replay, data, trust_code)


def _plain_verdict(verdict: Verdict, remarks: list[str]) -> dict[str, Any]:
    counts = {name: value for name, value in verdict._asdict().items() if name != "broken"}
    return {"verdict": str(verdict), **counts, "back": dict(verdict.back), "remarks": remarks}


def _replay(run: Path, count: int, data: Path | None, trust_code: str) -> None:
    """Execute sessions of a run again and tell what came of them; raises ChainBroken."""
    from fedskd_sim.operate import replay  # noqa: PLC0415 - only who executes sessions pays for it

    with Waiting() as waiting:
        found = replay.replay(
            run, count, data, trust_code=trust_code, tell=waiting.says, says=say_code
        )
    click.echo(str(found))
    if found.differences:
        first, *rest = found.differences
        for other in rest:
            first.add_note(str(other))
        raise first
