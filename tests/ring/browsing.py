"""A real browser without a window, spoken to over its debugging port."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket
from watching import PATIENCE_S, until

PROGRAM = next(
    (one for one in ("chromium", "chromium-browser", "google-chrome") if shutil.which(one)), ""
)


class Browser:
    """One page of it."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self.socket, self.asked = socket, 0

    def do(self, method: str, **given: Any) -> Any:
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": given}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.asked:
            pass
        return answer["result"]

    def open(self, address: str) -> None:
        self.do("Page.navigate", url=address)

    def ask(self, expression: str) -> Any:
        """Evaluate an expression of JavaScript in the page."""
        return self.do("Runtime.evaluate", expression=expression)["result"].get("value")

    def has(self, selector: str) -> bool:
        return bool(self.ask(f"document.querySelector({json.dumps(selector)}) !== null"))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile, and end it."""
    command = [
        PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}",
        "about:blank",
    ]  # fmt: skip
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            port = profile / "DevToolsActivePort"
            number = until(lambda: port.is_file() and port.read_text().partition("\n")[0])
            with urlopen(f"http://127.0.0.1:{number}/json") as answer:
                pages = [one for one in json.load(answer) if one["type"] == "page"]
            address = pages[0]["webSocketDebuggerUrl"]
            with closing(websocket.create_connection(address, timeout=PATIENCE_S)) as socket:
                yield Browser(socket)
        finally:
            process.kill()
