"""``python -m fedskd_sim`` is the command line."""

from fedskd_sim.cli import main

main()
