"""What a command waits for before it has anything to show, said once that takes longer than people
wait without a word.
"""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from fedskd_sim.cli import streams

if TYPE_CHECKING:
    from rich.console import Console

FIRST_S, NEXT_S, LOOK_S = 3.0, 10.0, 0.1
"""Seconds until something is said, between two lines where they cannot replace each other, and
where they can."""
OF_DATA = "reading the data of {} and checking its model"


class Waiting:
    """Says on standard error what is waited for: on a terminal in one line, which goes when the
    waiting is over, elsewhere in a line now and then. Use as a context manager.
    """

    def __init__(self) -> None:
        """Say nothing yet."""
        self._what = ""
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
        """Say no more, and take away what stands on the terminal."""
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
        if self._over.wait(FIRST_S):
            return
        console = streams.console(stderr=True)
        if console.is_terminal and not console.is_dumb_terminal:
            self._show(console)
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
