"""What only a card can show; without one these tests are skipped."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sessions
import torch
from sessions import CASES
from torch import Tensor, nn

from fedskd_sim.errors import HospitalCrashed
from fedskd_sim.learning import data as hospital_data
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.devices import NEAR, settle
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.sessions.graphs import CudaGraphs, _unwaiting
from fedskd_sim.learning.sessions.recorded import Recordings, compiler
from fedskd_sim.learning.sessions.session import (
    Begin,
    Launched,
    RunningSums,
    SessionModels,
    TrainingJob,
    train,
)
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, TrainingStep
from fedskd_sim.learning.weights import snapshot
from fedskd_sim.messages import digest
from fedskd_sim.records.files import read_timings
from fedskd_sim.scenario import Architecture, Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
ROOT = Path(__file__).parents[3]
NETWORK = Architecture(name="vit-tiny")
LAUNCHED: Begin = partial(Launched, on_device=True)


def make_job(device: str = "cuda", **settings: object) -> TrainingJob:
    """60 images with a ragged last batch, three passes."""
    training = Training.model_validate({"batch_size": 8, **settings})
    settle(1, device, training)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 16, 16, 3), generator=draw, dtype=torch.uint8)
    samples = Samples(pixels.to(device), (torch.arange(60) % 3).to(device))
    return TrainingJob(samples, torch.ones(3).to(device), training, 180, 1)


def session(
    job: TrainingJob, begin: Begin, recordings: Recordings, teaching: object = None
) -> tuple[Tensor, RunningSums]:
    """Give all weights after a session in a row, in float64 on the CPU, and what it has seen."""
    model = build(NETWORK, ImageShape(3, 16, 3), 1).to(job.samples.labels.device)
    models = SessionModels({"own": recordings.know(model, NETWORK)})
    sums = train(models, job, teaching, begin)  # type: ignore[arg-type]
    return torch.cat([one.detach().double().flatten().cpu() for one in model.parameters()]), sums


def test_a_graph_computes_what_launched_steps_compute() -> None:
    """The same bytes, twice each, with a ragged last batch; nothing fell back."""
    job, recordings = make_job(), Recordings(CudaGraphs("cuda"), 2**33)
    found = set()
    for begin in (LAUNCHED, recordings.begin) * 2:
        model = build(NETWORK, ImageShape(3, 16, 3), 1).cuda()
        sums = train(SessionModels({"own": recordings.know(model, NETWORK)}), job, None, begin)
        assert sums.remark == ""
        found.add((digest(snapshot(model)), str(sums.measures)))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("case", "precision"),
    [*((case, "fp32") for case in CASES), ("traveller first", "tf32"), ("traveller first", "bf16")],
)
def test_what_is_taught_is_the_same_in_a_graph(case: str, precision: str) -> None:
    """Two sessions in a row of everything that can be taught at a stop, on the same memory, give
    the bytes and sums of launched ones; nothing fell back.
    """
    recordings = Recordings(CudaGraphs("cuda"), 2**33)
    for seed in (1, 7):
        count = len(CASES[case](seed)[0].learners)
        job = sessions.make_job(seed, models=count, device="cuda", precision=precision)
        settle(1, "cuda", job.training)
        found = []
        for begin in (LAUNCHED, recordings.begin):
            models, teaching = CASES[case](seed, "cuda")
            sessions.know(models, recordings)
            sums = train(models, job, teaching, begin)
            assert sums.remark == ""
            found.append(sessions.outcome(models, sums))
        assert found[0] == found[1]


def test_what_graphs_keep_stays_within_the_limit_on_the_card() -> None:
    """Pairs of changing sizes, recorded, given up and recorded anew: what is reserved on the device
    between sessions never exceeds what was there before by more than the limit, and bytes are
    those of launched steps.
    """
    job, on, found = make_job(), CudaGraphs("cuda"), dict[int, set[str]]()

    def use(recordings: Recordings, depth: int) -> None:
        network = Architecture(name="vit-tiny", options={"width": 512, "depth": depth})
        for begin in (recordings.begin, LAUNCHED):
            model = recordings.know(build(network, ImageShape(3, 16, 3), 1).cuda(), network)
            assert train(SessionModels({"own": model}), job, None, begin).remark == ""
            found.setdefault(depth, set()).add(digest(snapshot(model)))
        del model
        gc.collect()

    first = Recordings(on, 2**40)
    use(first, 6)
    kept = on.reserved()
    del first
    on = on.afresh()
    before = on.reserved()
    limit = 2.5 * (kept - before)
    assert limit > 4 * WORKSPACES
    recordings = Recordings(on, limit)
    for depth in (6, 4, 5, 6, 8, 7, 4, 6):
        use(recordings, depth)
        assert on.reserved() - before <= limit + WORKSPACES
    assert all(len(digests) == 1 for digests in found.values())


WORKSPACES = 1 << 26
"""Bytes that libraries keep for themselves."""


def test_dropout_draws_in_a_graph_what_it_draws_when_launched() -> None:
    """Random numbers of the device go on from replay to replay as from step to step."""
    job, shape = make_job(), ImageShape(1, 8, 3, "roi")
    draw = torch.Generator().manual_seed(0)
    samples = Samples(torch.randn(60, 8, 8, generator=draw).cuda(), job.samples.labels)
    job, network = job._replace(samples=samples), Architecture(name="roi-mlp")
    recordings, found = Recordings(CudaGraphs("cuda"), 2**33), set()
    for begin in (LAUNCHED, recordings.begin):
        model = recordings.know(build(network, shape, 1).cuda(), network)
        sums = train(SessionModels({"own": model}), job, None, begin)
        assert sums.remark == ""
        found.add((digest(snapshot(model)), str(sums.measures)))
    assert len(found) == 1


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
@pytest.mark.filterwarnings("default")
def test_compiled_steps_are_repeatable_and_near_the_others() -> None:
    """Two hospitals that compile for themselves get the same bytes, a little off what uncompiled
    steps give; nothing fell back.
    """
    job = make_job(compile=True)
    found = []
    for _ in range(2):
        torch.compiler.reset()
        recordings = Recordings(CudaGraphs("cuda"), 2**33, compiler(job.training))
        weights, sums = session(job, recordings.begin, recordings)
        assert sums.remark == ""
        found.append(weights)
    assert found[0].equal(found[1])
    usual, _ = session(job, LAUNCHED, recordings)
    assert not usual.equal(found[0])
    assert distance(found[0], usual) < NEAR["fp32"]


def test_what_reads_back_is_launched_and_spoils_nothing() -> None:
    """A step that waits for the device cannot be recorded: it is launched and says why, with the
    bytes of launched steps, and the next pair is recorded.
    """
    job, recordings = make_job(), Recordings(CudaGraphs("cuda"), 2**33)
    found, sums = session(job, recordings.begin, recordings, Reading())
    assert sums.remark.startswith("steps launched: ")
    expected, _ = session(job, LAUNCHED, recordings, Reading())
    assert found.equal(expected)
    found, sums = session(job, recordings.begin, recordings)
    assert sums.remark == ""
    assert found.equal(session(job, LAUNCHED, recordings)[0])


def test_what_was_refused_spoils_no_graph_that_is_there() -> None:
    """One that is recorded, one that reads back, memory full of what is no number, and the first
    again: the bytes of launched steps, and the next one is recorded.
    """
    job, recordings = make_job(), Recordings(CudaGraphs("cuda"), 2**33)
    expected, _ = session(job, LAUNCHED, recordings)
    for _ in range(2):
        found, sums = session(job, recordings.begin, recordings)
        assert sums.remark == ""
        assert found.equal(expected)
        _, sums = session(job, recordings.begin, recordings, Reading())
        assert sums.remark.startswith("steps launched: ")
        gc.collect()
        torch.cuda.empty_cache()
        torch.full((2**28,), torch.nan, device="cuda")


def test_no_step_of_a_session_waits_for_the_card() -> None:
    """Copies of what is drawn on the host are not waited for either."""
    job, recordings = make_job(), Recordings(CudaGraphs("cuda"), 2**33)
    session(job, recordings.begin, recordings)
    model = build(NETWORK, ImageShape(3, 16, 3), 1).cuda()
    models = SessionModels({"own": recordings.know(model, NETWORK)})
    steps = recordings.begin(models, job, None)
    drawn = torch.Generator().manual_seed(0)
    with _unwaiting():
        for number in range(3):
            images = hospital_data.augment(job.samples.images[:8].permute(0, 3, 1, 2) / 255, drawn)
            batch = Samples(images, job.samples.labels[:8])
            steps.take(batch, Moment(number, 3, models.at(number)))
        with pytest.raises(RuntimeError, match="synchronizing"):
            float(job.class_weights.sum())
    assert torch.cuda.get_sync_debug_mode() == 0


class Own(nn.Module):
    """A network of somebody's own, around one that is built in."""

    def __init__(self, kind: str) -> None:
        """Replace a buffer that it reads, keep its last maps, or want its images in a row."""
        super().__init__()
        self.inner, self.kind = build(NETWORK, ImageShape(3, 16, 3), 1), kind
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, images: Tensor) -> object:
        """Ask the inner one."""
        if self.kind == "replaces":
            images = images - self.mean
            self.mean = 0.9 * self.mean + 0.1 * images.mean((0, 2, 3)).view(3, 1, 1)
        if self.kind == "views":
            images = images - images.view(len(images), -1).mean(1).view(-1, 1, 1, 1)
        found = self.inner(images)
        if self.kind == "keeps":
            self.last = found[1].deep  # with its graph
        return found


@pytest.mark.parametrize(
    ("kind", "words"),
    [("replaces", "steps launched: RuntimeError: a step reads what"), ("keeps", ""), ("views", "")],
)
def test_networks_of_ones_own_give_the_bytes_of_launched_steps(kind: str, words: str) -> None:
    """Recorded where they can be; and the next pair is recorded, whatever was there before."""
    job, recordings = make_job(), Recordings(CudaGraphs("cuda"), 2**33)
    for begin in (recordings.begin, recordings.begin):
        found = []
        for way in (begin, LAUNCHED):
            model = recordings.know(Own(kind).cuda(), Architecture(name="cnn-plain"))
            sums = train(SessionModels({"own": model}), job, None, way)
            assert sums.remark.startswith(words if way is begin else "")
            assert bool(sums.remark) == (bool(words) and way is begin)
            found.append((digest(snapshot(model)), str(sums.measures)))
        assert found[0] == found[1]
    weights, sums = session(job, recordings.begin, recordings)
    assert sums.remark == ""
    assert weights.equal(session(job, LAUNCHED, recordings)[0])


class Reading:
    """Reads a loss back in every step."""

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Add nothing, by a number that the host has seen."""
        logits = step.logits()
        return AddedLoss(logits.sum() * (0.0 * float(logits.detach().sum())), {})

    def kind(self, moment: Moment) -> None:
        """Tell that all steps are alike."""

    def tensors(self) -> list[Tensor]:
        """List nothing."""
        return []

    def apart(self) -> Reading:
        """Give itself."""
        return self


def distance(one: Tensor, other: Tensor) -> float:
    """Measure how far weights lie from others, relative to how far training has moved these."""
    begin = build(NETWORK, ImageShape(3, 16, 3), 1)
    start = torch.cat([part.detach().double().flatten() for part in begin.parameters()])
    return float((one - other).norm() / (other - start).norm())


@pytest.mark.parametrize("precision", NEAR)
def test_a_card_is_near_a_cpu(precision: str) -> None:
    """Within the tolerance that the manual states for its arithmetic, and not just the same."""
    recordings = Recordings(None, 0)
    exact, _ = session(make_job("cpu"), LAUNCHED, recordings)
    found, _ = session(make_job(precision=precision), LAUNCHED, recordings)
    assert 0 < distance(found, exact) < NEAR[precision]


def test_data_that_stays_with_the_host_gives_the_same_bytes(
    scenario_file: Callable, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set too large for the card is trained and tested on from the host's memory; the record says
    so.
    """
    path = scenario_file(SMALL.replace("samples: 60", "samples: 500"))
    found = [run(path)]
    monkeypatch.setattr(hospital_data, "OF_THE_SHARE", 0.0)
    found.append(run(path))
    kept = [
        {file.name: file.read_bytes() for file in (where / "weights").iterdir()} for where in found
    ]
    assert kept[0] == kept[1]
    records = [(where / "records" / "a.jsonl").read_text(encoding="utf-8") for where in found]
    assert "stays in the host's memory" in records[1]
    assert "steps launched" not in records[1]
    assert records[0] == records[1].replace(
        "; data stays in the host's memory: too large for cuda", ""
    )


SMALL = (
    "name: x\ndata: {name: synthetic-skin, samples: 60, image_size: 32}\n"
    "algorithm: {name: fedskd, rounds: 1}\nhospitals:\n"
    "  - {name: a, architecture: cnn-plain, device: cuda}\n"
    "  - {name: b, architecture: vit-tiny, device: cuda}\n"
)


def test_memory_that_does_not_suffice_ends_a_run_in_words(
    scenario_file: Callable, run: Callable
) -> None:
    """Who, where in the run, how much was asked for, and what to change."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(HospitalCrashed) as caught:
            run(scenario_file(SMALL.replace("image_size: 32", "image_size: 64")))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert re.search(
        r"'[ab]' died in .*OutOfMemoryError: .*Tried to allocate", caught.value.message
    )
    assert "batch_size" in caught.value.fix


def test_a_card_that_fails_ends_a_run_in_words(scenario_file: Callable) -> None:
    """An error that leaves the card unusable for its process names hospital, place and error."""
    path = scenario_file(SMALL)
    text = f"""
import torch
from fedskd_sim.learning import site
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes import folder
from fedskd_sim.scenario import load
from pathlib import Path

usual, count = site.train, []
def train(*given):
    count.append(1)
    if len(count) == 4:
        torch.zeros(3, device="cuda")[torch.tensor([10], device="cuda")]
    return usual(*given)
site.train = train
loaded = load(Path({str(path)!r}))
place = MemoryRuntime()
where = folder.make(loaded, Path({str(path.parent / "out")!r}), "memory")
place.launch(Order(loaded, "test", where, None))
try:
    place.wait(lambda _: None)
except Exception as error:
    print(type(error).__name__, error.exit_code, error, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert "HospitalCrashed 41" in done.stdout, done.stderr
    assert re.search(r"'[ab]' died in round 1, hop \d .*AcceleratorError: CUDA error", done.stdout)
    assert "nvidia-smi" in done.stdout


def test_a_canary_looks_at_the_card(scenario_file: Callable, tmp_path: Path) -> None:
    """It ends well, and says what each hospital took of the card and how much of it was free."""
    given = [str(scenario_file(SMALL)), "--canary-only", "--out", str(tmp_path / "canary")]
    command = [sys.executable, "-m", "fedskd_sim", "launch", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"[\d.]+ [MG]B of a card", done.stdout)) == 2, done.stdout
    assert re.search(r"memory of cuda:0: [\d.]+ [MG]B of the [\d.]+ GB that", done.stdout)


@pytest.mark.slow
def test_runs_of_a_comparison_find_the_card(scenario_file: Callable, tmp_path: Path) -> None:
    """The process that they are forked from has asked nothing of it."""
    given = [str(scenario_file(SMALL)), "--algorithms", "fedskd,local", "--seeds", "2"]
    command = [sys.executable, "-m", "fedskd_sim", "compare", *given, "--out", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = [*(tmp_path / "x").rglob("records/a.jsonl")]
    assert len(records) == 4
    assert all("computes on" in one.read_text(encoding="utf-8") for one in records)


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
        assert all(one.device_bytes for one in read_timings(where) if one.what == "session")
        prom = (where / "metrics" / "aachen.prom") if runtime == "processes" else None
        assert prom is None or "fedskd_device_memory_bytes{" in prom.read_text(encoding="utf-8")
        kept = [*(where / "records").iterdir(), *(where / "weights").iterdir()]
        found.append({file.name: file.read_bytes() for file in sorted(kept)})
    assert found[0] == found[1] == found[2]
