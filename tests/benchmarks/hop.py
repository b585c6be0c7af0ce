"""The whole hop without training: weights in a model here to weights in the next hospital's model, digest included.

Four processes in a ring on one machine pass a ResNet-18 (44.7 MB) on; one hop at a time. Our hop is export, digest, send,
receive, check of the digest and installation. The others move the same bytes and do no more: raw TCP between buffers, and
torch.distributed gloo from tensor to tensor.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchvision.models import resnet18

from fedskd_sim.learning.weights import export, install, spec_of
from fedskd_sim.messages import HopId, Register, Start, Traveller, digest
from fedskd_sim.runtimes.member import keep_freed_memory
from fedskd_sim.transport.base import CONTROLLER
from fedskd_sim.transport.zeromq import Hub, Keys, Place, Terms, ZeroMQTransport
from tests.benchmarks.table import rows

MEMBERS = 4
HOPS = 40
REPEATS = 5
WARM = 8
NAMES = tuple(f"h{index}" for index in range(MEMBERS))


def free_ports(count: int) -> list[int]:
    """Find ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def timed(index: int, forward: Callable[[], None], arrive: Callable[[], None]) -> list[float]:
    """Pass the model around: member 0 starts and times, the others forward what arrives. Returns milliseconds per hop."""
    found = []
    for count in (WARM, *[HOPS] * REPEATS):
        start = time.perf_counter()
        if index == 0:
            forward()
        for turn in range(count // MEMBERS):
            arrive()
            if index or turn < count // MEMBERS - 1:
                forward()
        found.append((time.perf_counter() - start) * 1000 / count)
    return found[1:]


def ours(settings: Mapping[str, Any], index: int, say: Any) -> None:
    """Be one member of a ring on our own transport."""
    if settings["allocator"]:
        keep_freed_memory()
    torch.set_num_threads(1)
    name, model = NAMES[index], resnet18()
    keys = settings["keys"].get(name)
    bind = f"ipc://{settings['folder']}/{name}" if settings["kind"] == "ipc" else "tcp://127.0.0.1:*"
    terms = Terms("run", receipt=60, retry=60, inbox=2)
    spec = dict.fromkeys(NAMES, spec_of(model))
    transport = ZeroMQTransport(Place(name, bind, settings["hub"], keys), terms, spec, lambda _: None)
    transport.send(CONTROLLER, Register("run", name, transport.address, keys.public if keys else "", ""))
    transport.receive(8)
    hop = iter(range(10**6))

    def forward() -> None:
        weights = export(model)
        traveller = Traveller(HopId("run", name, 1, next(hop)), name, "resnet18", digest(weights), (), weights)
        transport.send(NAMES[(index + 1) % MEMBERS], traveller)

    def arrive() -> None:
        install(model, transport.receive(8).weights)

    say.send(timed(index, forward, arrive))
    transport.close()


def tcp(ports: list[int], index: int, say: Any) -> None:
    """Be one member of a ring of plain TCP sockets between preallocated buffers."""
    data = bytearray(sum(tensor.numel() * tensor.element_size() for tensor in resnet18().state_dict().values()))
    view = memoryview(data)
    server = socket.create_server(("127.0.0.1", ports[index]))
    say.send("up")
    say.recv()
    outgoing = socket.create_connection(("127.0.0.1", ports[(index + 1) % MEMBERS]))
    incoming, _ = server.accept()
    outgoing.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def arrive() -> None:
        got = 0
        while got < len(data):
            got += incoming.recv_into(view[got:])

    say.send(timed(index, lambda: outgoing.sendall(data), arrive))


def gloo(ports: list[int], index: int, say: Any, *, flat: bool) -> None:
    """Be one member of a ring on torch.distributed: tensor by tensor in place, or flattened, sent and taken apart."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(ports[0]), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=index, world_size=MEMBERS)
    model: nn.Module = resnet18()
    tensors = list(model.state_dict().values())
    whole = torch.empty(sum(tensor.numel() for tensor in tensors))

    def forward() -> None:
        if flat:
            torch.cat([tensor.reshape(-1).float() for tensor in tensors], out=whole)
        for tensor in [whole] if flat else tensors:
            dist.send(tensor, (index + 1) % MEMBERS)

    def arrive() -> None:
        for tensor in [whole] if flat else tensors:
            dist.recv(tensor, (index - 1) % MEMBERS)
        if flat:
            for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    say.send(timed(index, forward, arrive))
    dist.barrier()
    dist.destroy_process_group()


def measured(target: Callable[[int, Any], None], *, meet: Callable[[list[Any]], None] = lambda _: None) -> list[float]:
    """Start the members of a ring and return what member 0 measured."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.hop"])
    pipes = [context.Pipe() for _ in range(MEMBERS)]
    members = [context.Process(target=target, args=(index, pipes[index][1])) for index in range(MEMBERS)]
    for member in members:
        member.start()
    meet([pipe[0] for pipe in pipes])
    found: list[float] = pipes[0][0].recv()
    for pipe in pipes[1:]:
        pipe[0].recv()
    for member in members:
        member.join(60)
    return found


def run_ours(kind: str, *, allocator: bool) -> list[float]:
    """Measure our hop over ipc, tcp or curve."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys.for_members((CONTROLLER, *NAMES)) if kind == "curve" else {}
        address = f"ipc://{folder}/hub" if kind == "ipc" else f"tcp://127.0.0.1:{free_ports(1)[0]}"
        settings = {"kind": kind, "allocator": allocator, "folder": Path(folder), "hub": address, "keys": keys}

        def introduce(_pipes: list[Any]) -> None:
            hub = Hub(address, keys.get(CONTROLLER))
            book = [hub.receive(8) for _ in NAMES]
            start = Start({one.hospital: one.address for one in book}, {one.hospital: one.public_key for one in book})
            for name in NAMES:
                hub.send(name, start)
            hub.close()

        return measured(partial(ours, settings), meet=introduce)


def run_tcp() -> list[float]:
    """Measure raw TCP."""

    def start_all(pipes: list[Any]) -> None:
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")

    return measured(partial(tcp, free_ports(MEMBERS)), meet=start_all)


def run_gloo(*, flat: bool) -> list[float]:
    """Measure torch.distributed gloo."""
    return measured(partial(gloo, free_ports(1), flat=flat))


def main() -> list[str]:
    """Measure all, three times in turn, and format the result."""
    torch.set_num_threads(1)
    cases = {
        "raw TCP, no digest": run_tcp,
        "ours, ipc": partial(run_ours, "ipc", allocator=True),
        "ours, tcp without keys": partial(run_ours, "tcp", allocator=True),
        "ours, tcp with CURVE": partial(run_ours, "curve", allocator=True),
        "ours, ipc, default allocator": partial(run_ours, "ipc", allocator=False),
        "gloo, tensor by tensor": partial(run_gloo, flat=False),
        "gloo, flattened": partial(run_gloo, flat=True),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(3):
        for name, case in cases.items():
            found[name].extend(case())
    return rows("hop of a ResNet-18 between 4 processes", found, "ms", "raw TCP, no digest")
