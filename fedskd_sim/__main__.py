"""``python -m fedskd_sim`` and ``fedskd-sim`` are the command line."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def run() -> None:
    """Carry out the command line; an interrupt is no bug even while its modules are read."""
    try:
        from fedskd_sim.cli import main  # noqa: PLC0415 - reading it takes a second, in which a person may change their mind

        main(standalone_mode=True)
    except OSError as error:  # of help and version, which click writes before any command begins
        from fedskd_sim.errors import OutputNotWritable  # noqa: PLC0415 - read by then
        from fedskd_sim.exits import no_space, out_of_space  # noqa: PLC0415

        if not out_of_space(error):
            raise
        sys.stderr.write(f"error: {no_space(error)}\n")
        sys.exit(OutputNotWritable.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing was started\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
