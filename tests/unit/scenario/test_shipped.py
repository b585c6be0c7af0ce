"""Scenarios that come with the program: found by name, begun from, and there where the program
is installed.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import fedskd_sim
from fedskd_sim.cli import main
from fedskd_sim.errors import InvalidValue, OutputNotEmpty, OutputNotWritable, ScenarioSyntaxError
from fedskd_sim.scenario import begin, find, load, scenarios

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "scenarios").glob("*.yaml"))


def test_every_scenario_of_the_project_is_found_by_its_name() -> None:
    """What stands in scenarios/ is what can be launched by name."""
    assert scenarios() == {file.stem: file for file in FILES}
    assert all(find(Path(file.stem)) == file for file in FILES)


def test_what_is_shipped_sets_no_key_in_vain() -> None:
    """Nobody is told of one that a package's algorithm has filled in."""
    found = {file.stem: [*fedskd_sim.load(file).idle] for file in FILES}
    assert {name: idle for name, idle in found.items() if idle} == {}


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there is meant; a folder of a scenario's name is none, and a path is never
    a name.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert find(Path("quickstart")) == ROOT / "scenarios" / "quickstart.yaml"
    (tmp_path / "placebo-ok").write_text("name: mine\n")
    assert find(Path("placebo-ok")) == Path("placebo-ok")
    for path in ("quickstart.yaml", "here/quickstart", "../quickstart"):
        assert find(Path(path)) == Path(path)


def test_a_name_that_lacks_its_ending_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `init mine` one writes `launch mine`, too: the file that lies here is named."""
    monkeypatch.chdir(tmp_path)
    begin("mine", "placebo-ok")
    with pytest.raises(ScenarioSyntaxError) as caught:
        find(Path("mine"))
    assert caught.value.fix.startswith("write 'mine.yaml', which lies here")


@pytest.mark.parametrize("command", ["validate", "launch", "compare --algorithms local"])
def test_an_unknown_name_lists_what_there_is(command: str) -> None:
    """A mistyped name has a suggestion, the list of all names and the code of a file that is not
    there.
    """
    first, *more = command.split()
    done = CliRunner().invoke(main, [first, "quikstart", *more])
    assert done.exit_code == ScenarioSyntaxError.exit_code
    assert "quikstart: there is no such file" in done.stderr
    assert "did you mean 'quickstart'?" in done.stderr
    assert all(file.stem in done.stderr for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_can_be_begun_from_any(file: Path, tmp_path: Path) -> None:
    """The new file says what to do next, has its own name, and is otherwise the scenario that it
    was made from.
    """
    made = begin("mine", file.stem, tmp_path)
    assert "fedskd-sim validate mine.yaml" in made.read_text()
    begun, source = fedskd_sim.load(made).scenario, fedskd_sim.load(file).scenario
    assert begun.model_copy(update={"name": source.name}) == source
    assert begun.name == "mine"


def test_init_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second scenario of the same name is an error, and the first stays as it is."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["init", "mine"]).exit_code == 0
    (tmp_path / "mine.yaml").write_text("precious")
    done = CliRunner().invoke(main, ["init", "mine", "--from", "roi-synthetic"])
    assert done.exit_code == OutputNotEmpty.exit_code
    assert "mine.yaml is there already" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_init_says_what_can_be_done_with_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good scenario runs; what is wrong with another is wrong with its copy."""
    monkeypatch.chdir(tmp_path)
    assert "launch mine.yaml' runs it" in CliRunner().invoke(main, ["init", "mine"]).stdout
    (tmp_path / "bad.yaml").write_text("name: bad\nhospital: 3\n")
    done = CliRunner().invoke(main, ["init", "next", "--from", "bad.yaml"])
    assert done.exit_code == 0
    assert "validate next.yaml' names what is wrong with it" in done.stdout


@pytest.mark.parametrize(
    "name", ["", "Mine", "mine.yaml", "../mine", "a/b", "-mine", "m" * 41, "mine\n", "zwölf"]
)
def test_a_bad_name_is_refused(name: str, tmp_path: Path) -> None:
    """Only what may be the name of a scenario is written, in the folder that was meant; the
    error says what may be.
    """
    with pytest.raises(InvalidValue, match="is no name for a scenario") as caught:
        begin(name, "quickstart", tmp_path)
    assert "lower-case letters" in caught.value.fix
    assert not [*tmp_path.iterdir()]


def test_init_begins_from_a_file_too(tmp_path: Path) -> None:
    """A scenario of one's own can be begun from, as often as one likes; what is no scenario cannot,
    and nothing is written then.
    """
    first = begin("mine", "placebo-ok", tmp_path)
    second = begin("again", str(first), tmp_path)
    assert load(second).scenario.name == "again"
    assert (
        second.read_text().replace("again", "mine").splitlines()[5:]
        == (first.read_text().splitlines()[5:])
    )
    assert f"made from '{first}'" in second.read_text().splitlines()[0]
    (tmp_path / "none.yaml").write_text("hospitals: []\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    for bad in ("none.yaml", "bytes.yaml", "missing.yaml"):
        with pytest.raises(ScenarioSyntaxError) as caught:
            begin("third", str(tmp_path / bad), tmp_path)
        assert caught.value.where is not None
        assert caught.value.where.file == str(tmp_path / bad)
    assert not (tmp_path / "third.yaml").exists()


def test_init_where_nothing_can_be_written_and_from_nothing(tmp_path: Path) -> None:
    """A folder that is not there, and a scenario that is not known, are errors with a fix."""
    with pytest.raises(OutputNotWritable, match="cannot be written"):
        begin("mine", "quickstart", tmp_path / "nowhere")
    with pytest.raises(ScenarioSyntaxError, match="no scenario of that name") as caught:
        begin("mine", "slowstart", tmp_path)
    assert "quickstart" in caught.value.fix


def test_a_folder_is_no_scenario_and_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's folder leads to its scenario; one of a shipped scenario's name is in nobody's way."""
    monkeypatch.chdir(tmp_path)
    for name in ("run", "quickstart"):
        Path(name).mkdir()
        Path(name, "scenario.yaml").touch()
    with pytest.raises(ScenarioSyntaxError, match="Is a directory") as caught:
        load(find(Path("run")))
    assert "run/scenario.yaml" in caught.value.fix
    assert find(Path("quickstart")).is_file()


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Build the wheel, install it into an environment of its own, and call its command away from
    the checkout.

    The libraries are those of the environment that runs the tests: nothing is fetched.
    """
    place = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--isolated"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, ROOT], place)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "venv", symlinks=True)
    (library,) = (place / "venv" / "lib").glob("python*/site-packages")
    run(
        [
            *pip,
            "--python",
            place / "venv" / "bin" / "python",
            "install",
            "--no-deps",
            "--no-index",
            wheel,
        ],
        place,
    )
    others = [path for path in sys.path if path.endswith("site-packages")]
    (library / "others.pth").write_text("\n".join([*others, *site.getsitepackages()]))
    (library / "fedskd_sim" / "scenarios" / "only-here.yaml").write_text(
        (ROOT / "scenarios" / "placebo-ok.yaml").read_text()
    )
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return run([place / "venv" / "bin" / "fedskd-sim", *arguments], place, env=clean)

    return call


def run(command: list[object], folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_wheel_is_enough(installed: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Installed from its wheel and away from the checkout, the program begins, checks and runs
    scenarios.
    """
    assert "only-here is valid:" in installed("validate", "only-here").stdout
    assert "mine.yaml is written" in installed("init", "mine", "--from", "placebo-ok").stdout
    assert "mine.yaml is valid:" in installed("validate", "mine.yaml").stdout
    assert "verified: whole" in installed("launch", "placebo-ok", "--out", "out").stdout
    assert "quickstart is valid:" in installed("validate", "quickstart").stdout
