"""``python -m tests.benchmarks [hop] [step] [memory] [start]``: run some or all benchmarks and print their tables."""

import sys
from importlib import import_module

NAMES = ("hop", "step", "memory", "start")

if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in NAMES]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    for chosen in sys.argv[1:] or NAMES:
        print("\n".join(import_module(f"tests.benchmarks.{chosen}").main()), flush=True)
