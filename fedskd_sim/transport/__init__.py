"""Links between the members of a run: one protocol of three methods, in memory or over ZeroMQ."""
