"""The laws of the ring as pure machines: an event in, the next state and the effects to carry out.

Nothing here knows time, chance, threads, files or sockets; whoever carries the effects out does
(`fedskd_sim.member` for real, `fedskd_sim.world` in simulated time). The order of effects is the
law: what must be safe stands before what is told.
"""
