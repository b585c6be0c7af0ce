"""Links between members that are processes: a hospital's inbox and its links, and the controller's hub."""

from fedskd_sim.transport.zeromq.hub import Hub
from fedskd_sim.transport.zeromq.links import Goods, Links, Place, Receiver
from fedskd_sim.transport.zeromq.sockets import Keys

__all__ = ["Goods", "Hub", "Keys", "Links", "Place", "Receiver"]
