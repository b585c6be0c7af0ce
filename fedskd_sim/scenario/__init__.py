"""A scenario: one YAML file that says what is learned; read once, checked, frozen."""

from fedskd_sim.scenario.algorithms import Algorithm, FedSKD, Placebo, Similarity
from fedskd_sim.scenario.datasets import Dataset, Ham10000, NoData, SyntheticSkin
from fedskd_sim.scenario.explain import nearest
from fedskd_sim.scenario.load import Loaded, load, raise_all
from fedskd_sim.scenario.schema import Architecture, Hospital, Network, Resources, Scenario, Timeouts

__all__ = [
    "Algorithm",
    "Architecture",
    "Dataset",
    "FedSKD",
    "Ham10000",
    "Hospital",
    "Loaded",
    "Network",
    "NoData",
    "Placebo",
    "Resources",
    "Scenario",
    "Similarity",
    "SyntheticSkin",
    "Timeouts",
    "load",
    "nearest",
    "raise_all",
]
