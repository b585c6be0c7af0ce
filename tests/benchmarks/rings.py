"""Rings that pass a model on: our own transport, plain TCP sockets, and torch.distributed gloo.
One function is one member.
"""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchvision.models import resnet18

from fedskd_sim.learning.receive_buffers import ReceiveBuffers
from fedskd_sim.learning.weights import export, finite, install, snapshot, spec_of
from fedskd_sim.messages import (
    Ack,
    Answer,
    FromController,
    HopId,
    Register,
    Start,
    Traveller,
    Weights,
)
from fedskd_sim.runtimes.life import keep_freed_memory
from fedskd_sim.transport.zeromq import Incoming, Links, Location

MEMBERS = 4
LAPS = 10
REPEATS = 5
WARM = 2
NAMES = tuple(f"h{index}" for index in range(MEMBERS))
PATIENCE_S = 60


def timed(
    index: int, forward: Callable[[], None], arrive: Callable[[], None], *, together: bool
) -> list[float]:
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


class Post:
    """The thread that owns a member's links, as a hospital's mailbox has it; every model is
    taken in and acknowledged.
    """

    def __init__(self, links: Links) -> None:
        self.links = links
        self.started: SimpleQueue[FromController] = SimpleQueue()
        self.arrivals: SimpleQueue[Traveller] = SimpleQueue()
        self.acknowledgements: SimpleQueue[Answer] = SimpleQueue()
        self.orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.open = True
        self.thread = Thread(target=self._serve)
        self.thread.start()

    def order(self, what: Callable[[], None]) -> None:
        """Have the thread do something."""
        self.orders.put(what)
        self.links.wake()

    def send(self, to: str, traveller: Traveller) -> None:
        """Send a model."""
        self.order(lambda: self.links.send(to, traveller))

    def close(self) -> None:
        """End the thread, which closes its links."""
        self.order(lambda: setattr(self, "open", False))
        self.thread.join()

    def _serve(self) -> None:
        while self.open:
            self.links.attend(1.0, self)
            with suppress(Empty):
                while True:
                    self.orders.get_nowait()()
        self.links.close()

    def announced(self, hop: HopId, sender: str) -> bool:  # noqa: ARG002 - as a receiver has it
        return True

    def on_model(self, traveller: Traveller, sender: str) -> None:
        self.links.reply(sender, Ack(traveller.hop))
        self.arrivals.put(traveller)

    def on_answer(self, answer: Answer, by: str) -> None:  # noqa: ARG002 - as a receiver has it
        self.acknowledgements.put(answer)

    def on_word(self, word: FromController) -> None:
        if isinstance(word, Start):
            self.links.open(word)
            self.started.put(word)

    def on_repeat(self, hop: HopId, sender: str, digest: str) -> None:
        raise RuntimeError(hop, sender, digest)

    def on_refusal(self, sender: str, reason: str) -> None:
        raise RuntimeError(sender, reason)


class Ours:
    """One member of a ring on our own transport. A model arrives in the memory of a network that
    waits for it, as at a hospital.
    """

    def __init__(self, settings: Mapping[str, Any], index: int) -> None:
        networks = [resnet18() for _ in range(3 if settings["together"] else 2)]
        self.networks = deque((network, export(network)) for network in networks)
        self.name, self.next = NAMES[index], NAMES[(index + 1) % MEMBERS]
        self.watch, self.sent, self.confirmed, self.copies = Stopwatch(), 0, 0, settings["copies"]
        self.receive_buffers = ReceiveBuffers()
        self.receive_buffers.build = self._build_receive_buffer
        keys = settings["keys"][self.name]
        bind = (
            f"ipc://{settings['folder']}/{self.name}"
            if settings["kind"] == "ipc"
            else "tcp://127.0.0.1:*"
        )
        expected = dict.fromkeys(NAMES, (spec_of(networks[0]),))
        links = Links(
            Location(self.name, bind, settings["hub"], keys),
            Incoming(expected, self.receive_buffers.allocate, MEMBERS, finite),
        )
        self.post = Post(links)
        register = Register("run", 1, self.name, links.address, keys.public, "")
        self.post.order(lambda: links.tell(register))
        self.post.started.get(timeout=PATIENCE_S)
        self.before = NAMES[index - 1]
        self.here = networks[0]
        self.receive_buffers.prepare(self.before)

    def forward(self) -> None:
        """Export and hand over."""
        with self.watch.part("export"):
            weights = export(self.here)
        self.post.send(
            self.next,
            Traveller(HopId("run", 1, self.name, 1, self.sent), self.name, "", "", weights),
        )
        self.sent += 1

    def arrive(self) -> None:
        """Take in what comes; ``copies``: and copy it, as a session does that may have to go
        back to it.
        """
        traveller = self.post.arrivals.get(timeout=PATIENCE_S)
        with self.watch.part("take"):
            self.here = self.receive_buffers.take(self.before, traveller.weights)
            if self.here is None:  # it was faster than this member
                self.here, _ = self._build_receive_buffer(self.before)
                install(self.here, traveller.weights)
        while self.confirmed < self.sent - len(self.networks) + 2:
            self.post.acknowledgements.get(timeout=PATIENCE_S)
            self.confirmed += 1
        self.receive_buffers.prepare(self.before)
        if self.copies:
            with self.watch.part("copy"):
                snapshot(self.here)

    def _build_receive_buffer(self, _model: str) -> tuple[nn.Module, Weights]:
        """Give a network that nothing leaves from any more: there are no sessions here in which
        to build new ones.
        """
        self.networks.rotate()
        return self.networks[0]


def ours(settings: Mapping[str, Any], index: int, say: Any) -> None:
    """Be one member of a ring on our own transport."""
    if settings["allocator"]:
        keep_freed_memory()
    torch.set_num_threads(1)
    member = Ours(settings, index)
    hops = timed(index, member.forward, member.arrive, together=settings["together"])
    say.send((hops, dict(member.watch)))
    member.post.close()


def tcp(ports: list[int], index: int, say: Any, *, together: bool, fresh: bool = False) -> None:
    """Be one member of a ring of plain TCP sockets between preallocated buffers; a thread sends
    where all travel together.

    ``fresh``: receive into new memory each time, as a program does that keeps what it receives.
    """
    size = sum(
        tensor.numel() * tensor.element_size() for tensor in resnet18().state_dict().values()
    )
    leaving = arriving = memoryview(bytearray(size))
    if together:
        arriving = memoryview(bytearray(size))
    server = socket.create_server(("127.0.0.1", ports[index]))
    say.send("up")
    say.recv()
    outgoing = socket.create_connection(("127.0.0.1", ports[(index + 1) % MEMBERS]))
    accepted, _ = server.accept()
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
        into, got = memoryview(bytearray(size)) if fresh else arriving, 0
        while got < size:
            got += accepted.recv_into(into[got:])

    say.send((timed(index, forward, arrive, together=together), {}))


def gloo(ports: list[int], index: int, say: Any, *, flat: bool) -> None:
    """Be one member of a ring on torch.distributed: tensor by tensor in place, or flattened,
    sent and taken apart.
    """
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
            for tensor, part in zip(
                tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True
            ):
                tensor.copy_(part.view_as(tensor))

    say.send((timed(index, forward, arrive, together=False), {}))
    dist.barrier()
    dist.destroy_process_group()
