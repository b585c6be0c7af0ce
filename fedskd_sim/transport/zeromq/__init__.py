"""Links between members that are processes: a hospital's inbox and its links, and the
controller's hub.
"""

from fedskd_sim.transport.zeromq.identity import Identity, Keys, Passwords, read
from fedskd_sim.transport.zeromq.links import Incoming, Links, Location, Receiver
from fedskd_sim.transport.zeromq.shaped import Shaped
from fedskd_sim.transport.zeromq.sockets import Hub

__all__ = [
    "Hub",
    "Identity",
    "Incoming",
    "Keys",
    "Links",
    "Location",
    "Passwords",
    "Receiver",
    "Shaped",
    "read",
]
