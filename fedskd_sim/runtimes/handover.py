"""A hospital's files on their way to another place: its results, and what it goes on from.

A hospital in a pod serves its run folder (`FolderServer`) on the pod's own loopback address, to
whoever shows the token that the run's secret gives; so does a pod that only reads a claim. The
launcher comes through a port that the cluster forwards (`FolderClient`). What is offered is listed
with size and SHA-256; what came in part goes on where it broke off, and nothing of it is in the
run folder before all of it is whole.
"""

from __future__ import annotations

import hmac
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from threading import Thread
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

from fedskd_sim import clock
from fedskd_sim.errors import RegistrationTimeout, RunUnreadable
from fedskd_sim.learning.readers.places import PART_FILES
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes.folder import CUSTODY
from fedskd_sim.runtimes.member import FETCHED, MemberOrder
from fedskd_sim.runtimes.served import (
    BLOCK_BYTES,
    BROUGHT,
    PLACED,
    PRIVATE_KINDS,
    RUN_FOLDER,
    Served,
    ServedFile,
    lies_inside,
    list_kept,
    offer,
    owned_by,
)
from fedskd_sim.wholefiles import PRIVATE, PRIVATE_FOLDER, PUBLIC, settle, unwritable

LOOK_S = 0.2
PATIENCE_S = 60.0
"""Seconds without a byte after which a connection is given up, on either side."""
RESULTS_PATH, KEPT_PATH, FILE_PATH = "/results", "/kept", "/files/"
FETCHED_PATH, TAKEN_PATH, PLACED_PATH = "/fetched", "/taken", "/placed"


def token_of(secret: bytes, run: str, hospital: str) -> str:
    """Derive what opens a hospital's folder from the run's secret (HMAC-SHA-256)."""
    return hmac.new(secret.strip(), f"folder/{run}/{hospital}".encode(), "sha256").hexdigest()


@dataclass(frozen=True)
class FolderServer:
    """Serves what a hospital has in a run folder, and takes what is brought to it."""

    folder: Path
    hospital: str
    server: ThreadingHTTPServer
    thread: Thread

    @classmethod
    def start(
        cls, folder: Path, hospital: str, token: str, port: int, served: Served = RUN_FOLDER
    ) -> FolderServer:
        """Serve from now on; raises OSError where the port is taken.

        Args:
            folder: the run folder, or that of a hospital's data.
            hospital: whose files are served, and nobody else's.
            token: whoever does not show it is refused.
            port: of the loopback address; 0 for any that is free.
            served: what of the folder.

        """
        server = _Server(("127.0.0.1", port), _Request)
        server.folder, server.hospital, server.token = folder, hospital, token
        server.served = served
        thread = Thread(target=server.serve_forever, args=(LOOK_S,), name="folder server")
        thread.start()
        return cls(folder, hospital, server, thread)

    @property
    def port(self) -> int:
        """Return where it listens."""
        return int(self.server.server_address[1])

    def close(self) -> None:
        """Serve nothing more; what is on its way comes to its end."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    folder: Path
    hospital: str
    token: str
    served: Served

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a connection that broke: whoever asked asks again."""


class _Request(BaseHTTPRequestHandler):
    timeout = PATIENCE_S
    server: _Server

    def do_GET(self) -> None:
        """Answer what is there: a list of files, or a file from a byte on."""
        if not self._admitted():
            return
        folder, hospital = self.server.folder, self.server.hospital
        if self.path in (RESULTS_PATH, KEPT_PATH):
            listed = self.server.served.listed if self.path == RESULTS_PATH else list_kept
            try:
                found = [offer(folder, name) for name in listed(folder, hospital)]
            except RunUnreadable as error:
                self._answer(HTTPStatus.NOT_FOUND, error.message)
                return
            self._answer(HTTPStatus.OK, json.dumps(found))
            return
        name = self._name()
        if name is None or not (folder / name).is_file():
            self._answer(HTTPStatus.NOT_FOUND, f"{self.path} is not served")
            return
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        with (folder / name).open("rb") as stream:
            left = os.fstat(stream.fileno()).st_size - begin
            stream.seek(begin)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if begin else HTTPStatus.OK)
            self.send_header("Content-Length", str(left))
            self.end_headers()
            shutil.copyfileobj(stream, self.wfile, BLOCK_BYTES)

    def do_PUT(self) -> None:
        """Take a file that is brought, which is in its place once all have come."""
        if not self._admitted():
            return
        name, left = self._name(), int(self.headers["Content-Length"])
        if name is None:
            self._answer(HTTPStatus.FORBIDDEN, f"{self.path} is not taken")
            return
        place = self.server.folder / BROUGHT / name
        with _writing(place) as stream:
            while left and (block := self.rfile.read(min(left, BLOCK_BYTES))):
                stream.write(block)
                left -= len(block)
        self._answer(HTTPStatus.OK, offer(self.server.folder / BROUGHT, PurePath(name)).sha256)

    def do_POST(self) -> None:
        """Do what whoever has come says is to be done now."""
        if not self._admitted():
            return
        folder, hospital = self.server.folder, self.server.hospital
        if self.path == FETCHED_PATH:
            (folder / FETCHED).touch()
        elif self.path == TAKEN_PATH:
            self.server.served.take(folder, hospital)
        elif self.path == PLACED_PATH:
            self.server.served.place(folder)
        else:
            self._answer(HTTPStatus.NOT_FOUND, self.path)
            return
        self._answer(HTTPStatus.OK, "")

    def log_message(self, *_: Any) -> None:
        """Say nothing: standard error is the hospital's."""

    def _admitted(self) -> bool:
        shown = self.headers.get("Authorization", "")
        if hmac.compare_digest(shown.encode(), f"Bearer {self.server.token}".encode()):
            return True
        self._answer(HTTPStatus.UNAUTHORIZED, "this is not the run's token")
        return False

    def _name(self) -> str | None:
        """Return the name of the hospital's file that was asked for; None for any other's."""
        name = unquote(self.path.removeprefix(FILE_PATH))
        inside = self.path.startswith(FILE_PATH) and lies_inside(name)
        owned = self.server.served.owned
        return name if inside and owned(PurePath(name).parts, self.server.hospital) else None

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _writing(place: Path, begin: int = 0) -> Iterator[BinaryIO]:
    """Open a file to write it from a byte on, and settle it at the end; raises
    OutputNotWritable.
    """
    private = any(part in PRIVATE_KINDS for part in place.parts) or place.name in PART_FILES
    try:
        place.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if begin else os.O_TRUNC)
        with os.fdopen(os.open(place, flags, PRIVATE if private else PUBLIC), "wb") as stream:
            stream.seek(begin)
            yield stream
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        raise unwritable(place, error) from error
    settle(place)


@dataclass(frozen=True)
class FolderClient:
    """Comes to a folder that is served elsewhere. Whatever breaks on the way raises
    ConnectionError, and what came stays for the next try.
    """

    connect: Callable[[], HTTPConnection]
    token: str

    def fetch(self, what: str, owner: str, place: Path) -> list[ServedFile]:
        """Bring all that is offered into a folder.

        Args:
            what: ``RESULTS_PATH`` or ``KEPT_PATH``.
            owner: whose files these may be; a hospital writes no other's, nor any other file of a
                run.
            place: the folder, which may have what came earlier.

        Returns:
            What was offered, all of which is there now.

        Raises:
            LookupError: there is nothing, or a file has gone meanwhile.
            ConnectionError: it broke, or what came is not what was offered.
            OutputNotWritable: the disk does not take it.

        """
        offered = self.list(what)
        for one in offered:
            if not lies_inside(one.name) or not owned_by(PurePath(one.name).parts, owner):
                raise ConnectionError(f"{one.name!r} is not a file of {owner!r}")
        for one in offered:
            self._fetch_file(one, place)
        return offered

    def await_answer(self, seconds: float) -> None:
        """Wait until the folder is served: a process takes a while to listen; raises
        ConnectionError where it is not after so many seconds.
        """
        deadline = clock.now() + seconds
        while True:
            try:
                self._ask("GET", RESULTS_PATH)
            except LookupError:
                return
            except ConnectionError:
                if clock.now() > deadline:
                    raise
                clock.sleep(LOOK_S)
            else:
                return

    def list(self, what: str) -> list[ServedFile]:
        """List what is offered; raises LookupError, ConnectionError."""
        try:
            return [ServedFile(*one) for one in json.loads(self._ask("GET", what))]
        except (TypeError, ValueError) as error:
            raise ConnectionError(f"what came is no list of files: {error}") from error

    def bring(self, folder: Path, names: Iterable[PurePath]) -> None:
        """Bring files of a run folder; they are in their place there when all have come.

        Raises:
            ConnectionError: it broke, or did not arrive as it was.

        """
        for name in names:
            with (folder / name).open("rb") as stream:
                arrived = self._ask("PUT", f"{FILE_PATH}{quote(str(name))}", stream)
            if arrived != offer(folder, name).sha256:
                raise ConnectionError(f"{name} did not arrive as it was")
        self.tell(PLACED_PATH)

    def tell(self, what: str) -> None:
        """Say what is to be done there: ``FETCHED_PATH``, ``TAKEN_PATH`` or ``PLACED_PATH``."""
        self._ask("POST", what)

    def read(self, name: str) -> str:
        """Read the text of one file; raises LookupError where it is not, ConnectionError."""
        return self._ask("GET", f"{FILE_PATH}{quote(name)}")

    def _fetch_file(self, one: ServedFile, folder: Path) -> None:
        place = folder / one.name
        come = place.stat().st_size if place.is_file() else 0
        if come > one.size:
            come = 0
        with (
            _writing(place, come) as stream,
            self._asked(
                "GET", f"{FILE_PATH}{quote(one.name)}", headers={"Range": f"bytes={come}-"}
            ) as answer,
        ):
            while come < one.size and (block := answer.read(min(BLOCK_BYTES, one.size - come))):
                stream.write(block)
                come += len(block)
        if come < one.size:
            raise ConnectionError(f"{one.name} came only in part: {come} of {one.size} bytes")
        with place.open("rb") as written:
            if file_digest(written, "sha256").hexdigest() == one.sha256:
                return
        place.unlink()
        raise ConnectionError(f"{one.name} is not what was offered")

    def _ask(self, method: str, path: str, body: BinaryIO | None = None) -> str:
        with self._asked(method, path, body) as answer:
            return answer.read().decode()

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        body: BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[HTTPResponse]:
        """Ask once; raises LookupError for what is not there, ConnectionError for all else."""
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if body is not None:
            sent["Content-Length"] = str(os.fstat(body.fileno()).st_size)
        try:
            connection = self.connect()
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
        except (HTTPException, OSError) as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        with closing(connection), closing(answer):
            try:
                if answer.status == HTTPStatus.NOT_FOUND:
                    raise LookupError(answer.read().decode())
                if answer.status >= HTTPStatus.BAD_REQUEST:
                    raise ConnectionError(f"{answer.status}: {answer.read().decode()}")
                yield answer
            except (HTTPException, TimeoutError) as error:
                raise ConnectionError(str(error) or type(error).__name__) from error


def wait(order: MemberOrder, log: EventLog) -> None:
    """Wait until what a hospital goes on from has been brought into its folder, or taken out of it.

    What is there already, on a claim, has been brought to an earlier pod, and has gone on since:
    whoever takes it out of a cluster leaves nothing behind.

    Raises:
        RegistrationTimeout: nobody came.

    """
    if order.custody == "in" and any((order.folder / CUSTODY / order.name).glob("commit-*")):
        return
    log.event(events.AwaitsCustody(order.custody))
    patience = order.patience or order.read().scenario.timeouts.register_
    deadline = clock.now() + patience
    while order.custody == "out" or not (order.folder / PLACED).exists():
        if clock.now() > deadline:
            what = "brought what it had kept" if order.custody == "in" else "taken what it has kept"
            raise RegistrationTimeout(
                f"within {patience:g} s nobody has {what}", fix="fedskd-sim resume RUN once more"
            )
        clock.sleep(LOOK_S)
