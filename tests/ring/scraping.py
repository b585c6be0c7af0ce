"""A real Prometheus beside a run."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from watching import until

Query = Callable[[str], list[dict]]


@contextmanager
def scraped(home: Path, config: str) -> Iterator[Query]:
    """Start Prometheus with a configuration in a new folder and give a function that queries it."""
    home.mkdir()
    (home / "prometheus.yml").write_text(config)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={home}/prometheus.yml",
        f"--storage.tsdb.path={home}/data",
    ]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )

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
