"""``python -m tests.benchmarks [NAME]... [--json FILE]``: run some or all benchmarks, print
their tables.
"""

import argparse
import json
from importlib import import_module
from pathlib import Path

NAMES = ("hop", "step", "losses", "memory", "start", "card")
ON_DEMAND = (
    "chaos", "cluster", "commands", "custody", "deaths", "fuzz", "kept", "links", "long", "many",
    "mutants", "pods", "private", "report", "soak", "stacked", "straggler", "watching", "world",
)  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one of {', '.join(NAMES)}, {', '.join(ON_DEMAND)}; default: the first {len(NAMES)}",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write everything that was measured"
    )
    given = parser.parse_args()
    for name in given.names:
        if name not in NAMES + ON_DEMAND:
            parser.error(f"no benchmark {name!r}; there are {', '.join(NAMES + ON_DEMAND)}")
    records = {}
    for name in given.names or NAMES:
        records[name] = []
        for table in import_module(f"tests.benchmarks.{name}").main():
            print(table.text(), flush=True)
            records[name].append(table.record())
        if given.json:
            given.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
