"""A real Prometheus beside a run."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from watching import until

Query = Callable[[str], list[dict]]
LISTENS, TAKEN = "TLS is disabled", "address already in use"


def started(home: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start Prometheus on a port that was free a moment ago."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={home}/prometheus.yml",
        f"--storage.tsdb.path={home}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (home / "log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log), port


def listening(home: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start Prometheus until it listens: somebody may have been quicker to take its port."""
    while True:
        process, port = started(home)
        until(partial(comes_up, process, home))
        if process.poll() is None or TAKEN not in (home / "log").read_text():
            return process, port


def comes_up(process: subprocess.Popen[bytes], home: Path) -> bool:
    """Return whether Prometheus listens, or has ended."""
    return process.poll() is not None or LISTENS in (home / "log").read_text()


@contextmanager
def scraped(home: Path, config: str) -> Iterator[Query]:
    """Start Prometheus with a configuration in a new folder and give a function that queries it."""
    home.mkdir()
    (home / "prometheus.yml").write_text(config)
    process, port = listening(home)

    def answers(text: str) -> list[list[dict]]:
        address = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(text)}"
        with suppress(OSError), urllib.request.urlopen(address, timeout=120) as answer:
            return [json.load(answer)["data"]["result"]]
        assert process.poll() is None, (home / "log").read_text()
        return []  # it is not up yet

    def query(text: str) -> list[dict]:
        return until(lambda: answers(text))[0]

    yield query
    process.terminate()
    process.wait(120)
