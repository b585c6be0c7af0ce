"""The whole hop without training: weights in a model here to weights in the next hospital's model,
digest included.

Four processes in a ring on one machine pass a ResNet-18 (46.8 MB) on. Our hop is export, digest,
send, receive, check of the digest and a network that lives in what has arrived. The others move the
same bytes and do no more: raw TCP between buffers that are used again and again, or into new memory
each time, as a program does that keeps what it receives; and torch.distributed gloo from tensor to
tensor. First one model travels alone (how long does a hop take), then four at once (how many hops
does the machine manage).
"""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from fedskd_sim.messages import CONTROLLER, Register, Start
from fedskd_sim.transport.zeromq import Hub, Keys, Passwords
from tests.benchmarks.rings import MEMBERS, NAMES, PATIENCE_S, gloo, ours, tcp
from tests.benchmarks.table import Table

ROUNDS = 3
PRELOAD = "fedskd_sim.runtimes.preload"
"""As hospitals have it: what was imported is nothing for Python's cycle collector to look at."""
REFERENCE = "raw TCP, no digest"
Found = tuple[list[float], dict[str, list[float]]]


def free_ports(count: int) -> list[int]:
    """Find ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def measured(
    target: Callable[[int, Any], None], *, meet: Callable[[list[Any]], None] = lambda _: None
) -> Found:
    """Start the members of a ring and return what member 0 measured: whole hops, and parts of
    its own hops.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.rings", PRELOAD])
    pipes = [context.Pipe() for _ in range(MEMBERS)]
    members = [
        context.Process(target=target, args=(index, pipes[index][1])) for index in range(MEMBERS)
    ]
    for member in members:
        member.start()
    meet([pipe[0] for pipe in pipes])
    found = [pipe[0].recv() for pipe in pipes]
    for member in members:
        member.join(PATIENCE_S)
    return found[0]


def run_ours(
    kind: str, *, allocator: bool = True, copies: bool = False, together: bool = False
) -> Found:
    """Measure our hop over ipc, tcp or curve; ``allocator``: with the C allocator as hospitals
    set it; ``copies``: see `Ours`.
    """
    with tempfile.TemporaryDirectory() as folder:
        keys = (Keys if kind == "curve" else Passwords).for_members((CONTROLLER, *NAMES))
        hub = Hub(f"ipc://{folder}/hub" if kind == "ipc" else "tcp://127.0.0.1:*", keys[CONTROLLER])
        settings = {"kind": kind, "folder": Path(folder), "hub": hub.address, "keys": keys}

        def introduce(_pipes: list[Any]) -> None:
            with closing(hub):
                words = [hub.receive(PATIENCE_S) for _ in NAMES]
                book = [word for word in words if isinstance(word, Register)]
                start = Start(
                    1,
                    {one.hospital: one.address for one in book},
                    {one.hospital: one.public_key for one in book},
                )
                for name in NAMES:
                    hub.send(name, start)

        return measured(
            partial(
                ours, settings | {"allocator": allocator, "copies": copies, "together": together}
            ),
            meet=introduce,
        )


def run_tcp(*, together: bool = False, fresh: bool = False) -> Found:
    """Measure raw TCP; ``fresh``: into new memory each time."""

    def start_all(pipes: list[Any]) -> None:
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")

    return measured(
        partial(tcp, free_ports(MEMBERS), together=together, fresh=fresh), meet=start_all
    )


def run_gloo(*, flat: bool) -> Found:
    """Measure torch.distributed gloo."""
    return measured(partial(gloo, free_ports(1), flat=flat))


ALONE: dict[str, Callable[[], Found]] = {
    REFERENCE: run_tcp,
    "raw TCP into new memory each time": partial(run_tcp, fresh=True),
    "ours, ipc": partial(run_ours, "ipc"),
    "ours, tcp without encryption": partial(run_ours, "tcp"),
    "ours, tcp with CURVE": partial(run_ours, "curve"),
    "ours, ipc, and the copy to go back to": partial(run_ours, "ipc", copies=True),
    "ours, ipc, default allocator": partial(run_ours, "ipc", allocator=False),
    "gloo, tensor by tensor": partial(run_gloo, flat=False),
    "gloo, flattened": partial(run_gloo, flat=True),
}
TOGETHER: dict[str, Callable[[], Found]] = {
    REFERENCE: partial(run_tcp, together=True),
    "ours, ipc": partial(run_ours, "ipc", together=True),
    "ours, tcp without encryption": partial(run_ours, "tcp", together=True),
}


def main() -> list[Table]:
    """Measure all in turn, several times."""
    alone: dict[str, list[float]] = defaultdict(list)
    together: dict[str, list[float]] = defaultdict(list)
    split: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, case in ALONE.items():
            hops, parts = case()
            alone[name] += hops
            if name == "ours, ipc":
                split["whole hop"].append(median(hops))
                for part, times in parts.items():
                    split[part].append(median(times))
                split["sending, receiving, waking up"].append(
                    median(hops) - sum(median(times) for times in parts.values())
                )
        for name, case in TOGETHER.items():
            together[name] += case()[0]
    return [
        Table("hop of a ResNet-18 between 4 processes, one model travels", "ms", alone, REFERENCE),
        Table("parts of a hop over ipc", "ms", split, "whole hop"),
        Table("one hop each of 4 models that travel at once", "ms", together, REFERENCE),
    ]
