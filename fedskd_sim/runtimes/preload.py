"""What hospital processes share: imported once by the fork server, whose pages all of them then
map.

Only imports happen here; no device is touched before a hospital forks.
"""

import atexit
import gc

# nothing of what is imported here is ever garbage: looking for it takes a tenth of the time
gc.disable()

import fedskd_sim.learning.algorithms.fedskd  # noqa: E402 - as above
import fedskd_sim.learning.devices  # noqa: E402
import fedskd_sim.runtimes.entry  # noqa: E402

MODULES = (
    fedskd_sim.learning.algorithms.fedskd,
    fedskd_sim.learning.devices,
    fedskd_sim.runtimes.entry,
)

gc.collect()
gc.freeze()
gc.enable()
# for the server itself: extension modules complain about objects that live on at its end
atexit.register(gc.unfreeze)
