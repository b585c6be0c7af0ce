"""A scenario: one YAML file that says what is learned; read once, checked, frozen."""

from fedskd_sim.scenario.algorithms import (
    BUILT_IN,
    Algorithm,
    Averaging,
    Circulating,
    Circulation,
    Cyclic,
    FedSKD,
    Mutual,
)
from fedskd_sim.scenario.averaging import FML, FedAvg, FedProto, FedProx
from fedskd_sim.scenario.budget import Planned, at_budget, passes
from fedskd_sim.scenario.circulation import (
    CommunicationPattern,
    Schedule,
    SelfDistillation,
    Similarity,
    Tap,
)
from fedskd_sim.scenario.datasets import (
    Abide,
    AbideRois,
    Dataset,
    Derm7pt,
    Ham10000,
    Ham10000Images,
    MedMnist,
    NoData,
    SyntheticRoi,
    SyntheticSkin,
)
from fedskd_sim.scenario.explain import nearest
from fedskd_sim.scenario.faults import COMES_BACK, Fault
from fedskd_sim.scenario.idle import find_idle
from fedskd_sim.scenario.links import Conditions, Link, rule_of
from fedskd_sim.scenario.load import Examined, Loaded, examine, load, raise_all
from fedskd_sim.scenario.owndata import OwnData
from fedskd_sim.scenario.part import Architecture
from fedskd_sim.scenario.partition import Partition, partless
from fedskd_sim.scenario.references import Local, Placebo, Pooled
from fedskd_sim.scenario.schema import Hospital, Network, Resources, Scenario, Timeouts, Variant
from fedskd_sim.scenario.shipped import begin, find, scenarios
from fedskd_sim.scenario.sound import Sound
from fedskd_sim.scenario.training import Instruments, Prediction, Training
from fedskd_sim.scenario.volumes import Nifti, Space, SyntheticVolumes, spaceless

__all__ = [
    "BUILT_IN",
    "COMES_BACK",
    "FML",
    "Abide",
    "AbideRois",
    "Algorithm",
    "Architecture",
    "Averaging",
    "Circulating",
    "Circulation",
    "CommunicationPattern",
    "Conditions",
    "Cyclic",
    "Dataset",
    "Derm7pt",
    "Examined",
    "Fault",
    "FedAvg",
    "FedProto",
    "FedProx",
    "FedSKD",
    "Ham10000",
    "Ham10000Images",
    "Hospital",
    "Instruments",
    "Link",
    "Loaded",
    "Local",
    "MedMnist",
    "Mutual",
    "Network",
    "Nifti",
    "NoData",
    "OwnData",
    "Partition",
    "Placebo",
    "Planned",
    "Pooled",
    "Prediction",
    "Resources",
    "Scenario",
    "Schedule",
    "SelfDistillation",
    "Similarity",
    "Sound",
    "Space",
    "SyntheticRoi",
    "SyntheticSkin",
    "SyntheticVolumes",
    "Tap",
    "Timeouts",
    "Training",
    "Variant",
    "at_budget",
    "begin",
    "examine",
    "find",
    "find_idle",
    "load",
    "nearest",
    "partless",
    "passes",
    "raise_all",
    "rule_of",
    "scenarios",
    "spaceless",
]
