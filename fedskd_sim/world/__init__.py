"""A run in simulated time: the protocol's machines and the real learners, with links, clock and
deaths that are made up.
"""
