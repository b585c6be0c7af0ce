"""Who reaches a hospital: members of its run, over the links' port; nobody else, and nobody at
all without a key.
"""

from __future__ import annotations

import pytest
from bed import Bed, Run, placebo, until

NAMES = ("controller", "h0", "h1", "h2")
REACH = """
import socket, time
deadline, open_ports = time.monotonic() + 6, set()
while time.monotonic() < deadline and open_ports != {wanted}:
    for port in (5555, 9100):
        try:
            socket.create_connection(({address!r}, port), 2).close()
            open_ports.add(port)
        except OSError:
            time.sleep(0.2)
print(*sorted(open_ports))
"""
KNOCK = """
import time, zmq
from pathlib import Path
from zmq.utils.monitor import recv_monitor_message
from fedskd_sim.transport.zeromq import Keys

keys = Keys.derive(Path("/key/run-key").read_bytes().strip(), {run!r}, "h1", {names!r})

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
    seen, deadline = set(), time.monotonic() + 4
    while time.monotonic() < deadline and zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen:
        if monitor.poll(200):
            seen.add(recv_monitor_message(monitor)["event"])
    answered = socket.poll(1000) if kind != "member" else 0
    print(kind, *(["connected"] if zmq.EVENT_CONNECTED in seen else []),
          "admitted" if zmq.EVENT_HANDSHAKE_SUCCEEDED in seen else "refused",
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


def reached(run: Run, bed: Bed, labels: dict[str, str], wanted: set[int]) -> set[int]:
    """Try a hospital's ports from a new pod until those that are wanted are open, or time is
    over.
    """
    address = run.pod("h0")["status"]["podIP"]
    return {
        int(port)
        for port in bed.probe(REACH.format(address=address, wanted=wanted), labels).split()
    }


def test_members_reach_the_link_and_nothing_else(turning: Run) -> None:
    """A pod with the run's labels reaches a hospital's link, but may not leave for its metrics."""
    assert reached(turning, turning.bed, members(turning), {5555, 9100}) == {5555}


def test_strangers_reach_the_metrics_and_nothing_else(turning: Run) -> None:
    """A pod of the same namespace without the run's labels reads the metrics, but does not reach
    the link.
    """
    assert reached(turning, turning.bed, {}, {5555, 9100}) == {9100}
    other = {**members(turning), "fedskd.io/run": "00000000"}
    assert 5555 not in reached(turning, turning.bed, other, {5555})


def test_other_namespaces_reach_nothing(turning: Run, bed: Bed) -> None:
    """A pod of another namespace reaches no port, whatever labels it has given itself."""
    assert reached(turning, bed, members(turning), {5555}) == set()


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
    until("further hops", lambda: len(turning.events("progress")) > seen + 3, 20)
    assert not turning.events("failed")
