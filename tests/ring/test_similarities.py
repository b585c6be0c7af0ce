"""The instrument of similarities: what it writes is so, is the same wherever a run happens, and
nothing else of a run changes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from loops import FEDAVG, files, text

from fedskd_sim.custody.seal import seal
from fedskd_sim.learning.data import Samples, load
from fedskd_sim.learning.distillation.distill import SimilarityLoss, Taps
from fedskd_sim.learning.networks.models import build
from fedskd_sim.learning.networks.shapes import ImageShape
from fedskd_sim.learning.similarities import cka, compare
from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.scenario import Architecture
from fedskd_sim.scenario import load as load_scenario

KEYS = "instruments: {probe_similarity: true, pictures: true}\n"
FEDSKD = text("{name: fedskd, rounds: 2}")
HOSTS = ("a", "b", "c")


def kept(run: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(run)): file.read_bytes()
        for kind in ("similarity", "pictures")
        for file in sorted((run / kind).glob("*"))
    }


def test_every_stop_has_a_file_and_nothing_else_changes(
    scenario_file: Callable, run: Callable
) -> None:
    """Processes and memory write the same bytes; records and weights are as without the keys,
    with which there is no file; the seal knows all files.
    """
    path = scenario_file(FEDSKD + KEYS)
    one, other, without = run(path), run(path, "processes"), run(scenario_file(FEDSKD))
    found = kept(one)
    stops = [f"{round_}-{hop}" for round_ in (1, 2) for hop in (1, 2, 3)]
    assert {*found} == {
        *(f"similarity/{host}.{stop}.npz" for host in HOSTS for stop in [*stops, "final"]),
        *(f"pictures/{host}.npz" for host in HOSTS),
    }
    assert found == kept(other)
    assert {*found} <= {*seal(one).files}
    assert kept(without) == {}
    assert files(without) == files(one)


def test_pictures_are_the_first_validation_samples_and_stand_nowhere_else(
    scenario_file: Callable, run: Callable
) -> None:
    """They are what models see of them, as pixels; files of similarity hold no picture."""
    path = scenario_file(FEDSKD + KEYS)
    folder = run(path)
    for host in HOSTS:
        validation = load(load_scenario(path).scenario, host, None, "cpu").validation
        shown = np.load(folder / "pictures" / f"{host}.npz")["images"]
        wanted = (validation.images[:16].permute(0, 2, 3, 1).numpy() * 0.25 + 0.5) * 255
        assert shown.dtype == np.uint8
        assert np.abs(shown - wanted).max() <= 0.5 + 1e-3
        for file in (folder / "similarity").glob(f"{host}.*"):
            for name, values in np.load(file).items():
                assert shown.shape[1:] != values.shape[-3:], (file, name)
    path = scenario_file(FEDSKD + "instruments: {probe_similarity: true}\n")
    assert {name.partition("/")[0] for name in kept(run(path))} == {"similarity"}


def test_final_models_are_compared_whatever_the_algorithm(
    scenario_file: Callable, run: Callable
) -> None:
    """The file has a row and a column for each model that was tested: equal ones are 1."""
    for algorithm, equal in ((FEDAVG, True), ("{name: local, rounds: 1}", False)):
        folder = run(scenario_file(text(algorithm) + KEYS))
        for host in HOSTS:
            found = np.load(folder / "similarity" / f"{host}.final.npz")
            values = found["cka"]
            assert len(found["models"]) == len(values) == 3
            assert values == pytest.approx(values.T)
            assert np.diag(values) == pytest.approx(np.ones(3))
            assert np.allclose(values, 1, atol=1e-6) == equal
        assert not [*(folder / "similarity").glob("*.1-*")]


def test_matrices_are_cosines_between_items(scenario_file: Callable) -> None:
    """Of two networks on the probe batch, NumPy finds the same matrices, agreement and
    decisions.
    """
    scenario = load_scenario(scenario_file(FEDSKD)).scenario
    samples = load(scenario, "a", None, "cpu").validation
    shape = ImageShape(3, int(samples.images.shape[-1]), 3)
    models = [build(Architecture(name="cnn-plain"), shape, number) for number in (1, 2)]
    loss = SimilarityLoss(pixel=0.0, pixel_grid=(4, 4), region_grid=(2, 2))
    found = compare((models[0], models[1]), samples, loss, ONE_LABEL)
    assert found is not None
    assert {*found.matrices} == {"batch", "pixel", "region"}
    rows = []
    for place, model in enumerate(models):
        with torch.no_grad():
            logits, taps = model.eval()(samples.images[:16])
        assert (found.decisions[place] == logits.argmax(1)).all()
        batch = taps.deep.flatten(1).double().numpy()
        batch /= np.linalg.norm(batch, axis=1, keepdims=True)
        assert found.matrices["batch"][place].numpy() == pytest.approx(batch @ batch.T, abs=1e-4)
        places = loss.items(taps, taps)["pixel"][0].double().numpy()
        places /= np.linalg.norm(places, axis=2, keepdims=True)
        each = places @ places.transpose(0, 2, 1)
        rows.append(each)
        assert found.matrices["pixel"][place].numpy() == pytest.approx(each.mean(0), abs=1e-4)
    others = [place for place in range(16) if place != 5]
    wanted = np.corrcoef(rows[0][3, 5, others], rows[1][3, 5, others])[0, 1]
    assert float(found.agreement[3, 5]) == pytest.approx(wanted, abs=1e-3)
    assert found.regions.tolist() == [1, 2, 3, 4]


def test_too_few_samples_are_compared_with_nothing() -> None:
    """Two samples have one similarity: there is nothing to correlate."""
    two = torch.zeros(2, 3, 8, 8)
    loss = SimilarityLoss(region=0.0, region_grid=(9, 9))
    pair = torch.nn.Identity(), torch.nn.Identity()
    assert compare(pair, Samples(two, torch.zeros(2).long()), loss, ONE_LABEL) is None
    taps = Taps(torch.rand(4, 2, 8, 8), torch.rand(4, 2, 4, 4))
    assert "region" not in loss.items(taps, taps), "a level without weight that does not fit"
    x = torch.rand(20, 4)
    assert cka(x, x) == pytest.approx(1)
