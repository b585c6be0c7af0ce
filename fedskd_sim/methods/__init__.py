"""Other people's methods, each in a module of its own, on the public names of `fedskd_sim` alone.

They are found as those of any package: by the entry points ``fedskd_sim.algorithms``, and
``fedskd_sim.keys`` for what a scenario may say of them.
"""
