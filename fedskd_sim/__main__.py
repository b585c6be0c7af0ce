"""``python -m fedskd_sim`` and ``fedskd-sim`` are the command line."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def run() -> None:
    """Carry out the command line; an interrupt is no bug even while its modules are read."""
    try:
        from fedskd_sim.cli import main  # noqa: PLC0415 - reading it takes a second, in which a person may change their mind

        main(standalone_mode=True)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was started\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
