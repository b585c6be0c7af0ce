"""Where members have addresses of IPv6, alone or besides those of IPv4."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.request import urlopen

import pytest

from fedskd_sim.observe.metrics import Exporter, HospitalMetrics
from fedskd_sim.ring.topology import Topology
from fedskd_sim.transport.zeromq.sockets import Endpoint


def ipv6() -> bool:
    """Tell whether this machine has the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.1", "localhost"])
def test_an_inbox_on_both_kinds_of_addresses_hears_both(host: str) -> None:
    """What listens at [::] is reached by either kind of address, and by name."""
    with closing(Endpoint("north", None)) as north, closing(Endpoint("south", None)) as south:
        inbox, own = (end.listen("tcp://[::]:*", parts=1) for end in (north, south))
        link = south.connect(f"tcp://{host}:{inbox.address.rpartition(':')[2]}", "north")
        link.send(b"word")
        arrival = inbox.receive(120_000)
        for one in (inbox.socket, own.socket, link):
            one.close()
        assert arrival
        assert bytes(arrival.frames[0]) == b"word"


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.1"])
def test_metrics_are_served_on_both_kinds_of_addresses(host: str) -> None:
    """An exporter at [::] answers either kind of address."""
    metrics = HospitalMetrics("s", "a", Topology(("a", "b"), 1))
    with closing(Exporter(metrics, "[::]", 0)) as exporter:
        port = exporter.address.rpartition(":")[2]
        with urlopen(f"http://{host}:{port}/metrics", timeout=120) as page:
            assert b"fedskd_ring_position" in page.read()
