"""What the members of a run on this machine are told: where each listens, and which keys it has."""

from __future__ import annotations

from pathlib import Path

from fedskd_sim.messages import CONTROLLER
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.member import Life, MemberOrder
from fedskd_sim.scenario import Scenario
from fedskd_sim.transport.zeromq import Keys, Passwords


def member_order(order: Order, sockets: Path, name: str, number: int) -> MemberOrder:
    """Say where a member listens, and give it its key file.

    Args:
        order: the run.
        sockets: the run's folder for sockets and keys, which only this user may enter.
        name: the member.
        number: 0 for the controller, and its hospitals' places in the scenario counted from 1: told
            apart by it, no two members share a socket or a port.

    """
    scenario = order.loaded.scenario
    if scenario.network.transport == "ipc":
        bind = f"ipc://{sockets / str(number)}"
    else:
        port = scenario.network.port + number if scenario.network.port else "*"
        bind = f"tcp://127.0.0.1:{port}"
    port = scenario.metrics.port + number if scenario.metrics.port else 0
    life: Life = "resumed" if order.resumed else "first"
    return MemberOrder(
        order.folder / "scenario.yaml",
        name,
        order.run,
        order.folder,
        bind,
        "",
        key_file(scenario, sockets, name),
        order.data,
        f"127.0.0.1:{port}",
        life=life,
        anyway=order.anyway,
    )


def key_file(scenario: Scenario, sockets: Path, name: str) -> Path:
    """Give a member's file of keys, or of secrets where nothing is encrypted, after making
    everybody's.
    """
    network = scenario.network
    kind = Keys if network.transport == "tcp" and not network.plaintext else Passwords
    home = sockets / "keys"
    if not home.exists():
        home.mkdir(mode=0o700)
        for member, keys in kind.for_members((CONTROLLER, *scenario.names)).items():
            keys.write(home / member)
    return home / name
