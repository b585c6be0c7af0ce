"""Links between members that are processes: a hospital's inbox and its links, and the
controller's hub.
"""

from fedskd_sim.transport.zeromq.hub import Hub
from fedskd_sim.transport.zeromq.identity import Identity, Keys, Passwords, read
from fedskd_sim.transport.zeromq.incoming import Incoming, Receiver
from fedskd_sim.transport.zeromq.links import Links, Place
from fedskd_sim.transport.zeromq.shaped import Shaped

__all__ = [
    "Hub",
    "Identity",
    "Incoming",
    "Keys",
    "Links",
    "Passwords",
    "Place",
    "Receiver",
    "Shaped",
    "read",
]
