"""Architectures, one family per file; `fedskd_sim.learning.models` registers them."""
