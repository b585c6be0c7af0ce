"""A connection to a port of a pod, through the API server: HTTP over the channels of one web
socket.

The client library has one of its own, which copies all that it has not yet handed out with every
frame: 200 MB took it 425 s of CPU time. Frames read one after the other take half a second.
"""

from __future__ import annotations

import io
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from kubernetes.stream.ws_client import create_websocket
from websocket import ABNF, WebSocketException

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
"""Channels of the one port; the first frame of each has its number."""
BUFFER_BYTES = 1 << 20


def connect(settings: Any, namespace: str, pod: str, port: int, patience: float) -> HTTPConnection:
    """Connect to a port of a pod.

    Args:
        settings: the client's configuration.
        namespace: of the pod.
        pod: its name.
        port: one that something in the pod listens at, be it on the loopback address only.
        patience: seconds without a byte after which it is given up.

    Returns:
        A connection for one request.

    Raises:
        ConnectionError: the API server, or the pod, does not take it.

    """
    where = urlsplit(settings.host)
    scheme = "wss" if where.scheme == "https" else "ws"
    path = f"{where.path}/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
    headers = {
        one["key"]: one["value"]
        for one in settings.auth_settings().values()
        if one["in"] == "header" and one["value"]
    }
    try:
        opened: Any = create_websocket  # untyped
        socket = opened(
            settings, f"{scheme}://{where.netloc}{path}",
            {**headers, "sec-websocket-protocol": PROTOCOL},
        )  # fmt: skip
    except (WebSocketException, OSError) as error:
        raise ConnectionError(f"port {port} of {pod}: {error}") from error
    socket.settimeout(patience)
    connection = HTTPConnection(pod)
    connection.sock = Forwarded(socket)
    return connection


class Forwarded:
    """What `http.client` asks of a socket: it ends with what is read from it."""

    def __init__(self, socket: Any) -> None:
        """Take an open web socket."""
        self._reader = _Channel(socket)
        self._socket = socket
        self._read = False

    def sendall(self, data: bytes) -> None:
        """Send bytes to the port; raises ConnectionError."""
        try:
            self._socket.send_binary(bytes([DATA]) + bytes(data))
        except (WebSocketException, OSError) as error:
            raise ConnectionError(str(error)) from error

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return what comes from the port, to be read once."""
        self._read = True
        return io.BufferedReader(self._reader, BUFFER_BYTES)

    def close(self) -> None:
        """Close what nobody reads from; a reader closes it with itself."""
        if not self._read:
            self._reader.close()


class _Channel(io.RawIOBase):
    """The bytes that come from a port."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._rest = memoryview(b"")
        self._begun = set[int]()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            try:
                kind, frame = self._socket.recv_data_frame(control_frame=True)
            except (WebSocketException, OSError) as error:
                raise ConnectionError(str(error)) from error
            if kind == ABNF.OPCODE_CLOSE:
                return 0
            if kind == ABNF.OPCODE_BINARY and frame.data:
                self._take(frame.data)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _take(self, data: bytes) -> None:
        channel, rest = data[0], memoryview(data)[1:]
        if channel not in self._begun:
            self._begun.add(channel)
        elif channel == ERROR:
            raise ConnectionError(bytes(rest).decode(errors="replace"))
        else:
            self._rest = rest

    def close(self) -> None:
        if not self.closed:
            self._socket.close()
        super().close()
