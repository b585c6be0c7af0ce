from fedskd_sim.api import Comparison as Comparison
from fedskd_sim.api import Run as Run
from fedskd_sim.api import compare as compare
from fedskd_sim.api import launch as launch
from fedskd_sim.api import load as load
from fedskd_sim.api import read_run as read_run
from fedskd_sim.api import resume as resume
from fedskd_sim.api import try_out as try_out
from fedskd_sim.learning.base import Learner as Learner
from fedskd_sim.learning.distillation.distill import Taps as Taps
from fedskd_sim.learning.readers.cohort import Cohort as Cohort
from fedskd_sim.operate.execution import Cluster as Cluster

__version__: str
__all__ = [
    "Cluster",
    "Cohort",
    "Comparison",
    "Learner",
    "Run",
    "Taps",
    "__version__",
    "compare",
    "launch",
    "load",
    "read_run",
    "resume",
    "try_out",
]
