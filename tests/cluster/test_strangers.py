"""Who reaches a hospital: members of its run, over the links' port; nobody else, and nobody at
all without a key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import pytest
from bed import Bed, Run, at_once, placebo, until

Place = tuple[str, int]
API_SERVER = ("kubernetes.default.svc", 443)
"""What any pod reaches whom no policy holds back."""
NAMES = ("controller", "h0", "h1", "h2")
REACH = """
import socket, time
from concurrent.futures import ThreadPoolExecutor

def reached(place):
    try:
        socket.create_connection(place, 2).close()
    except OSError:
        time.sleep(0.2)
        return False
    return True

def comes(place, deadline):
    while not reached(place):
        if time.monotonic() > deadline:
            return False
    return True

def stays_closed(port, deadline):
    closed = 0
    while closed < 2:
        closed = 0 if reached(({address!r}, port)) else closed + 1
        if not closed and time.monotonic() > deadline:
            return False
    return True

wanted = {wanted!r}
first = [place for place in wanted if comes(place, time.monotonic() + 90)]
others = [port for port in (5555, 9100) if ({address!r}, port) not in wanted]
with ThreadPoolExecutor(2) as pool:
    closed = list(pool.map(stays_closed, others, [time.monotonic() + 30] * 2))
print(first == wanted, [port for port, shut in zip(others, closed) if not shut])
"""
"""Waits for what is allowed, which shows that this pod has a network, and until what is not allowed
is closed: policies are in force some time after a pod is made."""
KNOCK = """
import time, zmq
from pathlib import Path
from zmq.utils.monitor import recv_monitor_message
from fedskd_sim.transport.zeromq import Keys

keys = Keys.derive(Path("/key/run-key").read_bytes().strip(), {run!r}, "h1", {names!r})
admitted, left = zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED
failed = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
ends = admitted | left | failed | zmq.EVENT_HANDSHAKE_FAILED_AUTH

def knock(kind, pair):
    socket = zmq.Context().socket(zmq.DEALER)
    socket.linger, socket.routing_id = 0, b"knocks"
    if pair:
        socket.curve_publickey, socket.curve_secretkey = pair
        socket.curve_serverkey = keys.members["h0"].encode()
    monitor = socket.get_monitor_socket()
    socket.connect({address!r})
    if kind != "member":
        socket.send_multipart([b"hello", b"who is there?"])
    seen, deadline = 0, time.monotonic() + 60
    while time.monotonic() < deadline and not (seen & zmq.EVENT_CONNECTED and seen & ends):
        if monitor.poll(200):
            seen |= recv_monitor_message(monitor)["event"]
    answered = socket.poll(1000) if kind != "member" else 0
    print(kind, *(["connected"] if seen & zmq.EVENT_CONNECTED else []),
          "admitted" if seen & admitted else "refused" if seen & ends else "unknown",
          *(["answered"] if answered else []), flush=True)

knock("member", (keys.public.encode(), keys.secret.encode()))
knock("foreign", zmq.curve_keypair())
knock("plain", None)
"""


@pytest.fixture(scope="module")
def turning(shared_bed: Bed) -> Run:
    """A run that goes on for as long as it is looked at."""
    run = shared_bed.install(placebo(3, rounds=1000, session_seconds=0.5))
    run.heard("progress", round=1)
    return run


def members(run: Run) -> dict[str, str]:
    """Give the labels by which the network policies know a member of the run."""
    return {
        "app.kubernetes.io/name": "fedskd-sim",
        "app.kubernetes.io/instance": run.release,
        "fedskd.io/run": run.run,
    }


def reached(
    run: Run, bed: Bed, labels: dict[str, str], wanted: list[int], elsewhere: Sequence[Place] = ()
) -> list[int]:
    """Try a hospital's ports from a new pod that has reached those that are wanted, and what is
    wanted elsewhere; gives the others that it has reached too.
    """
    address = run.pod("h0")["status"]["podIP"]
    places = [*((address, port) for port in wanted), *elsewhere]
    said = bed.probe(REACH.format(address=address, wanted=places), labels).strip()
    assert said.startswith("True "), f"{places} are not reached"
    return list(json.loads(said.removeprefix("True ")))


def test_members_reach_the_link_and_nothing_else(turning: Run) -> None:
    """A pod with the run's labels reaches a hospital's link, but may not leave for its metrics."""
    assert reached(turning, turning.bed, members(turning), [5555]) == []


def test_strangers_reach_the_metrics_and_nothing_else(turning: Run) -> None:
    """A pod of the same namespace without the run's labels reads the metrics, but does not reach
    the link, nor does one of another run.
    """
    other = {**members(turning), "fedskd.io/run": "00000000"}
    looks = {
        name: partial(reached, turning, turning.bed, labels, [9100])
        for name, labels in (("stranger", {}), ("other run", other))
    }
    assert at_once(looks) == {"stranger": [], "other run": []}


def test_other_namespaces_reach_nothing(turning: Run, bed: Bed) -> None:
    """A pod of another namespace reaches no port, whatever labels it has given itself."""
    assert reached(turning, bed, members(turning), [], [API_SERVER]) == []


def test_without_a_key_nothing_answers(turning: Run) -> None:
    """At one address a member's key is admitted, a foreign key and a peer without key get no
    answer, and the run goes on.
    """
    address = f"tcp://h0.{turning.release}-{turning.run}-ring:5555"
    code = KNOCK.format(run=turning.run, names=NAMES, address=address)
    said = turning.bed.probe(code, members(turning), turning.secret).splitlines()
    assert said == [
        "member connected admitted",
        "foreign connected refused",
        "plain connected refused",
    ]
    seen = len(turning.events("progress"))
    until("further hops", lambda: len(turning.events("progress")) > seen + 3)
    assert not turning.events("failed")
