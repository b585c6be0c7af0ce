"""What a hospital goes on from, on its way to another place: out of a run folder into a pod that
waits for it, or out of a pod.

It travels as a tar archive in lines of base64, whole when a line with a full stop and the digest of
the archive has come.
"""

from __future__ import annotations

import base64
import binascii
import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from fedskd_sim import clock
from fedskd_sim.errors import RegistrationTimeout, RunUnreadable
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes.member import CUSTODY, MARKS, STARTED, MemberOrder
from fedskd_sim.wholefiles import PRIVATE, PRIVATE_FOLDER, PUBLIC, opened, settle

BOOKS = ("records", "samples", "timings")
RESULTS = (*BOOKS, "weights", "predictions", "metrics")
PRIVATE_KINDS = (CUSTODY, "weights", "predictions")
"""What shows weights, or what was predicted of whom, is its owner's alone."""
PLACED = "placed"
"""The file that says that everything has been brought."""
END = "."
LINE_BYTES = 48 << 10
LOOK_S = 0.2


def list_kept(folder: Path, hospital: str) -> list[tuple[Path, str]]:
    """List what a hospital goes on from: its custody and its books, each with its name on the way.

    Raises:
        RunUnreadable: there is nothing in custody.

    """
    custody = folder / CUSTODY / hospital
    if not any(custody.glob("commit-*")):
        text = f"there is nothing from which {hospital!r} could go on in {custody}"
        raise RunUnreadable(text, fix="launch the scenario again")
    names = [f"{CUSTODY}/{hospital}{suffix}" for suffix in (MARKS, STARTED)]
    names = [*(f"{kind}/{hospital}.jsonl" for kind in BOOKS), *names]
    return [
        (custody, f"{CUSTODY}/{hospital}"),
        *((folder / name, name) for name in names if (folder / name).is_file()),
    ]


def pack(parts: Iterable[tuple[Path, str]]) -> Iterator[str]:
    """Yield files and folders as lines, without line ends."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, name in parts:
            tar.add(path, name)
    archive.seek(0)
    while chunk := archive.read(LINE_BYTES):
        yield base64.b64encode(chunk).decode()
    yield END + sha256(archive.getbuffer()).hexdigest()


def unpack(lines: Iterable[str], folder: Path, owner: str = "") -> list[Path]:
    """Write what came into a folder, nothing of it in part: files that are there are replaced as
    wholes, custody as a whole. The disk has it then: where it came from lets go of it next.

    Args:
        lines: what `pack` gave.
        folder: a run folder.
        owner: whose files these may be; a hospital writes no other's, nor any other file of a run.

    Returns:
        The files' names in the folder.

    Raises:
        ValueError: it ends too early, is no archive, or has a file that is not the owner's.
        OutputNotWritable: the disk does not take it.

    """
    data = io.BytesIO()
    try:
        for line in lines:
            if line.startswith(END):
                if line.strip() != END + sha256(data.getbuffer()).hexdigest():
                    raise ValueError("it is not what was sent")
                break
            data.write(base64.b64decode(line.strip(), validate=True))
        else:
            raise ValueError("it came only in part")
        data.seek(0)
        with (
            tarfile.open(fileobj=data) as archive,
            TemporaryDirectory(prefix=".brought-", dir=folder) as place,
        ):
            for member in archive:
                _extract(archive, member, Path(place), owner)
            return move(Path(place), folder)
    except (binascii.Error, tarfile.TarError) as error:
        raise ValueError(f"it cannot be read: {error}") from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path, owner: str) -> None:
    """Write a file of an archive; what could lead out of the place is refused. Python 3.11.2,
    which images have, has no filters.
    """
    source, target = archive.extractfile(member) if member.isfile() else None, place / member.name
    if source is None and not member.isdir():
        raise ValueError(f"{member.name!r} is no file")
    if not target.resolve().is_relative_to(place.resolve()):
        raise ValueError(f"{member.name!r} leads elsewhere")
    if owner and source is not None and not _owned(PurePath(member.name).parts, owner):
        raise ValueError(f"{member.name!r} is not a file of {owner!r}")
    if source is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        private = PurePath(member.name).parts[0] in PRIVATE_KINDS
        with source, opened(target, PRIVATE if private else PUBLIC) as stream:
            shutil.copyfileobj(source, stream)
        settle(target)


def _owned(parts: tuple[str, ...], owner: str) -> bool:
    """Return whether a file is a hospital's: of its custody, or named after it."""
    if parts[:1] == (CUSTODY,):
        return parts[1:2] == (owner,) or parts[1:] in ((owner + MARKS,), (owner + STARTED,))
    return len(parts) == 2 and parts[0] in RESULTS and parts[1].split(".")[0] == owner  # noqa: PLR2004


def move(source: Path, target: Path) -> list[Path]:
    """Put files that came into a run folder, each as a whole; gives their names in it."""
    for before in (target / CUSTODY / new.name for new in source.glob(f"{CUSTODY}/*")):
        # what an earlier life kept is older, and would be in the way
        shutil.rmtree(before, ignore_errors=True)
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for name in names:
        mode = PRIVATE_FOLDER if name.parts[0] in PRIVATE_KINDS else 0o777
        for parent in reversed(name.parents):
            (target / parent).mkdir(mode, exist_ok=True)
        (source / name).replace(target / name)
    for place in {target / parent for name in names for parent in name.parents}:
        settle(place)
    return names


def wait(order: MemberOrder, log: EventLog) -> None:
    """Wait until what a hospital goes on from has been brought into its folder, or taken out of it.

    What is there already, on a claim, has been brought to an earlier pod, and has gone on since:
    whoever takes it out of a cluster leaves nothing behind.

    Raises:
        RegistrationTimeout: nobody came.

    """
    if order.custody == "in" and any((order.folder / CUSTODY / order.name).glob("commit-*")):
        return
    log.event(events.AwaitsCustody(order.custody))
    patience = order.patience or order.read().scenario.timeouts.register_
    deadline = clock.now() + patience
    while order.custody == "out" or not (order.folder / PLACED).exists():
        if clock.now() > deadline:
            what = "brought what it had kept" if order.custody == "in" else "taken what it has kept"
            raise RegistrationTimeout(
                f"within {patience:g} s nobody has {what}", fix="fedskd-sim resume RUN once more"
            )
        clock.sleep(LOOK_S)
