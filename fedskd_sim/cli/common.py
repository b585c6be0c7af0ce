"""What all commands share: arguments, errors as messages and exit codes."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from fedskd_sim.checks import licences
from fedskd_sim.cli import streams
from fedskd_sim.errors import FedskdError, HospitalCrashed, OutputNotWritable, extras_named
from fedskd_sim.exits import INTERRUPTED, all_errors, meaning, no_space, out_of_space
from fedskd_sim.scenario import Scenario

Args = ParamSpec("Args")
Result = TypeVar("Result")


class Place(click.Path):
    """A path that may begin with ``~``, which a shell leaves as it is in ``--out=~/runs``, and
    which would be made as a folder of that name.
    """

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Put the home folder in its place."""
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 - lets ~NOBODY be


SCENARIO = click.argument("scenario", type=Place(path_type=Path))
DATA = click.option(
    "--data",
    type=Place(path_type=Path, exists=True, file_okay=False),
    help="Folder with data files. Default: the environment variable FEDSKD_DATA.",
)
CHANGES = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the scenario; repeatable.",
)


NAMESPACE = click.option(
    "--namespace",
    "-n",
    default="",
    help="Namespace of the cluster. Default: the configuration's own.",
)
CONTEXT = click.option(
    "--context",
    default="",
    help="Context of the cluster's configuration. Default: the current one.",
)


class Spoken(click.Group):
    """Keeps what was typed, see `command`, and suggests only commands that are for people."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note the arguments before they are taken apart; help, too, is written to streams that
        hold.
        """
        streams.settle()
        ctx.meta[__name__] = shlex.join(["fedskd-sim", *args])
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; click before 8.4 suggests none, later ones the hidden ones, too."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near: list[str] = getattr(error, "possibilities", None) or []
            vars(error)["possibilities"] = [one for one in near if not self.commands[one].hidden]
            raise


def command() -> str:
    """Give the command that this process carries out, as it was typed."""
    return str(click.get_current_context().meta[__name__])


def stop_when_terminated() -> None:
    """Treat SIGTERM, which batch systems send, as an interrupt from now on: everything that was
    started is stopped.
    """

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt("terminated")

    signal.signal(signal.SIGTERM, stop)


def exit_codes() -> str:
    """Write the table of exit codes for the help text."""
    leaves = [error for error in all_errors() if not error.__subclasses__()]
    leaves.sort(key=lambda error: error.exit_code)
    rows = [f"{error.exit_code:>3}  {meaning(error)}" for error in leaves]
    rows = [
        "  0  Success.",
        "  1  An error nobody foresaw: please report it.",
        "  2  Wrong use of the command line.",
        *rows,
    ]
    return "\b\nExit codes:\n" + "\n".join([*rows, f"{INTERRUPTED}  Interrupted."])


def with_exit_code(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """Turn errors into a message on standard error and their exit code."""

    @wraps(function)
    def wrapper(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        try:
            with extras_named():
                return function(*args, **kwargs)
        except FedskdError as error:
            if isinstance(error, HospitalCrashed) and error.__cause__:  # of code that ran here
                traceback.print_exception(error.__cause__)
            click.echo("\n".join([f"error: {error}", *_notes(error)]), err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt as interrupt:
            click.echo(
                "\n".join(["interrupted: everything has been stopped", *_notes(interrupt)]),
                err=True,
            )
            sys.exit(INTERRUPTED)
        except Exception as error:
            if not out_of_space(error):
                raise
            click.echo("\n".join([f"error: {no_space(error)}", *_notes(error)]), err=True)
            sys.exit(OutputNotWritable.exit_code)

    return wrapper


def _notes(error: BaseException) -> list[str]:
    """Give what was added to an exception on its way: where its report is, and how the run
    ended.
    """
    return list(getattr(error, "__notes__", ()))


def say_licences(scenario: Scenario) -> None:
    """Tell on standard error what the licence of each data set asks for, where it asks for more
    than naming the source.
    """
    for licence in licences(scenario):
        click.echo(licence, err=True)


def short(path: Path) -> str:
    """Show a path relative to here where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
