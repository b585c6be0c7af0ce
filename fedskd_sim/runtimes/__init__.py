"""Where a scenario runs: all hospitals in this process, or each in its own; they start, watch
and collect, and decide nothing.
"""
