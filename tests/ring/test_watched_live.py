"""The live page beside a run of processes: in a real browser, and as `launch --watch` starts it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import pytest
from browsing import PROGRAM, browser
from watching import PATIENCE_S, events, go_on, held_at, until


def told(process: subprocess.Popen) -> str:
    """Return the address that the next line of a command tells, if it does."""
    return process.stdout.readline().partition("watch: ")[2].strip()


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM, reason="no chromium on PATH")
def test_a_model_arrives_on_the_map_of_a_browser(
    begun: Callable, program: Callable, tmp_path: Path
) -> None:
    """The page shows h1's model at h2 while h2 holds it, and later that the run has ended well,
    without being loaded again.
    """
    process, out = begun()
    until(lambda: held_at(out, 0) or process.poll() is not None)
    address = told(program("watch", out))
    with browser(tmp_path / "profile") as page:
        page.open(address)
        until(lambda: page.has('.model[data-model="h1"][data-host="h2"][data-to=""]'))
        page.ask("window.loaded = 1")
        assert page.ask("document.querySelector('[role=status]').textContent") == "going"
        go_on(out)
        until(lambda: page.ask("document.body.dataset.ended") == "yes")
        assert page.ask("document.querySelector('[role=status]').textContent") == "ended well"
        assert page.has('.model[data-model="h1"][data-host="h0"]')  # where it was tested last
        assert page.ask("window.loaded") == 1
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM, reason="no chromium on PATH")
def test_a_kill_and_a_loss_are_on_the_map(
    begun: Callable, program: Callable, tmp_path: Path
) -> None:
    """While h2 keeps its visitor, h0 is lost, and h1 is killed on purpose and comes back: the list
    of failures says so, the map shows h0 as lost and its guests elsewhere, and the run ends well
    without it, all without the page being loaded again. h0 may leave before its own model has.
    """
    kill = "{hospital: h1, what: kill, round: 1, hop: 2}"  # h2's model comes there in any case
    leave = "{hospital: h0, what: leave, round: 1, hop: 1}"
    skip = f"{{}}\non_loss: {{name: skip, after: 30}}\nfaults: [{kill}, {leave}]"
    process, out = begun(custody=skip)
    until(lambda: held_at(out, 0) or process.poll() is not None)
    address = told(program("watch", out))
    state = "document.querySelector('[data-hospital={}]').dataset.state"
    with browser(tmp_path / "profile") as page:
        page.open(address)
        until(lambda: page.has(".troubles"))
        page.ask("window.loaded = 1")
        until(lambda: page.ask(state.format("h0")) == "lost")
        shown = "document.querySelector('.troubles').textContent"
        until(lambda: "h1started again, time 1 in a row" in page.ask(shown))
        until(lambda: page.ask(state.format("h1")) == "up")
        until(lambda: page.has('.model[data-model="h1"][data-host="h2"][data-to=""]'))
        list_ = page.ask(shown)
        assert "h1kill, on purpose, round 1, hop 2" in list_
        assert list_.count("the ring goes on without h0") == 1
        labels = page.ask("document.querySelector('.ring').textContent")
        assert "h0 (lost)" in labels
        go_on(out)
        until(lambda: page.ask("document.body.dataset.ended") == "yes")
        assert page.ask("document.querySelector('[role=status]').textContent") == "ended well"
        assert page.ask(state.format("h0")) == "lost"
        guests = '.model:not([data-model="h0"])'
        assert not page.has(f'{guests}[data-host="h0"], {guests}[data-to="h0"]')
        assert page.ask("window.loaded") == 1
    assert events(out, "*", "lost")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def test_launch_shows_its_run_and_takes_the_page_away(
    program: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """`launch --watch` names the page at its beginning; it answers while the run goes, and the
    launch ends with its own exit code, and the page with it.
    """
    file = scenario_file(
        "name: shown\nhospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]"
        "\nalgorithm: {name: placebo, rounds: 3, session_seconds: 0.3}\n"
    )
    out = tmp_path / "out"
    launched = program("launch", file, "--watch", "--out", out)
    address = until(partial(told, launched))
    with urlopen(f"{address}fragments") as answer:
        assert "ring" in json.load(answer)["fragments"]
    rest, errors = launched.communicate(timeout=PATIENCE_S)
    assert launched.returncode == 0, errors
    assert "ended well" in rest
    assert events(out, "*", "done")
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{address}fragments")


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM, reason="no chromium on PATH")
def test_the_page_of_a_run_answers_a_browser(
    program: Callable, scenario_file: Callable, tmp_path: Path
) -> None:
    """It says the value that the mouse is at, hides hospitals that are not chosen and enlarges
    figures, all by a script that its policy allows; without a script values are titles.
    """
    names = ", ".join(f"{{name: {name}, architecture: buffer}}" for name in "abc")
    file = scenario_file(f"name: shown\nhospitals: [{names}]\nalgorithm: {{name: placebo}}\n")
    launched = program("launch", file, "--on", "memory", "--out", tmp_path / "out", page=True)
    assert launched.wait(PATIENCE_S) == 0, launched.stderr.read()
    with browser(tmp_path / "profile") as page:
        page.open((tmp_path / "out" / "report.html").as_uri())
        until(lambda: page.has(".choose"))
        page.ask("const one = document.querySelector('[aria-labelledby=accuracy] [data-tip]')")
        page.ask("one.scrollIntoView({block: 'center'})")
        at = [page.ask(f"one.getBoundingClientRect().{side}") for side in ("x", "y")]
        page.do("Input.dispatchMouseEvent", type="mouseMoved", x=at[0] + 3, y=at[1] + 3)
        until(lambda: page.ask("!document.getElementById('tip').hidden"))
        assert page.ask("document.getElementById('tip').textContent").endswith(", stop 0: 0.0 %")
        shown = (
            "[...document.querySelectorAll('[aria-labelledby=table] tbody tr:not([hidden]) th')]"
        )
        assert page.ask(f"{shown}.map((one) => one.textContent).join()") == "a,b,c"
        page.ask("document.querySelector('.choose input').click()")
        assert page.ask(f"{shown}.map((one) => one.textContent).join()") == "b,c"
        assert page.has("[data-of=a].off")
        assert not page.has("[data-of=b].off")
        drawn = "document.querySelector('.zoom').parentElement.querySelector('svg')"
        wide = f"{drawn}.getBoundingClientRect().width"
        before = page.ask(wide)
        page.ask("document.querySelector('.zoom').click()")
        assert page.ask(wide) > before
        page.do("Emulation.setScriptExecutionDisabled", value=True)
        page.do("Page.reload")
        until(lambda: page.has("[aria-labelledby=accuracy] svg title"))
        assert not page.has(".choose")
