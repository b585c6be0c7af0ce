"""Algorithms that share a sum beside an own model: each equals a loop with a server in the
middle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from loops import EPOCHS, Loops, agree, files, final, kl, saved, text, train_together, warmed_up
from torch.nn.functional import cross_entropy

from fedskd_sim.errors import InvalidValue, UnknownArchitecture
from fedskd_sim.learning.distillation.arrangements import channel_means
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.task import class_weights
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import Architecture

FML = (
    "{name: fml, rounds: 2, weight: 0.7, architecture: {name: cnn-plain, options: {width: 4, norm: "
    "none}}}"
)
FEDPROTO = "{name: fedproto, rounds: 3, features: 5, weight: 2}"


def test_fml_equals_mutual_learning_with_a_common_model_averaged_by_a_server(
    scenario_file: Callable, run: Callable
) -> None:
    """Own models end as in a loop where both losses have a detached divergence and a server
    averages the common models.
    """
    path = scenario_file(text(FML))
    loops = Loops(path)
    own, small = (
        warmed_up(loops),
        Architecture(name="cnn-plain", options={"width": 4, "norm": "none"}),
    )
    common = saved(build(small, ImageShape(3, 16, 3), loops.seed("initial weights")))
    sizes = {name: len(loops.data[name].train.labels) for name in "abc"}
    for round_ in (1, 2):
        copies = {}
        for name in "abc":
            copies[name] = build(small, ImageShape(3, 16, 3), 0)
            copies[name].load_state_dict(common)
            weights = class_weights(loops.data[name].train.labels, 3, "sqrt_inverse")

            def loss(
                outputs: list, labels: torch.Tensor, weights: torch.Tensor = weights
            ) -> torch.Tensor:
                (p, _), (c, _) = outputs
                both = cross_entropy(p, labels, weights) + cross_entropy(c, labels, weights)
                return both + 0.7 * (kl(c, p) + kl(p, c))

            train_together(
                loops,
                [own[name], copies[name]],
                name,
                loops.seed("session", name, name, round_, 0),
                loss,
            )
        common = {
            key: sum(saved(copies[n])[key] * sizes[n] for n in "abc") / sum(sizes.values())
            for key in common
        }
    folder = run(path, "processes")
    assert agree(final(folder), own)
    assert not agree(final(run(scenario_file(text("{name: local, rounds: 2}")))), own)
    spent = sum(
        record.samples
        for record in read_records(folder)
        if record.kind == "alone" and record.host == "a"
    )
    assert spent == 2 * 2 * EPOCHS * 36, "both models' gradients count"


def drawn(
    prototypes: dict, weights: torch.Tensor, outputs: list, labels: torch.Tensor
) -> torch.Tensor:
    logits, taps = outputs[0]
    plain, known = (
        cross_entropy(logits, labels, weights),
        zip(channel_means(taps.deep, 5), labels.tolist(), strict=True),
    )
    pairs = [(z - prototypes[label]).square() for z, label in known if label in prototypes]
    return plain + 2 * torch.stack(pairs).mean() if pairs else plain


def test_fedproto_equals_prototypes_added_up_by_a_server(
    scenario_file: Callable, run: Callable
) -> None:
    """Own models end as in a loop where a server takes the mean features of every class over all
    samples of all hospitals.
    """
    path = scenario_file(text(FEDPROTO))
    loops = Loops(path)
    own, prototypes = warmed_up(loops), {}
    for round_ in (1, 2, 3):
        features: dict[int, list[torch.Tensor]] = {}
        for name, model in own.items():
            weights = class_weights(loops.data[name].train.labels, 3, "sqrt_inverse")

            loss = partial(drawn, prototypes, weights)
            train_together(loops, [model], name, loops.seed("session", name, name, round_, 0), loss)
            model.eval()
            with torch.no_grad():
                for image, label in zip(
                    loops.data[name].train.images, loops.data[name].train.labels, strict=True
                ):
                    features.setdefault(int(label), []).append(
                        channel_means(model(image[None])[1].deep, 5)[0]
                    )
        prototypes = {label: torch.stack(vectors).mean(0) for label, vectors in features.items()}
    folder = run(path, "processes")
    assert agree(final(folder), own)
    assert not agree(final(run(scenario_file(text("{name: local, rounds: 3}")))), own)
    sent = [record.bytes for record in read_records(folder) if record.kind in ("reduce", "gather")]
    assert sum(size - 8 for size in sent) == 3 * 4 * (3 * (5 + 1)) * 4, (
        "3 classes of 5 features and a number, 2 (K - 1) times"
    )


@pytest.mark.parametrize("algorithm", [FML, "{name: fml, rounds: 1}", FEDPROTO])
def test_sums_give_identical_records_and_weights_everywhere(
    algorithm: str, scenario_file: Callable, run: Callable
) -> None:
    """With what prediction adds, FML and FedProto give the same bytes in memory and as
    processes.
    """
    path = scenario_file(
        text(algorithm, "{model: averaged, ensemble: true, logit_adjustment: 0.5}", norm="batch")
    )
    assert files(run(path, "memory")) == files(run(path, "processes"))


def test_the_common_architecture_of_fml_is_checked(
    scenario_file: Callable, inside: Callable
) -> None:
    """An unknown common architecture, or one that cannot take the images, is named before
    anything starts.
    """
    done = inside(
        "validate",
        scenario_file(text(FML.replace("cnn-plain, options: {width: 4, norm: none}", "cnn-plane"))),
    )
    assert done.returncode == UnknownArchitecture.exit_code
    assert "algorithm.architecture: there is no architecture 'cnn-plane'" in done.stderr
    done = inside("validate", scenario_file(text("{name: fml, architecture: roi-mlp}")))
    assert done.returncode == InvalidValue.exit_code
    assert "algorithm.architecture: roi-mlp cannot take images of 16 pixels" in done.stderr
