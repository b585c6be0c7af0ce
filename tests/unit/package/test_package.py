"""What says whose the project is, how it may be used and how it is cited."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

from fedskd_sim import __version__
from fedskd_sim.member import reporter
from fedskd_sim.runtimes.folder import lock_for_this_python, lock_met

ROOT = Path(__file__).parents[3]
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


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=~!\[]", one)[0] for one in requirements}


def test_extras_add_what_their_names_say() -> None:
    """The core has neither PyTorch nor the Kubernetes client, `all` has every extra but MLflow and
    those that hold others back, and nothing has an upper bound but the accountant, whose figures
    records have; images get what their members import.
    """
    project = tomllib.loads(read("pyproject.toml"))["project"]
    core, extras = names(project["dependencies"]), project["optional-dependencies"]
    assert core.isdisjoint({"torch", "torchvision", "kubernetes"})
    assert names(extras["learning"]) == {"nibabel", "pillow", "torch", "torchvision"}
    assert names(extras["cluster"]) == {"kubernetes"}
    assert extras["all"] == ["fedskd-sim[learning,cluster,export,tensorboard,dicom]"]
    every = [*project["dependencies"], *chain.from_iterable(extras.values())]
    bounded = [one for one in every if "<" in one or "==" in one]
    assert bounded == ["dp-accounting>=0.6,<0.7"]
    wanted = run_path(str(ROOT / "images" / "requirements.py"))["WANTED"]
    both = {"click", "msgpack", "prometheus-client", "pydantic", "pyzmq", "ruamel-yaml", "xxhash"}
    assert names(wanted["controller"]) == both | {"kubernetes"}
    assert names(wanted["hospital"]) == both | names(extras["learning"]) | {"numpy", "safetensors"}


LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9-]+)==(\S+) \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def pins(lock: Path) -> dict[str, str]:
    lines = lock.read_text(encoding="utf-8").splitlines()
    return {found[1]: found[2] for line in lines if (found := PIN.match(line))}


def test_there_is_a_lock_for_every_python_that_is_named() -> None:
    """Each version among the classifiers has one, and no other; `make lock` writes the same."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    named = [one.rpartition(" ")[2] for one in project["classifiers"] if "Python :: 3." in one]
    assert [lock.name for lock in LOCKS] == [f"python{one}-linux-x86_64.txt" for one in named]
    assert f"LOCKED_PYTHONS := {' '.join(named)}\n" in read("Makefile")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_every_requirement_within_its_bounds_and_a_hash_for_all(lock: Path) -> None:
    """All of `[all]` and of the core is there; every version has a hash, and nothing says whence it
    comes.
    """
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras, found = project["optional-dependencies"], pins(lock)
    (every,) = re.findall(r"\[(.+)\]", extras["all"][0])
    wanted = chain(project["dependencies"], *(extras[one] for one in every.split(",")))
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(found[requirement.name]), requirement
    text = lock.read_text(encoding="utf-8")
    for part in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
        first, *rest = [line for line in part.splitlines() if "#" not in line]
        assert PIN.match(first), first
        assert rest, first
        assert all(map(HASH.match, rest)), first
    assert not re.search(r"://|^--|@|\.(org|com|io)\b", text, re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_images_take_from_a_lock_what_they_need_and_no_more(lock: Path) -> None:
    """A controller has no PyTorch and a hospital no Kubernetes client, and each all that its
    libraries need.
    """
    module = run_path(str(ROOT / "images" / "requirements.py"))
    text, whole = lock.read_text(encoding="utf-8"), pins(lock)
    for image, without in (("controller", "torch"), ("hospital", "kubernetes")):
        part = module["locked"](module["WANTED"][image], text)
        taken = re.findall(r"^([a-z0-9-]+)==", part, re.MULTILINE)
        assert names(module["WANTED"][image]) <= {*taken} < {*whole}
        assert without not in taken
        assert {"pydantic-core", "typing-extensions", "annotated-types"} <= {*taken}


def test_a_run_names_the_lock_that_its_environment_has(tmp_path: Path) -> None:
    """Every version of the lock has to be there; what there is besides does not count."""
    lock, place = tmp_path / "python3.11-linux-x86_64.txt", tmp_path / "place"
    lock.write_text("# words\nruamel-yaml==0.19.1 \\\n    --hash=sha256:0\nnumpy==2.4.6 \\\n")
    names = ("ruamel.yaml-0.19.1", "numpy-2.4.6", "pip-26.3")
    for name in names:
        (place / f"{name}.dist-info").mkdir(parents=True)
    met = lock_met(lock, [str(tmp_path / "none"), str(place)])
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    assert met == f"python3.11-linux-x86_64, sha256 {digest[:12]}"
    assert lock_met(tmp_path / "no.txt", [str(place)]) == ""
    (place / "numpy-2.4.6.dist-info").rename(place / "numpy-2.4.6+cpu.dist-info")
    assert lock_met(lock, [str(place)]) == ""
    (place / "numpy-2.4.6+cpu.dist-info").rmdir()
    assert lock_met(lock, [str(place)]) == ""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="locks are for Linux, x86_64"
)
def test_the_lock_for_this_python_is_found() -> None:
    """Where there is one for its version."""
    if sys.version_info[:2] in ((3, 11), (3, 12), (3, 13), (3, 14)):
        assert lock_for_this_python() in LOCKS


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Without(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {lacking}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
from click.testing import CliRunner
from fedskd_sim.cli import main
for line in sys.argv[1:]:
    done = CliRunner().invoke(main, line.split())
    print(done.exit_code, line.split()[0], done.output.replace("\\n", " ")[:200])
"""


def say_without(lacking: tuple[str, ...], *lines: str) -> list[str]:
    """Carry out commands where libraries are not installed; gives exit code, verb and words."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(lacking=lacking), *lines],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_core_reads_verifies_reports_and_exports(tmp_path: Path) -> None:
    """Without PyTorch and the Kubernetes client all verbs of a run folder work; what needs one of
    them ends with 62 and names the extra.
    """
    run, out = tmp_path / "run", tmp_path / "out"
    found = say_without(
        ("torch", "torchvision", "kubernetes", "nibabel"),
        f"launch placebo-ok --on memory --out {run}",
        f"verify {run}",
        f"report {run}",
        f"status {run}",
        f"export {run} --out {out}",
        "validate quickstart",
        "launch quickstart --on memory",
        "launch placebo-ok --on kubernetes",
    )
    assert [line.split()[0] for line in found] == ["0"] * 5 + ["62"] * 3, found
    assert all("fedskd-sim[learning]" in line for line in found[5:7])
    assert "fedskd-sim[cluster]" in found[7]


def test_windows_is_told_what_works() -> None:
    """Where Python has no locks of Unix a run ends in a sentence, and a scenario is still read."""
    found = say_without(("fcntl", "resource"), "--version", "launch placebo-ok --on memory")
    assert [line.split()[0] for line in found] == ["0", "62"], found
    assert "WSL" in found[1]


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    """The software is cited with its title, its version and that version's day in the changelog,
    and the paper of the method, as it was published, is a reference.
    """
    cited = yaml.safe_load(read("CITATION.cff"))
    assert cited["cff-version"] == "1.2.0"
    assert (cited["title"], cited["version"]) == ("fedskd_sim", __version__)
    assert f"## [{__version__}] - {cited['date-released']}\n" in read("CHANGELOG.md")
    (paper,) = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Weng", "Cai", "Zhou"]
    assert {one["value"] for one in paper["identifiers"]} == {"PMID:42019059", "arXiv:2503.18981"}


def test_chart_and_images_have_this_version() -> None:
    """What is released together says one version."""
    chart = yaml.safe_load(read("helm/fedskd-sim/Chart.yaml"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    for image in ("controller", "hospital"):
        assert f"\nARG VERSION={__version__}\n" in read(f"images/{image}/Dockerfile")


def test_the_paper_is_short_and_cites_what_it_lists() -> None:
    """It has its sections, at most a thousand words and the release's day, and text and list of
    references name the same works.
    """
    _, front, text = read("paper.md").split("---\n", 2)
    sections = re.findall(r"^# (.+)$", text, re.MULTILINE)
    wanted = ("Summary", "Statement of need", "State of the field", "Limitations")
    assert [one for one in sections if one in wanted] == [*wanted]
    assert 700 <= len(text.split()) <= 1000
    told = yaml.safe_load(front)
    released = yaml.safe_load(read("CITATION.cff"))["date-released"]
    assert told["date"] == f"{released:%-d %B %Y}"
    cited = {*re.findall(r"@(\w+)", text)}
    assert cited == {*re.findall(r"^@\w+\{(\w+),", read(told["bibliography"]), re.MULTILINE)}


def test_hooks_are_the_linters_of_make() -> None:
    """Before a commit runs what `make lint` runs, out of the same environment."""
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    recipe = read("Makefile").partition("\nlint:")[2].partition("\n\n")[0]
    linted = re.findall(r"^\t\$\(BIN\)/(.+)$", recipe, re.MULTILINE)
    assert [
        re.sub(r" --force-exclude$", "", hook["entry"]).removeprefix(".venv/bin/")
        for hook in local["hooks"]
    ] == [re.sub(r"( --check)? \.$", "", command) for command in linted]


def test_what_is_renewed_each_week_is_there() -> None:
    """Requirements, actions and the images' base are looked at once a week, where they stand."""
    asked = yaml.safe_load(read(".github/dependabot.yml"))["updates"]
    kinds = [one["package-ecosystem"] for one in asked]
    assert kinds == ["pip", "github-actions", "docker"]
    assert {one["schedule"]["interval"] for one in asked} == {"weekly"}
    for folder in asked[2]["directories"]:
        assert (ROOT / folder.strip("/") / "Dockerfile").exists()


def test_the_changelog_knows_this_version() -> None:
    """What is not released yet stands first, then this version with its day."""
    heads = re.findall(r"^## \[(.+?)\](.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == __version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", heads[1][1])


def test_peak_memory_is_in_bytes_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux counts kibibytes, macOS bytes."""
    used = SimpleNamespace(ru_maxrss=3)
    monkeypatch.setattr(reporter.resource, "getrusage", lambda _: used)
    for system, expected in (("linux", 3072), ("darwin", 3)):
        monkeypatch.setattr(sys, "platform", system)
        assert reporter.peak_memory() == expected


def test_issue_forms_ask_for_what_is_needed() -> None:
    """Every form has a name, a description and fields that have to be filled in."""
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yaml"))
    assert [form.stem for form in forms] == ["bug", "feature"]
    for form in forms:
        asked = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(asked)
        assert any(part.get("validations", {}).get("required") for part in asked["body"])
