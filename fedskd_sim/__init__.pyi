from fedskd_sim.api import Comparison as Comparison
from fedskd_sim.api import Run as Run
from fedskd_sim.api import compare as compare
from fedskd_sim.api import launch as launch
from fedskd_sim.api import load as load
from fedskd_sim.api import read_run as read_run
from fedskd_sim.api import resume as resume
from fedskd_sim.api import try_out as try_out
from fedskd_sim.learning.algorithms.allreduce import AllReduceLearner as AllReduceLearner
from fedskd_sim.learning.algorithms.allreduce import Total as Total
from fedskd_sim.learning.algorithms.fedavg import AveragingLearner as AveragingLearner
from fedskd_sim.learning.algorithms.fedavg import flat as flat
from fedskd_sim.learning.algorithms.fedavg import install_flat as install_flat
from fedskd_sim.learning.algorithms.fedskd import CirculatingLearner as CirculatingLearner
from fedskd_sim.learning.algorithms.gossip import GossipLearner as GossipLearner
from fedskd_sim.learning.algorithms.local import LocalLearner as LocalLearner
from fedskd_sim.learning.base import Learner as Learner
from fedskd_sim.learning.base import LearnerState as LearnerState
from fedskd_sim.learning.base import Session as Session
from fedskd_sim.learning.distillation.arrangements import channel_means as channel_means
from fedskd_sim.learning.distillation.distill import Taps as Taps
from fedskd_sim.learning.kept import Kept as Kept
from fedskd_sim.learning.offers import algorithm as algorithm
from fedskd_sim.learning.offers import architecture as architecture
from fedskd_sim.learning.offers import loss as loss
from fedskd_sim.learning.offers import reader as reader
from fedskd_sim.learning.readers.cohort import Cohort as Cohort
from fedskd_sim.learning.readers.cohort import Preview as Preview
from fedskd_sim.learning.readers.tree import files_below as files_below
from fedskd_sim.learning.reconcile import Reconciled as Reconciled
from fedskd_sim.learning.samples import Geometry as Geometry
from fedskd_sim.learning.sessions.session import SessionModels as SessionModels
from fedskd_sim.learning.sessions.steps import AddedLoss as AddedLoss
from fedskd_sim.learning.sessions.steps import Loss as Loss
from fedskd_sim.learning.sessions.steps import Output as Output
from fedskd_sim.learning.sessions.steps import TrainingStep as TrainingStep
from fedskd_sim.learning.sessions.steps import divergence as divergence
from fedskd_sim.learning.site import Site as Site
from fedskd_sim.learning.weights import export as export
from fedskd_sim.learning.weights import install as install
from fedskd_sim.learning.weights import snapshot as snapshot
from fedskd_sim.operate.execution import Cluster as Cluster
from fedskd_sim.ring.topology import Stop as Stop
from fedskd_sim.scenario import AlgorithmKeys as AlgorithmKeys
from fedskd_sim.scenario import AllReduceKeys as AllReduceKeys
from fedskd_sim.scenario import Architecture as Architecture
from fedskd_sim.scenario import AveragingKeys as AveragingKeys
from fedskd_sim.scenario import CirculationKeys as CirculationKeys
from fedskd_sim.scenario import GossipKeys as GossipKeys
from fedskd_sim.scenario import NamedArchitecture as NamedArchitecture
from fedskd_sim.scenario import Schedule as Schedule

__version__: str
__all__ = [
    "AddedLoss",
    "AlgorithmKeys",
    "AllReduceKeys",
    "AllReduceLearner",
    "Architecture",
    "AveragingKeys",
    "AveragingLearner",
    "CirculatingLearner",
    "CirculationKeys",
    "Cluster",
    "Cohort",
    "Comparison",
    "Geometry",
    "GossipKeys",
    "GossipLearner",
    "Kept",
    "Learner",
    "LearnerState",
    "LocalLearner",
    "Loss",
    "NamedArchitecture",
    "Output",
    "Preview",
    "Reconciled",
    "Run",
    "Schedule",
    "Session",
    "SessionModels",
    "Site",
    "Stop",
    "Taps",
    "Total",
    "TrainingStep",
    "__version__",
    "algorithm",
    "architecture",
    "channel_means",
    "compare",
    "divergence",
    "export",
    "files_below",
    "flat",
    "install",
    "install_flat",
    "launch",
    "load",
    "loss",
    "read_run",
    "reader",
    "resume",
    "snapshot",
    "try_out",
]
