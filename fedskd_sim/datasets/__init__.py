"""Public data sets as they are released, one module each, and what several of them read with.

They stand where a stranger's readers stand: each is a function that gives a `Cohort`, found through
the entry points ``fedskd_sim.readers`` of this package, and imports nothing of it but the public
names.
"""
