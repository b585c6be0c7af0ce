"""What all commands share: arguments, errors as messages and exit codes, and the three standard
streams as shells leave them, closed or read by somebody who has seen enough.

Names, reasons and samples of a run may be a stranger's. Whatever a command prints passes `Shown`,
or the console that `console` returns; nothing else writes to a terminal. A command that waits
longer than people wait without a word says once what it waits for.
"""

from __future__ import annotations

import codecs
import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from threading import Event, Thread
from traceback import format_exc
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from fedskd_sim.errors import FedskdError, OutputNotWritable, extras_named
from fedskd_sim.exits import INTERRUPTED, all_errors, meaning, no_space, out_of_space
from fedskd_sim.found import run_folders, scenarios
from fedskd_sim.observe.words import escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from fedskd_sim.scenario import OwnCode, Scenario

STANDARD = (0, 1, 2)


class Unread(io.FileIO):
    """A stream whose reader may leave: what is written after that is written to nobody, and
    whoever writes goes on.

    A file that cannot grow is told of once, by an exception; what its buffer still holds then is
    lost, or the interpreter would try again at its end and put its own exit code in place of the
    command's. Of errors themselves nobody can be told more.
    """

    words = "standard output"
    bears = False
    """Nothing that fails here is an error: it is where errors are written."""

    def write(self, data: Any, /) -> int:
        """Write all, as far as there is a reader; raises OSError once, where a disk is full."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except BrokenPipeError:
            return size
        except OSError as error:
            if not self.bears:
                self.bears = True
                error.filename = self.words
                raise
        return size


class Shown:
    """A text stream on which control characters appear as they are escaped: none reaches the
    terminal behind it. Whatever else is asked of it is the stream's.
    """

    def __init__(self, plain: Any) -> None:
        """Stand before a stream, which is ``plain``."""
        self.plain = plain

    def write(self, text: str) -> int:
        """Write a text with its control characters escaped."""
        self.plain.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has of that name."""
        return getattr(self.plain, name)


def console(*, stderr: bool = False) -> Console:
    """Make a console that moves and colours the terminal itself, and escapes what it shows."""
    from rich.console import Console  # noqa: PLC0415 - only who shows something pays for it
    from rich.segment import Segment  # noqa: PLC0415 - as above

    class Escaping(Console):
        """A console of which only its own control characters reach the terminal."""

        def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
            """Render with the control characters of all texts escaped."""
            for one in super().render(*args, **options):
                yield one if one.control else Segment(escape_controls(one.text), one.style)

    stream = sys.stderr if stderr else sys.stdout
    return Escaping(file=getattr(stream, "plain", stream), stderr=stderr)


WIDEST, NARROWEST = 120, 40


def is_terminal(stream: Any) -> bool:
    """Return whether somebody sees a stream; it is None where it was closed from the beginning."""
    return stream is not None and bool(stream.isatty())


def width() -> int:
    """Return how wide text is written: as the terminal is, within bounds; 100 columns elsewhere."""
    if not is_terminal(sys.stdout):
        return 100
    return min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns))


def settle() -> None:
    """Open what is closed, so that no file of a run takes its number, let readers leave (``| head
    -1``), and escape what is no text.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            # takes the lowest free number, which is this one
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)  # noqa: FBT003 - programs that are started need it as much
    for name, stream in (("stdout", sys.__stdout__), ("stderr", sys.__stderr__)):
        if stream is not None and getattr(sys, name) is stream:
            with suppress(OSError):
                stream.flush()
            setattr(sys, name, _unread(stream))
        shown = getattr(sys, name)
        if shown is not None and not isinstance(shown, Shown):
            setattr(sys, name, cast("Any", Shown(shown)))


def _unread(stream: io.TextIOBase | io.TextIOWrapper) -> io.TextIOWrapper:
    """Put such a stream in a stream's place. No buffer of bytes is between: it would keep its lock
    when the interpreter ends while a thread writes, and the interpreter would abort at that.
    """
    raw: Any = Unread(stream.fileno(), "w", closefd=False)
    raw.bears = stream is sys.__stderr__
    lines = stream.isatty() or stream is sys.__stderr__
    ascii_ = codecs.lookup(stream.encoding).name == "ascii"  # click would go around it for UTF-8
    encoding = "utf-8" if ascii_ else stream.encoding
    return io.TextIOWrapper(raw, encoding=encoding, errors=stream.errors, line_buffering=lines)


Args = ParamSpec("Args")
Result = TypeVar("Result")


class PathArgument(click.Path):
    """A path that may begin with ``~``, which a shell leaves as it is in ``--out=~/runs``, and
    which would be made as a folder of that name.
    """

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Put the home folder in its place."""
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 - lets ~NOBODY be


def complete_runs(
    _context: click.Context, _argument: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Complete run folders here and in ``runs``, and whatever folder is typed."""
    places = [str(place) for place in run_folders() if str(place).startswith(typed)]
    return [*map(CompletionItem, places), CompletionItem(typed, type="dir")]


def complete_scenarios(
    _context: click.Context, _argument: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Complete the names of scenarios that come with the program, and whatever file is typed."""
    names = [name for name in scenarios() if name.startswith(typed)]
    return [*map(CompletionItem, names), CompletionItem(typed, type="file")]


SCENARIO = click.argument(
    "scenario", type=PathArgument(path_type=Path), shell_complete=complete_scenarios
)
DATA = click.option(
    "--data",
    type=PathArgument(path_type=Path, exists=True, file_okay=False),
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
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
VALUES = click.option(
    "--values",
    multiple=True,
    type=PathArgument(path_type=Path, exists=True, dir_okay=False),
    help="Values file for the chart; repeatable, later files win. To resume: as at the launch.",
)


class Spoken(click.Group):
    """Keeps what was typed, see `command`, and suggests only commands that are for people."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note the arguments before they are taken apart; help, too, is written to streams that
        hold.
        """
        settle()
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


def wanted(name: str) -> bool:
    """Return whether ``quiet`` or ``verbose`` was asked for before the command."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get(name))


def say_error(kind: str, text: str) -> None:
    """Write an error on standard error; on a terminal its first word has a colour, unless NO_COLOR
    is set.
    """
    if not is_terminal(sys.stderr) or "NO_COLOR" in os.environ:
        click.echo(f"{kind}: {text}", err=True)  # the controller's image has no rich
        return
    from rich.text import Text  # noqa: PLC0415 - only errors on a terminal pay for it

    console(stderr=True).print(Text.assemble((f"{kind}:", "bold red"), f" {text}"), soft_wrap=True)


def command() -> str:
    """Return the command that this process carries out, as it was typed."""
    return str(click.get_current_context().meta[__name__])


def stop_when_terminated() -> None:
    """Treat SIGTERM, which batch systems send, as an interrupt from now on: everything that was
    started is stopped.
    """

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt("terminated")

    signal.signal(signal.SIGTERM, stop)


def exit_codes() -> str:
    """Write the table of exit codes."""
    leaves = [error for error in all_errors() if not error.__subclasses__()]
    leaves.sort(key=lambda error: error.exit_code)
    rows = [f"{error.exit_code:>3}  {meaning(error)}" for error in leaves]
    rows = [
        "  0  Success.",
        "  1  An error nobody foresaw: please report it.",
        "  2  Wrong use of the command line.",
        *rows,
    ]
    return "\n".join([*rows, f"{INTERRUPTED}  Interrupted."])


def with_exit_code(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """Turn errors into a message on standard error and their exit code."""

    @wraps(function)
    def wrapper(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        try:
            with extras_named():
                return function(*args, **kwargs)
        except FedskdError as error:
            if wanted("verbose"):
                click.echo(format_exc(), err=True)
            say_error("error", "\n".join([str(error), *_notes(error)]))
            sys.exit(error.exit_code)
        except KeyboardInterrupt as interrupt:
            say_error("interrupted", "\n".join(["everything has been stopped", *_notes(interrupt)]))
            sys.exit(INTERRUPTED)
        except Exception as error:
            if not out_of_space(error):
                raise
            say_error("error", "\n".join([no_space(error), *_notes(error)]))
            sys.exit(OutputNotWritable.exit_code)

    return wrapper


def _notes(error: BaseException) -> list[str]:
    """Return what was added to an exception on its way: where its report is, and how the run
    ended.
    """
    return list(getattr(error, "__notes__", ()))


def say_licences(scenario: Scenario) -> None:
    """Print on standard error what the licence of each data set asks for, where it asks for more
    than naming the source.
    """
    from fedskd_sim.operate.checks import licences  # noqa: PLC0415 - help and completion need no scenario

    for licence in licences(scenario):
        click.echo(licence, err=True)


def say_code(code: OwnCode) -> None:
    """Print on standard error which code of the user's own is about to be run."""
    files = ", ".join(sorted(code.files))
    click.echo(f"note: runs the scenario's own code: {files} (digest {code.digest})", err=True)


FIRST_S, NEXT_S, LOOK_S = 3.0, 10.0, 0.1
"""Seconds until something is said, between two lines where they cannot replace each other, and
where they can."""
OF_DATA = "reading the data of {} and checking its model"


class Waiting:
    """Says on standard error what is waited for: on a terminal in one line, which goes when the
    waiting is over, elsewhere in a line now and then. Use as a context manager.
    """

    def __init__(self) -> None:
        """Begin without a word."""
        self._what, self._quiet = "", wanted("quiet")
        self._over = Event()
        self._teller = Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Self:
        """Begin; time counts from the first thing that is waited for."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, and take away what stands on the terminal."""
        self._over.set()
        if self._what:
            self._teller.join()

    def checks(self, hospital: str) -> None:
        """Wait for a hospital's data from now on."""
        self.says(OF_DATA.format(hospital))

    def says(self, what: str) -> None:
        """Wait for something else from now on."""
        first, self._what = not self._what, what
        if first:
            self._teller.start()

    def _tell(self) -> None:
        if self._quiet or self._over.wait(FIRST_S):
            return
        terminal = console(stderr=True)
        if terminal.is_terminal and not terminal.is_dumb_terminal:
            self._show(terminal)
        else:
            self._list()

    def _show(self, console: Console) -> None:
        """Show what is waited for on a terminal; what goes to standard output stays as it is."""
        from rich.live import Live  # noqa: PLC0415 - as above
        from rich.spinner import Spinner  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        spinner = Spinner("dots", Text(self._what))
        with Live(spinner, console=console, transient=True, redirect_stdout=False):
            while not self._over.wait(LOOK_S):
                spinner.update(text=Text(self._what))

    def _list(self) -> None:
        """Write what is waited for in lines, none of them twice in a row."""
        told = ""
        while True:
            if self._what != told:
                told = self._what
                click.echo(f"{told} ...", err=True)
            if self._over.wait(NEXT_S):
                return
