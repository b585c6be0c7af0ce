"""Rings that pass a model on: our own transport, plain TCP sockets, and torch.distributed gloo. One function is one member."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchvision.models import resnet18

from fedskd_sim.learning.weights import export, install, spec_of
from fedskd_sim.messages import HopId, Register, Transfer, Traveller, digest
from fedskd_sim.runtimes.member import keep_freed_memory
from fedskd_sim.transport.base import CONTROLLER
from fedskd_sim.transport.zeromq import Place, Terms, ZeroMQTransport, office

MEMBERS = 4
LAPS = 10
REPEATS = 5
WARM = 2
NAMES = tuple(f"h{index}" for index in range(MEMBERS))
PATIENCE_S = 60


def timed(index: int, forward: Callable[[], None], arrive: Callable[[], None], *, together: bool) -> list[float]:
    """Go around the ring. Returns milliseconds from one hop's start to the next one's.

    Args:
        index: the number of this member; member 0 starts a model that travels alone.
        forward: send the model on.
        arrive: wait for a model and take it in.
        together: every member starts a model, and four hops are under way at any time.

    """
    found = []
    for laps in (WARM, *[LAPS] * REPEATS):
        start = time.perf_counter()
        if together or index == 0:
            forward()
        for lap in range(laps):
            arrive()
            if lap < laps - 1 or not (together or index == 0):
                forward()
        found.append((time.perf_counter() - start) * 1000 / (laps if together else laps * MEMBERS))
    return found[1:]


class Stopwatch(defaultdict[str, list[float]]):
    """Milliseconds by part of a hop."""

    def __init__(self) -> None:
        super().__init__(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        start = time.perf_counter()
        yield
        self[name].append((time.perf_counter() - start) * 1000)


class Ours:
    """One member of a ring on our own transport.

    Where models travel together, one is installed while another is on its way out: each in a model of its own, and a model is only
    overwritten when the hop that left from it has been confirmed.
    """

    def __init__(self, settings: Mapping[str, Any], index: int) -> None:
        self.models = [resnet18() for _ in range(2 if settings["together"] else 1)]
        self.name, self.next = NAMES[index], NAMES[(index + 1) % MEMBERS]
        self.watch, self.sent, self.confirmed = Stopwatch(), 0, 0
        self.receipts: SimpleQueue[Transfer] = SimpleQueue()
        keys = settings["keys"].get(self.name)
        bind = f"ipc://{settings['folder']}/{self.name}" if settings["kind"] == "ipc" else "tcp://127.0.0.1:*"
        terms = Terms("run", receipt=PATIENCE_S, retry=PATIENCE_S, inbox=2)
        expected = dict.fromkeys(NAMES, (spec_of(self.models[0]),))
        self.transport = ZeroMQTransport(Place(self.name, bind, settings["hub"], keys), terms, expected, self.receipts.put)
        self.transport.send(CONTROLLER, Register("run", self.name, self.transport.address, keys.public if keys else "", ""))
        self.transport.receive(PATIENCE_S)
        office.decode = self._verified(office.decode)  # type: ignore[attr-defined]

    def forward(self) -> None:
        """Export, digest, and hand over."""
        with self.watch.part("export"):
            weights = export(self.models[self.sent % len(self.models)])
        with self.watch.part("digest"):
            mark = digest(weights)
        self.transport.send(self.next, Traveller(HopId("run", self.name, 1, self.sent), self.name, "", mark, (), weights))
        self.sent += 1

    def arrive(self) -> None:
        """Take in what comes."""
        traveller = self.transport.receive(PATIENCE_S)
        while self.confirmed < self.sent - len(self.models) + 1:
            self.receipts.get(timeout=PATIENCE_S)
            self.confirmed += 1
        with self.watch.part("install"):
            install(self.models[self.sent % len(self.models)], traveller.weights)  # type: ignore[union-attr]

    def _verified(self, decode: Any) -> Any:
        """Time what the office does to a traveller between its arrival and its receipt."""

        def timed_decode(frames: Any, expected: Any) -> Any:
            if not expected:
                return decode(frames, expected)
            with self.watch.part("decode and verify"):
                return decode(frames, expected)

        return timed_decode


def ours(settings: Mapping[str, Any], index: int, say: Any) -> None:
    """Be one member of a ring on our own transport."""
    if settings["allocator"]:
        keep_freed_memory()
    torch.set_num_threads(1)
    member = Ours(settings, index)
    hops = timed(index, member.forward, member.arrive, together=settings["together"])
    say.send((hops, dict(member.watch)))
    member.transport.close()


def tcp(ports: list[int], index: int, say: Any, *, together: bool) -> None:
    """Be one member of a ring of plain TCP sockets between preallocated buffers; a thread sends where all travel together."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in resnet18().state_dict().values())
    leaving = arriving = memoryview(bytearray(size))
    if together:
        arriving = memoryview(bytearray(size))
    server = socket.create_server(("127.0.0.1", ports[index]))
    say.send("up")
    say.recv()
    outgoing = socket.create_connection(("127.0.0.1", ports[(index + 1) % MEMBERS]))
    incoming, _ = server.accept()
    outgoing.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sending: list[Thread] = []

    def forward() -> None:
        if not together:
            outgoing.sendall(leaving)
            return
        while sending:
            sending.pop().join()
        sending.append(Thread(target=outgoing.sendall, args=(leaving,)))
        sending[0].start()

    def arrive() -> None:
        got = 0
        while got < size:
            got += incoming.recv_into(arriving[got:])

    say.send((timed(index, forward, arrive, together=together), {}))


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

    say.send((timed(index, forward, arrive, together=False), {}))
    dist.barrier()
    dist.destroy_process_group()
