"""The shell of a real member: it carries out what the protocol's machines ask for, on sockets,
in the learner and in the ledger.
"""
