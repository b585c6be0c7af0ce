"""What says whose the project is, how it may be used and how it is cited."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from runpy import run_path

import yaml

from fedskd_sim import __version__

ROOT = Path(__file__).parent.parent.parent
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
LICENCE = "Apache-2.0"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_licence_is_told_alike_everywhere() -> None:
    """The licence's own text is there, and metadata, citation, images and chart name it."""
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert (project["license"], project["license-files"]) == (LICENCE, ["LICENSE"])
    assert yaml.safe_load(read("CITATION.cff"))["license"] == LICENCE
    assert (
        yaml.safe_load(read("helm/fedskd-sim/Chart.yaml"))["annotations"]["artifacthub.io/license"]
        == LICENCE
    )
    for image in ("controller", "hospital"):
        assert f'org.opencontainers.image.licenses="{LICENCE}"' in read(
            f"images/{image}/Dockerfile"
        )


def test_extras_are_parts_of_what_is_installed() -> None:
    """What an extra names is within the same bounds among the dependencies, which only `export`,
    `tensorboard` and `mlflow` add to; images get their parts.
    """
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    assert {*extras["cluster"], *extras["learning"]} < {*project["dependencies"]}
    assert {*extras["cluster"]}.isdisjoint(extras["learning"])
    assert extras["all"] == ["fedskd-sim[export,tensorboard]"]
    before = {
        "controller": {
            "jinja2",
            "matplotlib",
            "psutil",
            "rich",
            "scipy",
            "nibabel",
            "numpy",
            "pillow",
            "safetensors",
            "torch",
            "torchvision",
        },
        "hospital": {"jinja2", "matplotlib", "psutil", "rich", "scipy", "kubernetes"},
    }
    assert run_path(str(ROOT / "images" / "requirements.py"))["LEFT_OUT"] == before


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    """The software is cited with its version, and the paper as it was published."""
    cited = yaml.safe_load(read("CITATION.cff"))
    assert (cited["cff-version"], cited["version"]) == ("1.2.0", __version__)
    paper = cited["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Weng", "Cai", "Zhou"]
    assert {one["value"] for one in paper["identifiers"]} == {"PMID:42019059", "arXiv:2503.18981"}


def test_the_changelog_knows_this_version() -> None:
    """What is not released yet stands first, then this version with its day."""
    heads = re.findall(r"^## \[(.+?)\](.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == __version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", heads[1][1])


def test_issue_forms_ask_for_what_is_needed() -> None:
    """Every form has a name, a description and fields that have to be filled in."""
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yaml"))
    assert [form.stem for form in forms] == ["bug", "feature"]
    for form in forms:
        asked = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(asked)
        assert any(part.get("validations", {}).get("required") for part in asked["body"])
