"""Networks of torchvision, timm and MONAI as they are: each is held to the contract, with proposed
taps, and those that need more than YAML can say are refused in words.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedskd_sim import launch
from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.networks.buildable import Contracts, check_architecture, itself
from fedskd_sim.learning.networks.models import ImageShape, candidates_of
from fedskd_sim.learning.networks.taps import propose
from fedskd_sim.scenario import Architecture, FedSKD, Similarity

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are not ours
ROOT = Path(__file__).parents[3]
CLASSES, OUT = {"num_classes": "$classes"}, {"out_channels": "$classes"}
VIT = {**CLASSES, "image_size": "$size", "patch_size": 8, "hidden_dim": 16, "mlp_dim": 16,
       "num_layers": 3, "num_heads": 2}  # fmt: skip
SWIN = {**CLASSES, "patch_size": [4, 4], "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2],
        "window_size": [4, 4]}  # fmt: skip
TIMM_VIT = {**CLASSES, "img_size": "$size", "patch_size": 8, "embed_dim": 24, "depth": 3,
            "num_heads": 2}  # fmt: skip
STAGES = {**CLASSES, "depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
VOLUMES = {"spatial_dims": 3, "in_channels": "$channels"}
MONAI_RESNET = {
    "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 8, 16, 16], "spatial_dims": 3,
    "n_input_channels": "$channels", **CLASSES,
}  # fmt: skip
IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet": ("DenseNet", {**CLASSES, "growth_rate": 4, "block_config": [2, 2, 2, 2],
                              "num_init_features": 8}),
    "squeezenet 1.0": ("SqueezeNet", CLASSES),
    "squeezenet 1.1": ("SqueezeNet", {**CLASSES, "version": "1_1"}),
    "mnasnet": ("MNASNet", {**CLASSES, "alpha": 0.25}),
    "mobilenet v2": ("MobileNetV2", {**CLASSES, "width_mult": 0.25}),
    "shufflenet v2": ("ShuffleNetV2", {**CLASSES, "stages_repeats": [2, 2, 2],
                                       "stages_out_channels": [8, 16, 32, 64, 64]}),
    "googlenet": ("GoogLeNet", {**CLASSES, "init_weights": False, "aux_logits": False}),
    "vit": ("VisionTransformer", VIT),
    "swin": ("SwinTransformer", SWIN),
    "maxvit": ("MaxVit", {
        **CLASSES, "input_size": ["$size", "$size"], "stem_channels": 8, "partition_size": 4,
        "block_channels": [8, 16], "block_layers": [1, 1], "head_dim": 8,
        "stochastic_depth_prob": 0.1,
    }),
}  # fmt: skip
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vision_transformer:VisionTransformer", TIMM_VIT),
    "vit with registers": ("vision_transformer:VisionTransformer", {**TIMM_VIT, "reg_tokens": 4}),
    "vit, mean of tokens": (
        "vision_transformer:VisionTransformer",
        {**TIMM_VIT, "class_token": False, "global_pool": "avg"},
    ),
    "deit": ("deit:VisionTransformerDistilled", TIMM_VIT),
    "cait": ("cait:Cait", TIMM_VIT),
    "xcit": ("xcit:Xcit", TIMM_VIT),
    "beit": ("beit:Beit", {**TIMM_VIT, "use_rel_pos_bias": True}),
    "eva": ("eva:Eva", {**TIMM_VIT, "use_rot_pos_emb": True}),
    "swin": ("swin_transformer:SwinTransformer", {
        **CLASSES, "img_size": "$size", "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2],
        "window_size": 4}),
    "swin v2": ("swin_transformer_v2:SwinTransformerV2", {
        **CLASSES, "img_size": "$size", "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2],
        "window_size": 4}),
    "convnext": ("convnext:ConvNeXt", STAGES),
    "convnext v2": ("convnext:ConvNeXt", {**STAGES, "use_grn": True, "ls_init_value": 0.0}),
    "inception next": ("inception_next:MetaNeXt", STAGES),
    "metaformer": ("metaformer:MetaFormer", STAGES),
    "poolformer": ("metaformer:MetaFormer", {**STAGES, "use_mlp_head": False}),
    "mixer": ("mlp_mixer:MlpMixer", {**CLASSES, "img_size": "$size", "patch_size": 8,
                                     "num_blocks": 3, "embed_dim": 16}),
    "densenet": ("densenet:DenseNet", {**CLASSES, "growth_rate": 4, "block_config": [2, 2, 2, 2]}),
    "edgenext": ("edgenext:EdgeNeXt", {**CLASSES, "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                                    "heads": [2, 2, 2, 2]}),
    "davit": ("davit:DaVit", {**CLASSES, "depths": [1, 1], "embed_dims": [8, 16],
                              "num_heads": [2, 2], "window_size": 4}),
    "pvt v2": ("pvt_v2:PyramidVisionTransformerV2", {
        **CLASSES, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32],
        "num_heads": [1, 2, 2, 2]}),
    "focalnet": ("focalnet:FocalNet", {**CLASSES, "embed_dim": 8, "depths": [1, 1, 1, 1]}),
    "repvit": ("repvit:RepVit", {**CLASSES, "embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1]}),
    "starnet": ("starnet:StarNet", {**CLASSES, "base_dim": 8, "depths": [1, 1, 1, 1]}),
    "fasternet": ("fasternet:FasterNet", {**CLASSES, "embed_dim": 8, "depths": [1, 1, 1, 1]}),
    "mambaout": ("mambaout:MambaOut", STAGES),
    "tresnet": ("tresnet:TResNet", {**CLASSES, "layers": [1, 1, 1, 1], "width_factor": 0.25}),
    "convmixer": ("convmixer:ConvMixer", {**CLASSES, "dim": 16, "depth": 3, "kernel_size": 3,
                                          "patch_size": 4}),
    "pit": ("pit:PoolingVisionTransformer", {
        **CLASSES, "img_size": "$size", "patch_size": 8, "stride": 4, "stem_type": "overlap",
        "base_dims": [8, 8, 8], "depth": [1, 1, 1], "heads": [1, 2, 2], "mlp_ratio": 2.0}),
    "nest": ("nest:Nest", {
        **CLASSES, "img_size": "$size", "patch_size": 4, "num_levels": 2, "embed_dims": [8, 16],
        "num_heads": [1, 2], "depths": [1, 1]}),
    "hiera": ("hiera:Hiera", {**CLASSES, "img_size": ["$size", "$size"], "embed_dim": 16,
                              "num_heads": 1, "stages": [1, 1, 1, 1]}),
    "levit": ("levit:Levit", {**CLASSES, "img_size": "$size", "embed_dim": [16, 24, 32],
                              "key_dim": 8, "depth": [1, 1, 1], "num_heads": [2, 2, 2]}),
    "swiftformer": ("swiftformer:SwiftFormer", {**CLASSES, "layers": [1, 1, 1, 1],
                                                "embed_dims": [8, 16, 24, 32]}),
    "twins": ("twins:Twins", {
        **CLASSES, "img_size": "$size", "embed_dims": [8, 16, 24, 32],
        "num_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1]}),
}  # fmt: skip
MONAI: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet": ("DenseNet", {**VOLUMES, **OUT, "init_features": 8, "growth_rate": 4,
                              "block_config": [2, 2, 2, 2]}),
    "resnet": ("ResNet", MONAI_RESNET),
    "resnet bottleneck": ("ResNet", {**MONAI_RESNET, "block": "bottleneck"}),
    "resnet without convolutions beside": ("ResNet", {**MONAI_RESNET, "shortcut_type": "A"}),
    "squeeze and excitation": ("SEResNet50", {**VOLUMES, **CLASSES, "layers": [1, 1, 1, 1]}),
    "efficientnet": ("EfficientNetBN", {**VOLUMES, **CLASSES, "model_name": "efficientnet-b0",
                                        "pretrained": False}),
    "classifier": ("Classifier", {"in_shape": ["$channels", "$size", "$size", "$size"],
                                  "classes": "$classes", "channels": [4, 8], "strides": [2, 2]}),
}  # fmt: skip
NEEDS_OBJECTS = (
    "torchvision.models:ResNet", "torchvision.models:VGG", "torchvision.models:EfficientNet",
    "torchvision.models:MobileNetV3", "torchvision.models:ConvNeXt", "torchvision.models:RegNet",
)  # fmt: skip


def wrong(name: str, options: dict[str, Any], shape: ImageShape) -> list[FedskdError]:
    """Find what `validate` finds of a class, but for the grid of regions at so small a size."""
    if not find_spec(name.partition(".")[0]):
        pytest.skip("its package is not installed: it is in the dependency group zoo")
    chosen = Architecture(name=name, options=options, input=shape.kind)
    how, held = FedSKD(name="fedskd", similarity=Similarity(region=0.0)), Contracts()
    return [
        *itself(chosen, ()),
        *check_architecture(chosen, shape, (), how, atlas=True, held=held),
    ]


@pytest.mark.parametrize(("name", "options"), IMAGES.values(), ids=IMAGES)
def test_torchvisions_networks_are_taken(name: str, options: dict[str, Any]) -> None:
    """They train, are elsewhere what they are at home, and have maps with a gradient."""
    assert wrong(f"torchvision.models:{name}", options, ImageShape(3, 32, 3)) == []


@pytest.mark.parametrize(("name", "options"), TIMM.values(), ids=TIMM)
def test_timms_networks_are_taken(name: str, options: dict[str, Any]) -> None:
    """As torchvision's; no head of an attention is proposed as a map."""
    assert wrong(f"timm.models.{name}", options, ImageShape(3, 32, 3)) == []
    chosen = Architecture(name=f"timm.models.{name}", options=options)
    taps = propose(candidates_of(chosen, ImageShape(3, 32, 3)))
    assert not [tap for tap in taps if "attn" in tap]


@pytest.mark.parametrize(("name", "options"), MONAI.values(), ids=MONAI)
def test_monais_networks_are_taken(name: str, options: dict[str, Any]) -> None:
    """Of volumes."""
    shape = ImageShape(1, 32, 3, "volume")
    assert wrong(f"monai.networks.nets:{name}", options, shape) == []


@pytest.mark.parametrize("name", NEEDS_OBJECTS)
def test_what_needs_objects_of_python_is_refused(name: str) -> None:
    """With what it needs, and the way of a function."""
    (error,) = itself(Architecture(name=name), ())
    assert re.search(r" needs \w+", error.message)
    assert "write a function that builds the network" in error.fix


def test_the_hospital_of_the_manual_is_valid(tmp_path: Path) -> None:
    """In the scenario that its page names, and all of its regions are compared."""
    if not find_spec("monai"):
        pytest.skip("MONAI is not installed: it is in the dependency group zoo")
    page = (ROOT / "docs" / "own-code.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(hospitals:\n  - name: cork\n.*?)```", page, re.DOTALL)
    text = (ROOT / "scenarios" / "volumes-synthetic.yaml").read_text(encoding="utf-8")
    kept = re.sub(r"  - \{name: cork.*\n", "", text)
    path = tmp_path / "own.yaml"
    path.write_text(kept.replace("algorithm:", block.removeprefix("hospitals:\n") + "algorithm:"))
    done = CliRunner().invoke(main, ["validate", str(path)])
    assert "cork (monai.networks.nets:ResNet)" in done.output
    assert "Note" not in done.output


RING = """
name: zoo
data: {name: synthetic-skin, samples: 30, image_size: 32, classes: 3}
hospitals:
  - name: monai
    architecture:
      name: monai.networks.nets:DenseNet
      options: {spatial_dims: 2, in_channels: $channels, out_channels: $classes, init_features: 8,
                growth_rate: 4, block_config: [2, 2, 2]}
  - name: timm
    architecture:
      name: timm.models.convnext:ConvNeXt
      options: {num_classes: $classes, depths: [1, 1, 1, 1], dims: [8, 16, 24, 32]}
  - {name: plain, architecture: cnn-plain}
algorithm: {name: fedskd, rounds: 1, similarity: {region: 0.0}}
training: {warmup_epochs: 1, batch_size: 10}
"""


def test_they_travel_a_ring_beside_each_other(tmp_path: Path) -> None:
    """Networks of MONAI and timm, as they are, teach each other and a built-in one, and the run
    is whole.
    """
    if not (find_spec("monai") and find_spec("timm")):
        pytest.skip("packages are not installed: they are in the dependency group zoo")
    (tmp_path / "zoo.yaml").write_text(RING)
    run = launch(tmp_path / "zoo.yaml", on="memory", out=tmp_path / "run")
    visits = [row for row in run.hops if row["kind"] == "visit"]
    assert {(row["host"], row["outcome"]) for row in visits} == {
        (name, "trained") for name in ("monai", "timm", "plain")
    }
    assert all(row["digest_in"] != row["digest_out"] for row in visits)
