"""What only a card can show; without one these tests are skipped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.devices import settle
from fedskd_sim.learning.graphs import CudaGraphs
from fedskd_sim.learning.models import ImageShape, build
from fedskd_sim.learning.recorded import Recordings
from fedskd_sim.learning.session import Launched, SessionModels, TrainingJob, train
from fedskd_sim.learning.weights import snapshot
from fedskd_sim.messages import digest
from fedskd_sim.scenario import Architecture, Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
ROOT = Path(__file__).parent.parent.parent


def test_a_graph_computes_what_launched_steps_compute() -> None:
    """The same bytes, twice each, with a ragged last batch; nothing fell back."""
    architecture, training = Architecture(name="vit-tiny"), Training(batch_size=8)
    settle(1, "cuda", training)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 16, 16, 3), generator=draw, dtype=torch.uint8)
    samples = Samples(pixels.cuda(), (torch.arange(60) % 3).cuda())
    job = TrainingJob(samples, torch.ones(3).cuda(), training, 180, 1)
    recordings = Recordings(CudaGraphs("cuda"), 2**33)
    found = set()
    for begin in (partial(Launched, on_device=True), recordings.begin) * 2:
        model = build(architecture, ImageShape(3, 16, 3), 1).cuda()
        sums = train(SessionModels({"": recordings.know(model, architecture)}), job, None, begin)
        assert sums.remark == ""
        found.add((digest(snapshot(model)), str(sums.measures)))
    assert len(found) == 1


@pytest.mark.parametrize("recorded", ["false", "true"])
def test_quickstart_on_a_card_is_the_same_in_memory_and_as_processes(
    recorded: str, scenario_file: Callable, run: Callable
) -> None:
    """Records and weights are equal byte for byte, run after run."""
    text = (ROOT / "scenarios" / "quickstart.yaml").read_text(encoding="utf-8")
    text = text.replace("training:\n", f"training:\n  recorded_steps: {recorded}\n")
    path = scenario_file(text.replace("- {name:", "- {device: cuda, name:"))
    written = path.read_text(encoding="utf-8")
    assert "device: cuda" in written
    assert "recorded_steps" in written
    found = []
    for runtime in ("memory", "memory", "processes"):
        where = run(path, runtime)
        kept = [*(where / "records").iterdir(), *(where / "weights").iterdir()]
        found.append({file.name: file.read_bytes() for file in sorted(kept)})
    assert found[0] == found[1] == found[2]
