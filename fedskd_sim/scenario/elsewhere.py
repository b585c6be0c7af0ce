"""Methods that have another name here, or that are not here, and why."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_PUBLIC = "needs public data that all models answer, and a hospital here has its own alone"
_SERVER = "needs a server that"
ABSENT: Mapping[str, str] = MappingProxyType(
    {
        "FedMD": f"{_PUBLIC}; 'mutual' and 'fd' exchange predictions without any",
        "FedDF": "needs a server, and public data that all models answer; 'fml' needs neither",
        "KT-pFL": f"{_PUBLIC}; 'mutual' and 'def-kt' teach by predictions without any",
        "FCCL": f"{_PUBLIC}; 'fedskd' with 'batch' compares similarities without any",
        "DS-FL": f"{_PUBLIC}; 'fd' exchanges predictions class by class without any",
        "FedGKT": f"{_SERVER} gets features of every patient and trains half of the network",
        "SplitFed": f"{_SERVER} gets features of every batch and trains half of the network",
        "HeteroFL": f"{_SERVER} cuts networks out of a wider one; 'fedskd' takes any networks",
        "FjORD": f"{_SERVER} cuts networks out of a wider one; 'fedskd' takes any networks",
        "FedRolex": f"{_SERVER} cuts networks out of a wider one; 'fedskd' takes any networks",
        "FedGen": f"{_SERVER} trains a generator; 'fedtgp' shares prototypes without one",
        "FedKTL": f"{_SERVER} has a pretrained generator; 'fedtgp' shares prototypes without one",
        "DENSE": f"{_SERVER} gets all models; 'prediction.ensemble: true' needs none",
        "FedOpt": f"{_SERVER} has an optimiser of its own; 'fedavg' and 'scaffold' are near",
        "SFedKD": f"{_SERVER} hands out models of the round before and knows the classes of all",
    }
)
"""Methods that are not here, as their papers call them, each with the reason."""
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "FedPer": "{name: partial, shared: body}",
        "FedRep": "{name: partial, shared: body, alternate: true}",
        "LG-FedAvg": "{name: partial, shared: head}",
        "FedBN": "{name: partial, shared: all-but-norm}",
        "FedDistill": "{name: fd, shares: logits}",
        "DML": "{name: mutual}",
        "CWT": "{name: cyclic}",
        "Gossip": "{name: d-psgd}",
        "DFedAvg": "{name: d-psgd}",
    }
)
"""Methods that are here under another name, each with what a scenario says."""


def whereabouts(name: object) -> str:
    """Return how a method is written here, or why it is not here; '' for any other name.

    >>> whereabouts("fed-per")
    'FedPer is written {name: partial, shared: body}'
    >>> whereabouts("FedOpt")[:40]
    'FedOpt is not here: it needs a server th'

    """
    for method, written in RENAMED.items():
        if _plain(method) == _plain(name):
            return f"{method} is written {written}"
    for method, why in ABSENT.items():
        if _plain(method) == _plain(name):
            return f"{method} is not here: it {why}"
    return ""


def _plain(name: object) -> str:
    return "".join(one for one in str(name).lower() if one.isalnum())
