"""Users' own architectures: the manual's example as written, in memory and as processes, and all
that can be wrong with one.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedskd_sim.errors import FedskdError, HospitalCrashed, ImageTooSmall, InvalidValue
from fedskd_sim.learning import installed
from fedskd_sim.learning.networks.listing import lines_of
from fedskd_sim.learning.networks.models import REGISTRY, ImageShape, build, names, options, outline
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.scenario import Architecture, load

ROOT = Path(__file__).parent.parent.parent
SCENARIO = """\
name: own
data: {{name: synthetic-skin, samples: 40, image_size: 16, classes: 3}}
hospitals:
  - {{name: a, architecture: {architecture}}}
  - {{name: b, architecture: cnn-plain}}
algorithm: {{name: fedskd, rounds: 1, similarity: {{batch: 0.1, pixel: 0.1, region: 0.1}}}}
training: {{warmup_epochs: 1, batch_size: 16}}
"""
GOOD = """
from torch import nn
from fedskd_sim.learning.distillation.distill import Taps

class Net(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        self.stem, self.head = nn.Conv2d(channels, width, 3, 4, 1), nn.Linear(width, classes)
    def forward(self, images):
        mid = self.stem(images)
        return {output}

def net(channels, image_size, classes, *, {options}):
    {body}
    return Net(channels, classes, 4)
"""


def good(
    output: str = "self.head(mid.mean((2, 3))), Taps(mid, mid)",
    options: str = "width=4",
    body: str = "pass",
) -> str:
    return GOOD.format(output=output, options=options, body=body)


def example() -> tuple[dict[str, str], str]:
    """Take the package's entry points and its module out of the manual."""
    section = (
        (ROOT / "docs" / "own-code.md")
        .read_text(encoding="utf-8")
        .partition("## Your own architecture")[2]
        .partition("\n## ")[0]
    )
    toml, module = (
        re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("toml", "python")
    )
    return tomllib.loads(toml)["project"]["entry-points"][installed.GROUP], module


@pytest.mark.parametrize("runtime", ["memory", "processes"])
def test_the_manuals_architecture_trains(
    runtime: str, install: Callable, scenario_file: Callable, inside: Callable, tmp_path: Path
) -> None:
    """Written as the manual writes it, it is listed, passes the check and travels to the end, in
    memory and in processes.
    """
    offers, module = example()
    ((name, value),) = offers.items()
    install(value.partition(":")[0], offers, module)
    path = scenario_file(SCENARIO.format(architecture=f"{{name: {name}, options: {{width: 8}}}}"))
    done = inside("launch", path, "--on", runtime, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "weights" / "a.safetensors").stat().st_size > 1000
    assert name in names()
    assert re.match(rf"{name} +[0-9,]+ +\d+ px", lines_of(name)[0])
    assert options(name) == {"width": 32}


BAD = {
    "import": ("import nothing_of_this_name", "m:net", "cannot be imported: ModuleNotFoundError"),
    "attribute": (good(), "m:other", "cannot be imported: AttributeError"),
    "raises": ("1 / 0", "m:net", "cannot be imported: ZeroDivisionError"),
    "no function": ("net = 3", "m:net", "is int, not a function"),
    "signature": (
        "def net(channels): pass",
        "m:net",
        "cannot be called with channels, image_size and classes",
    ),
    "required option": (good(options="width"), "m:net", "cannot be called with"),
    "odd option": (good(options="width=None"), "m:net", "neither a number nor a word"),
    "no tuple": (good("mid"), "m:net", "not Tensor"),
    "no taps": (good("mid, (mid, mid)"), "m:net", "has to give logits (B, 3) and Taps"),
    "logits": (good("mid, Taps(mid, mid)"), "m:net", "not logits (2, 4, "),
    "axes": (
        good("self.head(mid.mean((2, 3))), Taps(mid, mid.flatten(2))"),
        "m:net",
        "the deep tap has 3 axes",
    ),
    "one for all": (
        good("self.head(mid.mean((2, 3)))[:1], Taps(mid, mid)"),
        "m:net",
        ", not logits (1, ",
    ),
    "maps of one": (
        good("self.head(mid.mean((2, 3))), Taps(mid, mid[:1])"),
        "m:net",
        "the deep tap has 1 samples of a batch of 2",
    ),
    "lazy": (
        good().replace("nn.Linear(width, ", "nn.LazyLinear("),
        "m:net",
        "head.weight has no shape before the first batch",
    ),
    "complex": (
        good()
        .replace(
            "        self.stem",
            "        self.phase = nn.Parameter(1j * torch.ones(2))\n        self.stem",
        )
        .replace("from torch import nn", "import torch\nfrom torch import nn"),
        "m:net",
        "phase is complex64, and what travels is float64, ",
    ),
    "frozen": (
        good().replace(
            "return Net(channels, classes, 4)",
            "return Net(channels, classes, 4).requires_grad_(False)",
        ),
        "m:net",
        "it has no parameter that trains",
    ),
    "other state": (
        good() + "\nNet.get_extra_state = lambda self: {'steps': 3}\n",
        "m:net",
        "_extra_state in its state_dict is no tensor",
    ),
    "no module": ("def net(channels, image_size, classes): return 3", "m:net", "'int' object"),
    "key error": (good(body="{}['x']"), "m:net", "KeyError: 'x'"),
}


@pytest.mark.parametrize(("text", "value", "words"), BAD.values(), ids=BAD.keys())
def test_a_broken_architecture_is_an_error_where_a_scenario_names_it(
    text: str, value: str, words: str, install: Callable, scenario_file: Callable
) -> None:
    """The check names hospital, cause and fix; the listing shows it; scenarios that do not name
    it take no notice.
    """
    install("m", {"mine": value}, text)
    (error,) = find_problems(
        load(scenario_file(SCENARIO.format(architecture="mine"))).scenario, None
    )
    assert type(error) is InvalidValue
    assert words in error.message
    assert (
        error.fix.startswith("mend it in its package") or "cannot be built for" not in error.message
    )
    assert error.fix
    assert error.key == ("hospitals", 0, "architecture")
    assert "cannot be used" in lines_of("mine")[0]
    assert words.replace("(B, 3)", "(B, 7)") in lines_of("mine")[1]
    assert not [
        *find_problems(
            load(scenario_file(SCENARIO.format(architecture="cnn-residual"))).scenario, None
        )
    ]


def test_one_that_fails_in_mid_run_is_told_with_its_line(
    install: Callable, scenario_file: Callable, inside: Callable, tmp_path: Path
) -> None:
    """An exception of an architecture's own ends the run with the hospital, the place, the words
    and the line of code.
    """
    fails = (
        "if multiprocessing.parent_process() and len(images) > 8: raise RuntimeError('no such "
        "luck')"
    )
    text = "import multiprocessing\n" + good().replace(
        "        mid =", f"        {fails}\n        mid ="
    )
    install("m", {"mine": "m:net"}, text)
    done = inside(
        "launch", scenario_file(SCENARIO.format(architecture="mine")), "--out", tmp_path / "out"
    )
    assert done.returncode == HospitalCrashed.exit_code
    assert re.search(
        r"'a' died in its warm-up: RuntimeError: no such luck \(m\.py:\d+, in forward\)",
        done.stderr,
    ), done.stderr
    assert "Traceback" in (tmp_path / "out" / "logs" / "a.err").read_text()


def test_a_name_belongs_to_one(install: Callable, scenario_file: Callable) -> None:
    """A package that offers a built-in's name, or two that offer the same, are named where a
    scenario asks for it.
    """
    install("m", {"cnn-residual": "m:net", "mine": "m:net"}, good())
    install("n", {"mine": "n:net"}, good())
    for name, words in (
        ("cnn-residual", "is built in, and m (m:net)"),
        ("mine", "m (m:net) and n (n:net)"),
    ):
        (error,) = find_problems(
            load(scenario_file(SCENARIO.format(architecture=name))).scenario, None
        )
        assert type(error) is InvalidValue
        assert words in error.message
        assert "cannot be used" in lines_of(name)[0]
    assert names().count("cnn-residual") == 1
    assert names()[: len(REGISTRY)] == list(REGISTRY)


def test_options_are_of_the_kind_of_their_defaults(
    install: Callable, scenario_file: Callable
) -> None:
    """Whole numbers, numbers, words and truths are told apart, and each has its own advice."""
    install("m", {"mine": "m:net"}, good(options="width=4, rate=0.5, deep=False, kind=''"))
    for given, words in (
        ("rate: true", "a number, like 0.5"),
        ("deep: 3", "true or false"),
        ("kind: 2", "a word"),
        ("width: 0", "from 1 to"),
    ):
        text = SCENARIO.format(architecture=f"{{name: mine, options: {{{given}}}}}")
        (error,) = find_problems(load(scenario_file(text)).scenario, None)
        assert type(error) is InvalidValue
        assert words in error.fix
    text = SCENARIO.format(
        architecture="{name: mine, options: {rate: -1, deep: false, kind: x, width: 9}}"
    )
    assert not [*find_problems(load(scenario_file(text)).scenario, None)]


def test_what_looks_at_values_is_traced_with_values(install: Callable) -> None:
    """An architecture that cannot run without values is outlined by computing."""
    output = "self.head(mid.mean((2, 3)) * float(mid.sum())), Taps(mid, mid)"
    install("m", {"mine": "m:net"}, good(output))
    assert outline(Architecture(name="mine"), ImageShape(3, 16, 3)).deep == (4, 4, 4)


def test_too_small_an_image_is_told_apart_from_a_broken_architecture(
    install: Callable, scenario_file: Callable
) -> None:
    """One that fails at 16 pixels and works above is `ImageTooSmall`, with the size that works."""
    body = textwrap.dedent("if image_size < 20: raise ValueError('too coarse')")
    install("m", {"mine": "m:net"}, good(body=body))
    (error,) = find_problems(
        load(scenario_file(SCENARIO.format(architecture="mine"))).scenario, None
    )
    assert type(error) is ImageTooSmall
    assert "at least 20 pixels" in error.fix


def test_one_that_is_gone_is_an_error_of_ours() -> None:
    """Where a process does not have the package, building it says what to install."""
    with pytest.raises(FedskdError, match="no architecture 'mine'"):
        build(Architecture(name="mine"), ImageShape(3, 16, 3), 1)


PLAIN = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, channels, classes, widths=(4, 8)):
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, 2, 1)
        self.norm = nn.BatchNorm2d(widths[0])
        self.body = nn.Conv2d(widths[0], widths[1], 3, 2, 1)
        self.fc = nn.Linear(widths[1], classes)
    def forward(self, images):
        maps = self.body(self.norm(self.stem(images)).relu()).relu()
        return {"maps": maps, "logits": self.fc(maps.mean((2, 3)))}

def net(channels, image_size, classes, *, width=4):
    return Plain(channels, classes, (width, 8))
"""
WIRED = "taps: [norm, body], output: logits, trainable: [norm.*, body.*, fc.*]"
CLASS = "{name: 'm:Plain', options: {channels: $channels, classes: $classes, widths: [4, 8]}, "


def test_a_network_as_it_is_travels(
    install: Callable, scenario_file: Callable, inside: Callable, tmp_path: Path
) -> None:
    """A class of an installed package as processes, and what a function of it gives with the same
    keys in memory, leave the same weights, with the class's own names.
    """
    install("m", {"mine": "m:net"}, PLAIN)
    left = []
    for number, architecture in enumerate((f"{CLASS}{WIRED}}}", f"{{name: mine, {WIRED}}}")):
        path = scenario_file(SCENARIO.format(architecture=architecture), f"{number}.yaml")
        on = ("processes", "memory")[number]
        done = inside("launch", path, "--on", on, "--out", tmp_path / str(number))
        assert done.returncode == 0, done.stdout + done.stderr
        left.append(load_file(tmp_path / str(number) / "weights" / "a.safetensors"))
    one, other = left
    assert "stem.weight" in one
    assert "norm.running_mean" in one
    assert all(torch.equal(one[name], other[name]) for name in one)
