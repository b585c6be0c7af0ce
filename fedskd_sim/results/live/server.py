"""Serves the live page of one run, or of the runs of a folder, to browsers of this machine.

It listens on 127.0.0.1 alone. Every address begins with a token that only whoever started it knows;
without it the answer is 403. A request that names another host is refused too: a page elsewhere
may have led a name of its own to this address (DNS rebinding). Nothing is written, and no file is
read but those of the runs.
"""

from __future__ import annotations

import math
import os
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, PortInUse
from fedskd_sim.observe.words import short_path
from fedskd_sim.results.figures import templates
from fedskd_sim.results.listing import RunEntry, runs_in, table_of
from fedskd_sim.results.live.page import LivePage

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "img-src data:; frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
OF_A_REPORT = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
PATIENCE_S = 30
MOST_TAGS = 2000
"""Characters that a browser may send of what it has."""
HTML, SCRIPT, JSON = "text/html", "text/javascript", "application/json"


class Answer(NamedTuple):
    """What a browser gets."""

    body: bytes
    kind: str = HTML
    status: HTTPStatus = HTTPStatus.OK
    policy: str = POLICY


class _Refused(Exception):
    """A request that gets no answer but its status and a word."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class WatchedRuns:
    """What is watched: a run folder, or a folder of runs."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    asked: float = -math.inf
    """When somebody has asked last, by the monotonic clock."""
    told_end: bool = False
    """Somebody has been shown that the run has ended."""
    _pages: dict[Path, LivePage] = field(default_factory=dict)
    _entries: dict[str, tuple[float, RunEntry]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def alone(self) -> bool:
        """Return whether it is a single run."""
        return (self.folder / "scenario.yaml").is_file()

    def answer(self, target: str) -> Answer:
        """Answer a request; raises _Refused."""
        asked = urlsplit(target)
        root, token, *parts = [*map(unquote, asked.path.split("/")), ""]
        if root or not secrets.compare_digest(token.encode(), self.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "this address lacks the token, or has a wrong one")
        self.asked = clock.now()
        given = parse_qs(asked.query)
        have = given.get("have", [""])[0][:MOST_TAGS]
        match [part for part in parts if part]:
            case ["live.js"]:
                text = (files("fedskd_sim.results.live") / "live.js").read_bytes()
                return Answer(text, SCRIPT)
            case [] if not self.alone:
                return Answer(self._list().encode())
            case ["pair"] if not self.alone:
                return Answer(self._pair(given.get("run", [])).encode())
            case ["runs", place, *rest] if not self.alone:
                return self._of_run(self._find(place), rest, have)
            case rest if self.alone:
                return self._of_run(self.folder, rest, have)
        raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")

    def _of_run(self, run: Path, rest: list[str], have: str) -> Answer:
        page = self._page(run)
        match rest:
            case []:
                return Answer(page.whole(f"/{self.token}/live.js", up=not self.alone).encode())
            case ["fragments"]:
                tags = dict(one.split(":", 1) for one in have.split(",") if ":" in one)
                answer = Answer(page.answer(tags).encode(), JSON)
                self.told_end = not page.seen.going
                return answer
            case ["report.html"]:
                return Answer(_report(run), policy=OF_A_REPORT)
        raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")

    def _page(self, run: Path) -> LivePage:
        with self._lock:
            if run not in self._pages:
                self._pages[run] = LivePage(run)
            return self._pages[run]

    def _find(self, place: str) -> Path:
        """Return the folder of a run of the list; no other place can be asked for."""
        if place not in self._entries:
            self._look()
        if place not in self._entries:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such run in the folder")
        return self.folder / place

    def _pair(self, places: list[str]) -> str:
        """Return a page of two runs of the list."""
        if len(places) != 2:  # noqa: PLR2004 - a pair
            raise _Refused(HTTPStatus.BAD_REQUEST, "go back, and choose two runs of the list")
        for place in places:
            self._find(place)
        runs = [(place, quote(place, safe="")) for place in places]
        text: str = templates().get_template("live/pair.html.j2").render(runs=runs)
        return text

    def _look(self) -> list[RunEntry]:
        found = runs_in(self.folder)
        self._entries = {one.place: (one.started, one) for one in found}
        return found

    def _list(self) -> str:
        found = self._look()
        table = table_of(found)
        words = [place for place, column in enumerate(table.columns) if column.words]
        rows = [
            (one.place, quote(one.place, safe="") if one.readable else "", cells)
            for one, cells in zip(found, table.body, strict=True)
        ]
        text: str = (
            templates()
            .get_template("live/runs.html.j2")
            .render(
                folder=short_path(self.folder),
                runs=rows,
                titles=[column.title for column in table.columns],
                words=words,
                script=f"/{self.token}/live.js",
            )
        )
        return text


def _report(run: Path) -> bytes:
    """Read the report of a run; it is shown without any script of its own."""
    try:
        number = os.open(run / "report.html", os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(number, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise _Refused(HTTPStatus.NOT_FOUND, "this run has no report yet") from error


class LiveServer(ThreadingHTTPServer):
    """Serves what is watched until `shutdown`."""

    daemon_threads = True

    def __init__(self, watched: WatchedRuns, port: int = 0) -> None:
        """Listen on a port of 127.0.0.1, 0 for a free one.

        Raises:
            PortInUse: another process has it.

        """
        self.watched = watched
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            fix = "choose another --port, or none for a free one"
            raise PortInUse(f"port {port} is in use", fix=fix) from error

    @property
    def address(self) -> str:
        """The address of the page, with its token."""
        return f"http://{HOST}:{self.server_port}/{self.watched.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over browsers that leave before their answer is there."""


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "fedskd-sim", ""
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S
    server: LiveServer

    def do_GET(self) -> None:
        """Answer a browser."""
        try:
            self._check_host()
            answer = self.server.watched.answer(self.path)
        except _Refused as refused:
            answer = Answer(f"{refused}\n".encode(), "text/plain", refused.status)
        except FedskdError as error:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            answer = Answer(f"{error}\n".encode(errors="replace"), "text/plain", status)
        self.send_response(answer.status)
        for name, value in (
            ("Content-Type", f"{answer.kind}; charset=utf-8"),
            ("Content-Length", str(len(answer.body))),
            ("Content-Security-Policy", answer.policy),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815 - as above

    def _check_host(self) -> None:
        """Refuse whoever asks for another host than this one; raises _Refused."""
        port = self.server.server_port
        if self.headers.get("Host", "") not in [f"{name}:{port}" for name in NAMES]:
            raise _Refused(HTTPStatus.FORBIDDEN, "this host is not served here")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Write no line for every request."""
