"""Messages on their way: frames, parcels, and links between processes over ZeroMQ."""


class NothingReceived(Exception):
    """A time-out passed without a message."""
