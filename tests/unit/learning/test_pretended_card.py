"""Where tensors lie, and what the host waits for, on a card that is not there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import sessions
import torch
from pretend import Card
from sessions import CASES
from tapes import Tapes

from fedskd_sim.learning import data as hospital_data
from fedskd_sim.learning.sessions import recorded
from fedskd_sim.learning.sessions.session import Launched, train
from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.learning.weights import export, install, snapshot
from fedskd_sim.messages import digest

RUN = """\
name: x
data: {{name: synthetic-skin, samples: 24, image_size: 16}}
training: {{batch_size: 4, epochs: {epochs}, warmup_epochs: 1, recorded_steps: {recorded}}}
algorithm: {{name: {algorithm}, rounds: 1}}
prediction: {{model: averaged, ensemble: true, logit_adjustment: 0.5}}
instruments: {{changes: true, probe: true}}
hospitals:
  - {{name: a, device: cuda, architecture: {{name: cnn-plain, options: {{width: 8}}}}}}
  - {{name: b, device: cuda, architecture: {{name: {other}, options: {{width: 8}}}}}}
"""


def test_what_passes_for_a_card_refuses_what_a_card_refuses() -> None:
    """Tensors of both kinds do not mix, but for single numbers; what is read is waited for."""
    here = torch.ones(3)
    with Card() as card:
        there = torch.zeros(3, device="cuda")
        assert (there + 1).is_cuda
        assert (there + torch.tensor(2.0)).device.type == "cuda"
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        assert not card.waits.total()
        assert there.cpu().device.type == "cpu"
        assert card.waits.total() == 1
        there[there > 1]
        here.to("cuda")
        here.pin_memory().to("cuda", non_blocking=True)
        assert card.waits.total() == 3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("host", [False, True])
def test_a_session_is_waited_for_once(case: str, host: bool) -> None:  # noqa: FBT001
    """Whatever is taught, on data of the card or of the host: at its end, when all is read."""
    with Card() as card:
        models, teaching = CASES[case](1, "cuda")
        job = sessions.make_job(1, epochs=2, models=len(models.learners), device="cuda")
        if host:
            job = job._replace(samples=job.samples._replace(images=job.samples.images.cpu()))
        card.waits.clear()
        sums = train(models, job, teaching, partial(Launched, on_device=True))
        assert card.waits.total() == 1
        assert all(one.is_cuda for model in models.by_role.values() for one in model.parameters())
    assert sums.steps > 10


def test_weights_and_answers_come_to_the_host_at_once() -> None:
    """A model is waited for once for each type of its tensors, what is measured twice; bytes and
    numbers are the host's.
    """
    model = sessions.alone(1)[0].by_role["own"]
    logits, labels = torch.randn(40, 3), torch.arange(40) % 3
    expected = digest(snapshot(model)), ONE_LABEL.measure(logits, labels)
    with Card() as card:
        there = sessions.alone(2)[0].by_role["own"].to("cuda")
        install(there, snapshot(model))
        given = logits.cuda(), labels.cuda()
        card.waits.clear()
        found = snapshot(there)
        assert card.waits.total() == len({one.dtype for one in model.state_dict().values()})
        card.waits.clear()
        assert (digest(found), ONE_LABEL.measure(*given)) == expected
        assert card.waits.total() == 2
        assert digest(export(there)) == expected[0]


@pytest.mark.parametrize(
    ("algorithm", "other"),
    [("fedskd", "cnn-depthwise"), ("fedavg", "cnn-plain"), ("fml", "cnn-depthwise")],
)
def test_nothing_of_a_run_mixes_and_no_step_is_waited_for(
    algorithm: str, other: str, scenario_file: Callable, run: Callable
) -> None:
    """With all that is measured and predicted; twice the steps are waited for no longer."""
    waits = []
    for epochs in (1, 2):
        text = RUN.format(algorithm=algorithm, other=other, epochs=epochs, recorded="false")
        with Card() as card:
            run(scenario_file(text))
        waits.append(card.waits.total())
    assert waits[0] == waits[1] > 0


def test_a_recorded_run_mixes_nothing_with_data_on_the_host(
    scenario_file: Callable, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps are recorded, though its images are copied batch by batch."""
    monkeypatch.setattr(hospital_data, "OF_THE_SHARE", 0.0)
    monkeypatch.setattr(recorded, "CudaGraphs", lambda _: Tapes())
    text = RUN.format(algorithm="fedskd", other="cnn-depthwise", epochs=1, recorded="true")
    with Card():
        where = run(scenario_file(text))
    record = (where / "records" / "a.jsonl").read_text(encoding="utf-8")
    assert "data stays in the host's memory" in record
    assert "steps launched" not in record
