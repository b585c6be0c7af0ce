"""``fedskd-sim watch``, ``list``, ``open`` and ``rm``: pages of runs, and the runs of a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import click

from fedskd_sim import clock
from fedskd_sim.cli.common import (
    AS_JSON,
    PathArgument,
    complete_runs,
    stop_when_terminated,
    with_exit_code,
)
from fedskd_sim.errors import RunUnreadable
from fedskd_sim.observe.words import amount, counted, short_path

if TYPE_CHECKING:
    from fedskd_sim.results.live.server import LiveServer

RUNS = Path("runs")
LOOK_S = 0.2
LAST_LOOK_S = 20.0
"""Seconds after a launcher's end for which its page waits to show that the run has ended."""
LAST_S = 60.0
"""Seconds after which a browser that has not asked is taken for closed."""


@click.command()
@click.argument(
    "run", type=PathArgument(path_type=Path), required=False, shell_complete=complete_runs
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port. Default: a free one.")
@click.option("--open", "opened", is_flag=True, help="Open the page in a browser.")
@click.option("--attended", is_flag=True, hidden=True)
@with_exit_code
def watch(run: Path | None, port: int, *, opened: bool, attended: bool) -> None:
    """Show a RUN folder as a live page in the browser, or list the runs of a folder.

    The page is local and read-only: 127.0.0.1, with a token in its address. It reads nothing but
    run folders, also of runs that have ended. Without RUN: the folder runs. Ctrl-C ends it; the run
    goes on.

    \b
    Examples:
      fedskd-sim watch
      fedskd-sim watch runs/skin
      fedskd-sim watch runs/skin --open
      fedskd-sim launch quickstart --watch
    """
    from fedskd_sim.results.live.server import LiveServer, WatchedRuns  # noqa: PLC0415 - only who watches pays for it

    server = LiveServer(WatchedRuns(_folder(run)), port)
    click.echo(f"watch: {server.address}")
    if opened:
        webbrowser.open(server.address)
    if attended:
        Thread(target=_end_with_launcher, args=(server,), daemon=True).start()
    stop_when_terminated()
    try:
        server.serve_forever(LOOK_S)
    except KeyboardInterrupt:
        return
    finally:
        server.server_close()


def _folder(run: Path | None) -> Path:
    """Return what is to be watched; raises RunUnreadable."""
    folder = (run or RUNS).expanduser()
    if not folder.is_dir():
        fix = "give a run folder or a folder of runs; 'fedskd-sim launch' makes the folder runs"
        raise RunUnreadable(f"there is no folder {short_path(folder)}", fix=fix)
    found = folder.resolve()
    if (found / "scenario.yaml").is_file():
        from fedskd_sim.results.live.page import LivePage  # noqa: PLC0415 - as above

        LivePage(found)  # raises for what cannot be shown
    return found


def _end_with_launcher(server: LiveServer) -> None:
    """End when standard input does, as soon as a browser has seen that the run has ended."""
    sys.stdin.buffer.read()
    watched, deadline = server.watched, clock.now() + LAST_LOOK_S
    somebody = watched.asked > clock.now() - LAST_S
    while somebody and not watched.told_end and clock.now() < deadline:
        clock.sleep(LOOK_S)
    server.shutdown()


@contextmanager
def page_of(folder: Path, *, wanted: bool) -> Iterator[None]:
    """Show a run's live page meanwhile, from a process of its own; nothing if it is not wanted.

    Afterwards an open browser still gets the run's end.
    """
    if not wanted:
        yield
        return
    program = [sys.executable, "-m", "fedskd_sim", "watch", str(folder), "--attended"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True) as _:  # noqa: S603 - ourselves
        yield


@click.command("list")
@click.argument("folder", type=PathArgument(path_type=Path), required=False)
@AS_JSON
@with_exit_code
def list_runs(folder: Path | None, *, as_json: bool) -> None:
    """List the runs in FOLDER and below it, the newest first. Default: the folder runs.

    Own and others: mean score at the own hospital and elsewhere, in percent, from report.json.

    \b
    Examples:
      fedskd-sim list
      fedskd-sim list runs/compare-heart
      fedskd-sim list --json | jq '.[].state'
    """
    from fedskd_sim.results.listing import as_plain, runs_in, table_of  # noqa: PLC0415 - only this command pays for it

    place = folder or RUNS
    found = runs_in(place)
    if as_json:
        click.echo(json.dumps(as_plain(found), indent=1))
        return
    for line in table_of(found).lines() if found else ():
        click.echo(line)
    click.echo(f"{counted(len(found), 'run')} in {short_path(place)}")


@click.command("open")
@click.argument("run", type=PathArgument(path_type=Path), shell_complete=complete_runs)
@with_exit_code
def open_page(run: Path) -> None:
    """Open the page of a RUN folder, or of a comparison's, in the browser.

    \b
    Examples:
      fedskd-sim open runs/skin
      fedskd-sim open runs/compare-heart
    """
    pages = [one for name in ("report.html", "compare.html") if (one := run / name).is_file()]
    if not pages:
        if not (run / "scenario.yaml").is_file():
            from fedskd_sim.records.files import no_run  # noqa: PLC0415 - help and completion need no records

            raise no_run(run)
        place = short_path(run)
        fix = f"'fedskd-sim report {place}' makes it, 'fedskd-sim watch {place}' shows a live page"
        raise RunUnreadable(f"{place} has no page yet", fix=fix)
    click.echo(short_path(pages[0]))
    if not webbrowser.open(pages[0].resolve().as_uri()):
        click.echo("no browser was found: open that file in one", err=True)


@click.command("rm")
@click.argument("run", type=PathArgument(path_type=Path), shell_complete=complete_runs)
@click.option("--yes", "-y", is_flag=True, help="Remove it without a question.")
@with_exit_code
def remove(run: Path, *, yes: bool) -> None:
    """Remove a RUN folder with all its files, for good. A run that is going is refused.

    \b
    Examples:
      fedskd-sim rm runs/skin
      fedskd-sim rm runs/skin --yes
    """
    from fedskd_sim.operate import run_access  # noqa: PLC0415 - only this command pays for it

    files, size = run_access.removable(run)
    what = f"{short_path(run)}: {counted(files, 'file')}, {amount(size)}"
    try:
        wanted = yes or click.confirm(f"{what}; remove it for good?")
    except click.Abort as error:
        raise click.UsageError("no answer, and nothing was removed; give --yes") from error
    if not wanted:
        click.echo("nothing was removed")
        return
    run_access.remove(run)
    click.echo(f"removed {what}")
