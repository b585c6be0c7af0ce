"""What every architecture of a package is held to before a run: it trains, and gives the same
wherever its weights are.

All is tried on two drawn samples and one thread, in some hundredths of a second for a small
network. Each promise is one that a run relies on, and that nothing would tell later, or only an
error in the middle of a library.
"""

from __future__ import annotations

import inspect
import os
import select
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.installed import STRANGE, let_signals
from fedskd_sim.learning.networks.models import blueprint, build, check_output
from fedskd_sim.learning.networks.shapes import ImageShape, one_thread
from fedskd_sim.learning.weights import install, snapshot
from fedskd_sim.messages import Weights
from fedskd_sim.scenario import Architecture

SEED = 1
"""Of the home; a guest is built with another."""
RATE = 0.01
CLOSE = 1e-4
"""How far apart logits may be, alone and in a batch, for kernels of another shape round otherwise;
as a share of the largest, where that is above 1."""
PATIENCE_S = 60.0
"""How long a child process may take: much longer than any that comes back."""
OURS = (Path(torch.__file__).parent, Path(__file__).parent.parent.parent)
SAME_OUTPUT = (
    "give (logits, Taps) in training as in evaluation; what auxiliary heads give stays inside"
)
OUTSIDE = (
    "build it the same every time, and keep what is drawn, counted or computed from weights in a "
    "buffer: self.register_buffer(NAME, TENSOR)"
)


class Breach(NamedTuple):
    """What an architecture does that it must not, and what to change."""

    said: str
    fix: str


class Broken(Exception):
    """Carries a breach to whoever asked."""

    def __init__(self, said: str, fix: str) -> None:
        """Keep what is said of the architecture, behind its name."""
        super().__init__(said)
        self.breach = Breach(said, fix)


def find_breach(chosen: Architecture, shape: ImageShape) -> Breach | None:
    """Find which promise an architecture of a package breaks, the first one; None if it keeps all.

    Its training step works, in evaluation it gives the same again, the same as a guest that was
    given its weights, of two samples what it gives of each alone, and the same in a forked process.
    """
    with _quietly():
        images = draw_samples(shape)
        try:
            with _told("cannot be built", None, "mend it in its package"):
                home = build(chosen, shape, SEED)
            _train(home, images, shape)
            _evaluate(home, chosen, images, shape)
        except Broken as broken:
            return broken.breach
    return None


def draw_samples(shape: ImageShape) -> Tensor:
    """Draw two samples: normal values, or correlations."""
    draw = torch.Generator().manual_seed(SEED)
    if shape.kind == "roi":
        series = normalize(torch.randn(2, shape.size, 2 * shape.size, generator=draw), dim=-1)
        return series @ series.mT
    return torch.randn(2, *shape.blank().shape[1:], generator=draw)


@contextmanager
def _quietly() -> Iterator[None]:
    """Compute on one thread, and leave threads and draws of the process as they are."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@contextmanager
def _told(what: str, model: nn.Module | None, fix: str) -> Iterator[None]:
    """Turn whatever a stranger's code raises into a breach with the line of its code."""
    try:
        yield
    except (Broken, FedskdError):
        raise
    except STRANGE as error:
        let_signals(error)
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise Broken(f"{what}: {words}{_line_of(error, model)}", fix) from error


def _line_of(error: BaseException, model: nn.Module | None) -> str:
    """Return the last line that is neither PyTorch's nor ours; else where ``forward`` begins."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(Path(frame.filename).is_relative_to(folder) for folder in OURS):
            return f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})"
    return _forward_of(model) if model is not None else ""


def _forward_of(model: nn.Module) -> str:
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    return f" ({Path(code.co_filename).name}:{code.co_firstlineno}, in forward)" if code else ""


def _train(model: nn.Module, images: Tensor, shape: ImageShape) -> None:
    """Take one training step."""
    model.train()
    where = _forward_of(model)
    with _told("fails in training", model, SAME_OUTPUT):
        output = model(images)
        check_output(output, shape, len(images))
    logits = output[0]
    if logits.dtype is not torch.float32:
        kind = str(logits.dtype).removeprefix("torch.")
        raise Broken(f"gives logits in {kind}, not float32{where}", "give logits.float()")
    labels = torch.arange(len(images)) % shape.classes
    fix = "let gradients of the logits reach its parameters"
    with _told("cannot take a training step", model, fix):
        cross_entropy(logits, labels).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            raise Broken(f"has sparse gradients, those of {name}", "build it with sparse=False")
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=RATE)
    model.zero_grad()


@torch.no_grad()
def _evaluate(home: nn.Module, chosen: Architecture, images: Tensor, shape: ImageShape) -> None:
    """Compare what a trained model gives again, as a guest, sample by sample and in a child."""
    weights, found = snapshot(home), _ask(home, images, shape)
    if not _alike(found, _ask(home, images, shape)):
        text = (
            f"gives other logits when the same batch comes again in evaluation{_forward_of(home)}"
        )
        raise Broken(text, "let it draw and count in training only, where self.training is true")
    with _told("cannot be built twice in one process", None, OUTSIDE):
        guest = blueprint(chosen, shape)
        install(guest, weights)
    if not _alike(found, _ask(guest, images, shape)):
        names = ", ".join(_differing(home, guest)[:4])
        raise Broken(
            "gives other logits where it is a guest with the same weights: something outside its "
            f"state_dict is not the same{names and f', {names}'}",
            OUTSIDE,
        )
    alone = [_ask(home, image[None], shape) for image in images]
    logits = torch.cat([one[0] for one in alone])
    near = CLOSE * max(1.0, float(found[0].abs().nan_to_num().max()))
    if not torch.allclose(logits, found[0], rtol=0.0, atol=near, equal_nan=True):
        apart = float((logits - found[0]).abs().max())
        text = f"gives a sample other logits in a batch than alone, by {apart:.2g} in evaluation"
        fix = "compute each sample by itself: no mean or normalisation over the axis of the batch"
        raise Broken(text + _forward_of(home), fix)
    _fork(chosen, weights, images, shape, _digest(found))


def _ask(model: nn.Module, images: Tensor, shape: ImageShape) -> list[Tensor]:
    """Return copies of logits and maps in evaluation."""
    model.eval()
    with _told(f"fails in evaluation of a batch of {len(images)}", model, "mend it in its package"):
        output = model(images)
        taps = check_output(output, shape, len(images))
    return [tensor.detach().clone() for tensor in (output[0], *taps)]


def _alike(one: list[Tensor], other: list[Tensor]) -> bool:
    return _digest(one) == _digest(other)


def _digest(tensors: list[Tensor]) -> bytes:
    whole = sha256()
    for tensor in tensors:
        whole.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.digest()


def _differing(home: nn.Module, guest: nn.Module) -> list[str]:
    """Name the numbers and tensors that two models keep otherwise."""
    found = []
    for (name, here), (_, there) in zip(home.named_modules(), guest.named_modules(), strict=False):
        ours, theirs = (
            {**vars(one), **dict(one.named_buffers(recurse=False))} for one in (here, there)
        )
        for key, value in ours.items():
            other = theirs.get(key)
            if isinstance(value, Tensor) and isinstance(other, Tensor):
                same = value.shape == other.shape and torch.equal(value, other)
            else:
                same = not isinstance(value, int | float | str) or value == other
            if not same:
                found.append(f"{name}.{key}".lstrip("."))
    return found


def _fork(
    chosen: Architecture, weights: Weights, images: Tensor, shape: ImageShape, expected: bytes
) -> None:
    """Compare with what a guest gives in a forked process, as hospitals are.

    A process with other threads is not forked: one of them may hold a lock, which says nothing of
    the architecture.
    """
    if threading.active_count() > 1:
        return

    def compute() -> bytes:
        guest = blueprint(chosen, shape)
        install(guest, weights)
        return _digest(_ask(guest, images, shape))

    found = in_child(compute)
    if found != expected:
        how = "does not come back from" if found is None else "gives other logits in"
        text = f"{how} a forked process, and hospitals are such"
        fix = "let nothing hang on the process: its number, its threads, time or the environment"
        raise Broken(text, fix)


def in_child(compute: Callable[[], bytes]) -> bytes | None:
    """Compute in a forked process; None if it does not end by itself, empty if it fails."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads of PyTorch, which are at rest
        child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            os.write(writing, compute())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready = select.select([reading], [], [], PATIENCE_S)[0]
        return os.read(reading, 64) if ready else None
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # it has said what it says
        os.waitpid(child, 0)
