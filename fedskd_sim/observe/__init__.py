"""What can be seen of a run while it goes on: the catalogue of events, logs, Prometheus metrics,
the live view.
"""
