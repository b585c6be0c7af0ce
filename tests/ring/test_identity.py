"""Nobody can take another's name: real sockets, every kind of link, members with right keys who
lie.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from fedskd_sim.errors import InvalidValue
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.processes import member_order
from fedskd_sim.scenario import load
from fedskd_sim.transport.zeromq import Identity, Keys, Passwords, read
from fedskd_sim.transport.zeromq.sockets import (
    AT_A_TIME,
    ENVELOPE,
    QUEUE,
    Endpoint,
    Inbox,
    Received,
    take,
)

ROOT = Path(__file__).parents[2]
NAMES = ("controller", "aa", "bb", "mm")
PATIENCE_MS = 180_000
LINKS = [("ipc", Passwords), ("tcp", Passwords), ("ipc", Keys), ("tcp", Keys)]
LARGEST, PARTS = 1000, 3


class Bed:
    """An inbox of member bb, and raw sockets that knock at it."""

    def __init__(self, link: str, kind: type[Keys | Passwords], folder: Path) -> None:
        self.kind, self.identities = kind, kind.for_members(NAMES)
        self.endpoint = Endpoint("bb", self.identities["bb"])
        self.inbox: Inbox = self.endpoint.listen(
            f"ipc://{folder}/bb" if link == "ipc" else "tcp://127.0.0.1:*", LARGEST, PARTS
        )
        self.context = zmq.Context()
        self.links: list[tuple[zmq.Socket, zmq.Socket]] = []

    def socket(
        self, identity: Identity | None, name: str, route: bytes = b""
    ) -> tuple[zmq.Socket, zmq.Socket]:
        """Open a link as a program of its own would; gives it and its monitor."""
        socket = self.context.socket(zmq.DEALER)
        socket.linger, socket.sndtimeo, socket.rcvtimeo = 0, 0, PATIENCE_MS
        if route:
            socket.routing_id = route
        if identity:
            identity.present(socket, name, "bb", "")
        monitor = socket.get_monitor_socket()
        socket.connect(self.inbox.address)
        self.links.append((socket, monitor))
        return socket, monitor

    def admitted(self, identity: Identity | None, name: str) -> bool:
        """Knock, and wait for the end of the handshake."""
        _, monitor = self.socket(identity, name)
        while monitor.poll(PATIENCE_MS):
            event = recv_monitor_message(monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return True
            if event in (
                zmq.EVENT_HANDSHAKE_FAILED_AUTH,
                zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
                zmq.EVENT_DISCONNECTED,
            ):
                return False
        raise AssertionError("the handshake never ends")

    def heard(self) -> Received:
        """Take what comes next."""
        arrival = self.inbox.receive(PATIENCE_MS)
        assert arrival is not None
        return arrival


@contextmanager
def bed(link: str, kind: type[Keys | Passwords], folder: Path) -> Iterator[Bed]:
    made = Bed(link, kind, folder)
    try:
        yield made
    finally:
        made.context.destroy(0)
        made.endpoint.close()


def lies(kind: type[Keys | Passwords], own: Identity) -> dict[str, tuple[Identity | None, str]]:
    """Give everything that member mm could show to pass for aa."""
    if isinstance(own, Keys):
        public, secret = (key.decode() for key in zmq.curve_keypair())
        return {
            "nothing": (None, "aa"),
            "a key of no member": (Keys(public, secret, own.members), "aa"),
        }
    assert isinstance(own, Passwords)
    return {
        "nothing": (None, "aa"),
        "its own secret": (own, "aa"),
        "its secret with aa": (Passwords({"bb": own.pairs["aa"]}), "aa"),
        "a short secret": (Passwords({"bb": "0"}), "aa"),
        "the secret of another run": (kind.for_members(NAMES)["aa"], "aa"),
        "a name that nobody has": (own, "zz"),
        "the name of the listener": (own, "bb"),
    }


@pytest.mark.parametrize(("link", "kind"), LINKS)
def test_a_message_is_from_the_owner_of_what_was_shown(
    link: str, kind: type[Keys | Passwords], tmp_path: Path
) -> None:
    """The sender of a message is the member whose key or secret opened the link, and the answer
    goes to it.
    """
    with bed(link, kind, tmp_path) as at:
        for name in ("aa", "mm", "controller"):
            with closing(Endpoint(name, at.identities[name])) as endpoint:
                own = endpoint.connect(at.inbox.address, "bb", at.identities["bb"].public)
                own.send_multipart([b"one", b"two"])
                assert at.heard() == Received(name, [b"one", b"two"])
                assert at.inbox.send(name, [b"answer"])
                assert own.poll(PATIENCE_MS)
                assert take(own) == [b"answer"]


@pytest.mark.parametrize(("link", "kind"), LINKS)
def test_no_lie_opens_a_link(link: str, kind: type[Keys | Passwords], tmp_path: Path) -> None:
    """Without credentials, with another's or with invented ones the handshake ends in a refusal,
    and no message gets in.
    """
    with bed(link, kind, tmp_path) as at:
        for what, (identity, name) in lies(kind, at.identities["mm"]).items():
            assert not at.admitted(identity, name), what
        assert at.admitted(at.identities["mm"], "mm")
        assert at.inbox.receive() is None


@pytest.mark.parametrize(("link", "kind"), LINKS)
def test_a_member_cannot_take_anothers_place(
    link: str, kind: type[Keys | Passwords], tmp_path: Path
) -> None:
    """A right key with another's name as routing id is heard under its own name, and what is for
    the other goes to the other.
    """
    with bed(link, kind, tmp_path) as at, closing(Endpoint("aa", at.identities["aa"])) as endpoint:
        own = endpoint.connect(at.inbox.address, "bb")
        own.send(b"mine")
        assert at.heard().sender == "aa"
        thief, _ = at.socket(at.identities["mm"], "mm", b"aa")
        thief.send(b"I am aa")
        assert at.heard() == Received("mm", [b"I am aa"])
        assert at.inbox.send("aa", [b"for aa"])
        assert own.poll(PATIENCE_MS)
        assert take(own) == [b"for aa"]
        assert at.inbox.send("mm", [b"for mm"])
        assert thief.recv_multipart() == [b"for mm"]


@pytest.mark.parametrize(("link", "kind"), LINKS)
def test_a_member_that_comes_again_is_answered_where_it_is(
    link: str, kind: type[Keys | Passwords], tmp_path: Path
) -> None:
    """After a restart answers go to the new process; to a member that was never heard, or is
    gone, they say that they did not.
    """
    with bed(link, kind, tmp_path) as at:
        assert not at.inbox.send("aa", [b"hello"])
        first, _ = at.socket(at.identities["aa"], "aa")
        first.send(b"first")
        assert at.heard().sender == "aa"
        second, monitor = at.socket(at.identities["aa"], "aa")
        second.send(b"second")
        assert at.heard().sender == "aa"
        assert at.inbox.send("aa", [b"hello"])
        assert second.recv_multipart() == [b"hello"]
        assert monitor.poll(PATIENCE_MS)


@pytest.mark.parametrize(("link", "kind"), LINKS)
def test_a_message_of_many_parts_is_dropped_and_named(
    link: str, kind: type[Keys | Passwords], tmp_path: Path
) -> None:
    """One part too many, or very many, arrive as nothing from their true sender, in bounded
    steps, and others are heard.
    """
    with bed(link, kind, tmp_path) as at:
        liar, _ = at.socket(at.identities["mm"], "mm")
        friend, _ = at.socket(at.identities["aa"], "aa")
        liar.send_multipart([b"x"] * (PARTS + 1))
        assert at.heard() == Received("mm", [], PARTS + 1)
        liar.send_multipart([b"x"] * (3 * AT_A_TIME))
        dropped = []
        while sum(dropped) < 3 * AT_A_TIME:
            arrival = at.heard()
            assert (arrival.sender, arrival.frames) == ("mm", [])
            dropped.append(arrival.dropped)
        assert max(dropped) <= PARTS + AT_A_TIME
        friend.send_multipart([b"x"] * PARTS)
        assert at.heard() == Received("aa", [b"x"] * PARTS)


@pytest.mark.parametrize(("link", "kind"), LINKS)
def test_a_frame_that_is_too_large_ends_the_connection(
    link: str, kind: type[Keys | Passwords], tmp_path: Path
) -> None:
    """A frame over the limit never arrives; what its sender says next does, over a connection
    that begins anew.
    """
    with bed(link, kind, tmp_path) as at:
        liar, monitor = at.socket(at.identities["mm"], "mm")
        liar.send(bytes(LARGEST + ENVELOPE + 1))
        seen = 0
        while seen != zmq.EVENT_DISCONNECTED:
            assert monitor.poll(PATIENCE_MS)
            seen = recv_monitor_message(monitor)["event"]
        liar.send(b"small")
        assert at.heard() == Received("mm", [b"small"])


def test_answers_of_many_parts_are_nothing(tmp_path: Path) -> None:
    """A link takes one frame; of an answer in very many parts it takes a bounded number at a
    time, and nothing is left of them.
    """
    with (
        bed("ipc", Passwords, tmp_path) as at,
        closing(Endpoint("aa", at.identities["aa"])) as endpoint,
    ):
        own = endpoint.connect(at.inbox.address, "bb")
        own.send(b"hello")
        assert at.heard().sender == "aa"
        at.inbox.send("aa", [b"x"] * (AT_A_TIME + 2))
        at.inbox.send("aa", [b"one"])
        assert own.poll(PATIENCE_MS)
        assert [take(own), take(own)] == [[], []]
        assert own.poll(PATIENCE_MS)
        assert take(own) == [b"one"]


@pytest.mark.parametrize("kind", [Keys, Passwords])
def test_no_socket_waits(kind: type[Keys | Passwords], tmp_path: Path) -> None:
    """Receiving nothing, and sending more than a queue takes to a peer that is not there, says
    so at once.
    """
    identities = kind.for_members(NAMES)
    with closing(Endpoint("aa", identities["aa"])) as endpoint:
        link = endpoint.connect(f"ipc://{tmp_path}/nobody", "bb")
        with pytest.raises(zmq.Again):
            take(link)
        for _ in range(QUEUE):
            link.send(b"")
        with pytest.raises(zmq.Again):
            link.send(b"")
        link.linger = 0


@pytest.mark.parametrize("kind", [Keys, Passwords])
def test_key_files_are_private_and_come_back(kind: type[Keys | Passwords], tmp_path: Path) -> None:
    """Only the owner may read a key file, which holds no other member's secrets; what is read is
    what was written.
    """
    identities = kind.for_members(NAMES)
    for name, identity in identities.items():
        identity.write(tmp_path / name)
        assert read(tmp_path / name) == identity
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        identities["aa"].write(tmp_path / "aa")
    text = (tmp_path / "mm").read_text()
    aa = identities["aa"]
    others = [aa.secret] if isinstance(aa, Keys) else [aa.pairs["bb"], aa.pairs["controller"]]
    assert not any(secret in text for secret in others)


def test_what_is_no_key_file_is_refused(tmp_path: Path) -> None:
    """Anything else than a key file raises InvalidValue with its path."""
    for text in ("", "[]", "{}", '{"pairs": {}, "more": 1}', '{"public": ""}', "\0"):
        (tmp_path / "file").write_text(text)
        with pytest.raises(InvalidValue, match="file"):
            read(tmp_path / "file")


def test_secrets_belong_to_pairs() -> None:
    """Both of a pair have the same secret, no other pair does; derived ones depend on run and
    secret, which must be long enough.
    """
    made = Passwords.for_members(NAMES)
    pairs = {
        (one, other): made[one].pairs[other] for one in NAMES for other in NAMES if one != other
    }
    assert all(secret == pairs[other, one] for (one, other), secret in pairs.items())
    assert len(set(pairs.values())) == len(pairs) / 2
    secret = bytes(range(32))
    derived = Passwords.derive(secret, "run", "aa", NAMES)
    assert derived == Passwords.derive(secret, "run", "aa", NAMES)
    assert derived.pairs["bb"] == Passwords.derive(secret, "run", "bb", NAMES).pairs["aa"]
    assert derived.pairs["bb"] != Passwords.derive(secret, "other", "aa", NAMES).pairs["bb"]
    assert derived.pairs["bb"] != Passwords.derive(secret[::-1], "run", "aa", NAMES).pairs["bb"]
    for kind in (Keys, Passwords):
        with pytest.raises(InvalidValue, match="31 bytes"):
            kind.derive(secret[1:], "run", "aa", NAMES)


@pytest.mark.parametrize("kind", [Keys, Passwords])
def test_a_link_to_nobody_we_know_is_refused(kind: type[Keys | Passwords], tmp_path: Path) -> None:
    """Neither a peer outside the run nor a key that is not the agreed one is spoken to."""
    with closing(Endpoint("aa", kind.for_members(NAMES)["aa"])) as endpoint:
        for peer, public in (("zz", ""), ("bb", zmq.curve_keypair()[0].decode())):
            with pytest.raises(InvalidValue, match="not the agreed one"):
                endpoint.connect(f"ipc://{tmp_path}/bb", peer, public)


def test_a_flood_of_strangers_keeps_no_member_out(tmp_path: Path) -> None:
    """After a flood of refused handshakes a member still gets in, and closing leaves the address
    free.
    """
    for _ in range(2):
        with bed("ipc", Passwords, tmp_path) as at:
            for _ in range(50):
                at.socket(Passwords({"bb": "wrong"}), "aa")
            assert at.admitted(at.identities["aa"], "aa")
            assert at.inbox.receive() is None


@pytest.mark.parametrize(
    ("network", "kind"),
    [("ipc", Passwords), ("tcp", Keys), ("tcp, plaintext: true", Passwords)],
    ids=["ipc", "tcp", "plaintext"],
)
def test_the_launcher_gives_every_member_a_file_of_its_own(
    network: str, kind: type[Keys | Passwords], tmp_path: Path
) -> None:
    """On every kind of link the launcher makes one file per member, with what only it may have,
    in a folder for its user alone.
    """
    text = (
        ROOT / "scenarios" / "placebo-ok.yaml"
    ).read_text() + f"\nnetwork: {{transport: {network}}}\n"
    (tmp_path / "scenario.yaml").write_text(text)
    loaded = load(tmp_path / "scenario.yaml")
    order = Order(loaded, "run", tmp_path)
    files = {
        name: member_order(order, tmp_path, name, number).keys
        for number, name in enumerate(("controller", *loaded.scenario.names))
    }
    identities = {name: read(file) for name, file in files.items() if file}
    assert {type(identity) for identity in identities.values()} == {kind}
    assert len(set(map(repr, map(vars, identities.values())))) == len(identities) > 2
    assert {*identities} == {*files}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
