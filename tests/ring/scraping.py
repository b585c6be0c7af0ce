"""A real Prometheus beside a run."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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

    def query(text: str) -> list[dict]:
        address = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(text)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    yield query
    process.terminate()
    process.wait(30)
