"""What a session changed in a model beyond its weights: its representation, its answers, and
what it knows of other hospitals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedskd_sim.learning.base import Measures
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.evaluate import BATCH, evaluate
from fedskd_sim.learning.similarities import Compared, cka, compare
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.task import ONE_LABEL, PredictionTask
from fedskd_sim.messages import Weights
from fedskd_sim.records import PROBE, Measure

FEWEST = 10
"""Samples below which drift is not told: the unbiased HSIC has a value from 4 on, but of so few it
is mostly noise, outside 0..1 as often as within."""


def change(site: Site, model: str, before: Weights, after: nn.Module) -> Measures:
    """Measure what a session changed, where the scenario's ``instruments`` ask for it.

    Args:
        site: the host.
        model: whose model it is.
        before: its weights on arrival.
        after: the model after the session.

    Returns:
        ``representation_drift`` (1 - CKA of the deep maps' means before and after; none where one
        of them is the same for all samples, or there are fewer than `FEWEST`) and ``churn`` (share
        of samples whose decision changed), on the host's validation data.

    """
    if not site.scenario.instruments.changes or not len(site.data.validation.labels):
        return {}
    return _measure_change(site.build(model, before), after, site.data.validation, site.task)


def probe(site: Site, network: nn.Module, name: str = PROBE) -> Measures:
    """Measure what a model knows of every hospital, where the scenario's ``instruments`` ask for
    it: ``probe/NAME``, or under another ``name``, balanced accuracy on the validation data of
    hospital NAME.
    """
    if not site.scenario.instruments.probe:
        return {}
    found = {
        host: evaluate(network, site.validation_of(host), task=site.task)
        for host in site.scenario.names
    }
    return {
        name + host: measures[site.task.decisive] for host, measures in found.items() if measures
    }


def similarity(
    site: Site, visitor: nn.Module, resident: nn.Module, loss: SimilarityLoss
) -> Compared | None:
    """Compare visitor and resident on the host's probe batch, where the scenario's ``instruments``
    ask for it and somebody keeps it.
    """
    if not site.similarities.wanted or site.similarities.folder is None:
        return None
    return compare((visitor, resident), site.data.validation, loss, site.task)


@torch.no_grad()
def _measure_change(
    before: nn.Module, after: nn.Module, samples: Samples, task: PredictionTask = ONE_LABEL
) -> dict[str, Measure]:
    (features, decisions), (new_features, new_decisions) = (
        _features_and_decisions(before, samples, task),
        _features_and_decisions(after, samples, task),
    )
    moved = float((decisions != new_decisions).sum())
    alike = cka(features, new_features) if len(features) >= FEWEST else math.nan
    drifted = {"representation_drift": Measure(1 - alike, 1.0)} if math.isfinite(alike) else {}
    return {**drifted, "churn": Measure(moved, float(len(decisions)))}


def _features_and_decisions(
    model: nn.Module, samples: Samples, task: PredictionTask
) -> tuple[Tensor, Tensor]:
    """Return the means of the deep maps (n, C) and the decisions (n,)."""
    training = model.training
    model.eval()
    where = samples.labels.device
    answers = [model(as_input(part, where)) for part in samples.images.split(BATCH)]
    model.train(training)
    return torch.cat([taps.deep.flatten(2).mean(2) for _, taps in answers]), torch.cat(
        [task.decisions(logits) for logits, _ in answers]
    )
