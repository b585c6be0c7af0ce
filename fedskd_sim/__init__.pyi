from fedskd_sim.api import Run as Run
from fedskd_sim.api import launch as launch
from fedskd_sim.api import load as load
from fedskd_sim.api import read_run as read_run
from fedskd_sim.learning.base import Learner as Learner
from fedskd_sim.learning.distillation.distill import Taps as Taps
from fedskd_sim.learning.readers.cohort import Cohort as Cohort

__version__: str
__all__ = ["Cohort", "Learner", "Run", "Taps", "__version__", "launch", "load", "read_run"]
