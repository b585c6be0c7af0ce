"""A folder for sockets and keys, of this user alone, that no death leaves behind.

A tiny process, the keeper, makes the folder and waits at the end of a pipe. The launcher and every
member hold the other end; when the last of them has gone, however it went, the keeper removes the
folder.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, cast

from fedskd_sim.errors import OutputNotWritable

KEEPER = """
trap '' HUP INT QUIT TERM PIPE
folder=$(mktemp -d "$1/fedskd-XXXXXXXX") && printf '%s\\n' "$folder" && read -r _
rm -rf -- "$folder"
"""
GONE_S = 5.0


@dataclass(frozen=True)
class PrivateFolder:
    """The folder; it stays as long as any process holds the lease."""

    path: Path
    lease: Connection
    keeper: subprocess.Popen[bytes]

    def close(self) -> None:
        """Give up this process's lease, and wait until members that were stopped have gone and
        the folder with them.
        """
        self.lease.close()
        with suppress(subprocess.TimeoutExpired):
            self.keeper.wait(GONE_S)
        shutil.rmtree(self.path, ignore_errors=True)  # for a keeper that was killed itself


@cache
def private_folder() -> PrivateFolder:
    """Make this process's private folder, once; it is closed when the process ends.

    Raises:
        OutputNotWritable: the folder for temporary files takes none.

    """
    place = tempfile.gettempdir()
    end, lease = Pipe(duplex=False)
    with end:
        keeper = subprocess.Popen(  # noqa: S603 - the shell of POSIX, with the script above
            ["/bin/sh", "-c", KEEPER, "fedskd-keeper", place], stdin=end.fileno(),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
    with cast("IO[bytes]", keeper.stdout) as said:
        made = os.fsdecode(said.readline().rstrip(b"\n"))
    if not made:
        lease.close()
        keeper.wait()
        raise OutputNotWritable(
            f"no folder can be made in {place}",
            fix="make room there, or set TMPDIR to another folder",
        )
    folder = PrivateFolder(Path(made), lease, keeper)
    atexit.register(folder.close)
    return folder
