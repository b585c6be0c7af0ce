"""The live page: who gets it, what it reads, and that it follows a run folder while it grows."""

from __future__ import annotations

import http.client
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from test_report import story

from fedskd_sim import launch
from fedskd_sim.errors import PortInUse, RunUnreadable
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Logged
from fedskd_sim.records import Measure, Timing, to_line
from fedskd_sim.results.charts import Cells, Chart, heat, lines
from fedskd_sim.results.listing import INTERRUPTED, runs_in
from fedskd_sim.results.live.page import LivePage
from fedskd_sim.results.live.reading import RunReader, Whereabouts, trouble_of
from fedskd_sim.results.live.ring import words_of
from fedskd_sim.results.live.server import LiveServer, WatchedRuns
from fedskd_sim.results.report import summarise
from fedskd_sim.results.tables import as_json
from fedskd_sim.results.teaching import Stops, taught

SCENARIO = """\
name: small
hospitals:
  - {name: north, architecture: buffer}
  - {name: east, architecture: buffer}
  - {name: south, architecture: buffer}
algorithm: {name: placebo, rounds: 2}
"""
MINE = ("north", "east", "south")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that ended well."""
    place = tmp_path_factory.mktemp("live")
    (place / "small.yaml").write_text(SCENARIO, encoding="utf-8")
    launch(place / "small.yaml", on="memory", out=place / "run")
    return place / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "run"))


@pytest.fixture
def serve() -> Iterator:
    """Serve folders, each until the test ends."""
    servers = []

    def begin(folder: Path) -> LiveServer:
        server = LiveServer(WatchedRuns(folder))
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server: LiveServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def fragments(page: LivePage, have: dict[str, str] | None = None) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(page.answer(have or {}))["fragments"]
    return found


def tags(found: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: one["tag"] for name, one in found.items()}


def test_nobody_without_the_token_gets_anything(run: Path, serve) -> None:
    """A wrong token, none, or one with something behind it is answered 403, whatever is asked."""
    server = serve(run)
    token = server.watched.token
    assert len(token) >= 32
    for wrong in ("/", "/fragments", "/wrong/", f"/{token}x/", f"/x/{token}/", "/live.js", "//"):
        assert ask(server, wrong)[0] == 403, wrong
    assert ask(server, f"/{token}/")[0] == 200


def test_a_name_of_another_host_is_refused(run: Path, serve) -> None:
    """DNS rebinding: the right token under a foreign name, or another port, is answered 403."""
    server = serve(run)
    path = f"/{server.watched.token}/"
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1:1", ""):
        assert ask(server, path, Host=host)[0] == 403, host
    assert ask(server, path, Host=f"localhost:{server.server_port}")[0] == 200


def test_it_listens_on_this_machine_alone_and_only_reads(run: Path, serve) -> None:
    """The address is 127.0.0.1; other methods than GET and HEAD are not known, nothing in the
    folder is written, and no answer allows a request elsewhere.
    """
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    server = serve(run)
    path = f"/{server.watched.token}/"
    assert server.server_address[0] == "127.0.0.1"
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, path, method)[0] == 501
    assert ask(server, path, "HEAD") == (200, "")
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"(https?:)?//(?!www\.w3\.org)", re.sub(r"base64,[^\"]*", "", page))
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_nothing_outside_the_run_folder_can_be_asked_for(run: Path, serve, tmp_path: Path) -> None:
    """Neither steps upwards, in whatever writing, nor files of the run, nor a link in its place."""
    (tmp_path / "secret").write_text("secret")
    alone, listed = serve(run), serve(run.parent)
    assert ask(alone, f"/{alone.watched.token}/")[0] == 200
    assert ask(listed, f"/{listed.watched.token}/runs/run/")[0] == 200
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(tmp_path / "secret")
    for server, root in ((alone, ""), (listed, "runs/run/")):
        token = server.watched.token
        for path in (
            "../../secret", "%2e%2e/%2e%2e/secret", "..%2f..%2fsecret", "records/north.jsonl",
            "scenario.yaml", "report.html", "report.html/../secret", "live.css",
        ):  # fmt: skip
            status, text = ask(server, f"/{token}/{root}{path}")
            assert status in (403, 404), path
            assert "secret" not in text.replace(path, "")
    for path in ("runs/..%2f..%2f", "runs/..%2f/", "runs/%2e%2e/", "runs//etc/", "runs/other/"):
        assert ask(listed, f"/{listed.watched.token}/{path}")[0] == 404, path


def test_a_folder_with_a_link_is_not_watched(run: Path, tmp_path: Path) -> None:
    """A stranger's folder may lead elsewhere; what becomes a link later is not read either."""
    page = LivePage(run)
    fragments(page)
    outside = tmp_path / "outside.jsonl"
    outside.write_text((run / "records" / "east.jsonl").read_text())
    (run / "records" / "west.jsonl").symlink_to(outside)
    assert "west" in fragments(page)["troubles"]["html"]
    with pytest.raises(RunUnreadable, match="is a link"):
        LivePage(run)
    shutil.rmtree(run / "records")
    (run / "records").symlink_to(tmp_path)
    with pytest.raises(RunUnreadable, match="is a link"):
        fragments(page)


def test_fragments_change_when_the_records_do(run: Path) -> None:
    """A browser gets what it does not have, nothing twice, and in the end what a reader of the
    whole folder gets.
    """
    texts = {file: file.read_text() for file in run.glob("*/*.jsonl")}
    (run / "outcome.json").unlink()
    for file, text in texts.items():
        file.write_text("".join(text.splitlines(keepends=True)[:4]))
    page = LivePage(run)
    first = fragments(page)
    assert {"head", "ring", "hospitals", "curves", "matrix"} <= first.keys()
    assert fragments(page, tags(first)).keys() <= {"head"}
    for file, text in texts.items():
        with file.open("a") as stream:
            stream.write(text[file.stat().st_size :])
    page.seen.state = "ended well"  # nothing is due before the end
    second = fragments(page, tags(first))
    assert {"ring", "hospitals", "matrix"} <= second.keys()
    whole = fragments(LivePage(run))
    assert {name: second[name] for name in ("ring", "hospitals", "matrix")} == {
        name: whole[name] for name in ("ring", "hospitals", "matrix")
    }


def test_a_torn_line_is_read_when_it_is_whole(run: Path) -> None:
    """Half a line is not there yet; it counts once, when its end has come."""
    file = run / "records" / "east.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    seen = RunReader(run)
    seen.look(5)
    before = seen.gathered.counts.sessions + len(seen.gathered.kept)
    with file.open("ab") as stream:
        stream.write(whole[-10:])
    seen.look(5)
    assert seen.gathered.counts.sessions + len(seen.gathered.kept) > before
    assert not seen.troubles


def test_a_run_that_was_resumed_is_read_anew(run: Path) -> None:
    """Files that have become shorter begin again: nothing counts twice."""
    page = LivePage(run)
    fragments(page)
    counts = replace(page.seen.gathered.counts)
    for file in run.glob("records/*.jsonl"):
        kept = file.read_text().splitlines(keepends=True)
        file.write_text("".join(kept[:2]))
    fragments(page)
    assert page.seen.gathered.counts.sessions == 6
    for file in run.glob("records/*.jsonl"):
        file.write_text("".join(to_line(one) + "\n" for one in ()))
    fragments(page)
    assert page.seen.gathered.counts.sessions == 0
    assert counts.sessions > 6


def test_a_damaged_line_is_told_and_the_rest_is_shown(run: Path) -> None:
    """The page says which file it is, shows markup in it as text, and goes on with the others."""
    file = run / "records" / "east.jsonl"
    file.write_text('{"<b>": 1}\n' + file.read_text())
    refused = events.Refused("<script>alert(1)</script>", "a bad frame")
    line = {"time": 1.7e9, "hospital": "north", **events.fields_of(refused)}
    with (run / "logs" / "north.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    page = LivePage(run)
    told = fragments(page)
    assert "records/east.jsonl: damaged line" in told["troubles"]["html"]
    assert "refused what &lt;script&gt;" in told["troubles"]["html"]
    assert "<script>" not in told["troubles"]["html"]
    assert page.seen.gathered.counts.sessions > 0


def test_a_run_that_has_ended_says_so_and_asks_no_more(run: Path, serve) -> None:
    """Its state, how long it took and its report are there; the browser is told to stop asking."""
    server = serve(run)
    token = server.watched.token
    assert not server.watched.told_end
    answer = json.loads(ask(server, f"/{token}/fragments")[1])
    assert answer["going"] is False
    assert "ended well" in answer["fragments"]["head"]["html"]
    assert server.watched.told_end
    assert ask(server, f"/{token}/report.html") == (200, (run / "report.html").read_text())


def test_a_run_of_which_no_process_is_left_is_called_interrupted(run: Path) -> None:
    """Nobody has noted its end, and its launcher is gone."""
    noted = json.loads((run / "outcome.json").read_text())
    (run / "outcome.json").write_text(json.dumps({**noted, "state": "going", "ended": 0.0}))
    assert LivePage(run).seen.going is False
    assert INTERRUPTED in fragments(LivePage(run))["head"]["html"]


def test_runs_of_a_folder_are_a_list(run: Path, serve, tmp_path: Path) -> None:
    """Each with state and score and a link to its page; a damaged one says why."""
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "scenario.yaml").write_text("name: [\n")
    shutil.copytree(run, tmp_path / "runs" / "deep" / "runs" / "fedskd" / "seed-1")
    found = {one.place: one for one in runs_in(tmp_path / "runs")}
    assert found.keys() == {"run", "bad", "deep/runs/fedskd/seed-1"}
    assert found["run"].state == "ended well"
    assert found["run"].algorithm == "placebo"
    assert not math.isnan(found["run"].own)
    assert found["bad"].state.startswith("cannot be read: ")
    server = serve(tmp_path / "runs")
    token = server.watched.token
    page = ask(server, f"/{token}/")[1]
    links = re.findall(r'href="(runs/[^"]*)"', page)
    assert sorted(links) == ["runs/deep%2Fruns%2Ffedskd%2Fseed-1/", "runs/run/"]
    for link in links:
        assert ask(server, f"/{token}/{link}")[0] == 200
        assert json.loads(ask(server, f"/{token}/{link}fragments")[1])["fragments"]
    with pytest.raises(RunUnreadable, match="no folder"):
        runs_in(tmp_path / "nothing")


def test_two_runs_of_a_list_are_shown_side_by_side(run: Path, serve, tmp_path: Path) -> None:
    """A form chooses them, without a script; each is a page of its own that a frame may hold.
    Anything but two runs of the list is refused.
    """
    shutil.copytree(run, tmp_path / "runs" / "deep" / "again")
    server = serve(tmp_path / "runs")
    root = f"/{server.watched.token}/"
    assert len(re.findall(r'type="checkbox" name="run" value="', ask(server, root)[1])) == 2
    status, page = ask(server, f"{root}pair?run=run&run=deep%2Fagain")
    assert status == 200
    frames = re.findall(r'<iframe src="([^"]*)"', page)
    assert frames == ["runs/run/", "runs/deep%2Fagain/"]
    assert all(ask(server, root + frame)[0] == 200 for frame in frames)
    for query, code in (("run=run", 400), ("", 400), ("run=run&run=..%2Frun", 404)):
        assert ask(server, f"{root}pair?{query}")[0] == code
    assert ask(serve(run), "/pair")[0] == 403


def test_a_port_that_is_taken_is_named(run: Path, serve) -> None:
    """The error has its own exit code and says what to do."""
    with pytest.raises(PortInUse, match="is in use"):
        LiveServer(WatchedRuns(run), serve(run).server_port)


def test_a_model_is_where_the_logs_say(run: Path) -> None:
    """It is at a host from its turn on, on its way when the host is through, waits at the next
    when that has acknowledged it, and what is older than known moves nothing.
    """
    for file in run.glob("*/*.jsonl"):
        file.write_text("")
    seen = RunReader(run)

    def log(event: events.LogEvent, at: float) -> str:
        seen._take_events([line(event, "east", at)], "")
        return words_of("north", seen.models["north"])

    def line(event: events.LogEvent, host: str, at: float) -> bytes:
        return json.dumps({"time": at, "hospital": host, **events.fields_of(event)}).encode()

    assert words_of("north", seen.models["north"]) == "north is at home"
    assert log(events.Arrived(1, 1, "north", "visit"), 1.0) == "north is at east"
    finished = events.Finished(1, 1, "north", "visit", "trained", 0.5)
    assert log(finished, 2.0) == "north is on its way to south"
    sent = Timing("transfer", "east", "north", 1, 2, 1.0, 2.0, bytes=3, to="south")
    seen._take_timings([to_line(sent).encode()], "east")
    assert words_of("north", seen.models["north"]) == "north waits at south"
    assert log(finished, 3.0) == "north waits at south"
    seen._take_events([line(events.Arrived(1, 2, "north", "visit"), "south", 4.0)], "")
    assert seen.models["north"] == Whereabouts("south", rank=(1, 2, 1))
    log(events.FaultEvent("kill", 1, 2), 5.0)
    assert "on purpose" in seen.away["east"]
    log(events.WentOn(3, 9), 6.0)
    assert not seen.away
    seen._take_events([line(events.LostEvent(2, {"south": 1}), "", 7.0)], "")
    assert seen.lost == {"south"}
    assert words_of("north", seen.models["north"]) == "north is at south"
    log(events.Finished(2, 1, "north", "visit", "trained", 0.5), 8.0)
    assert words_of("north", seen.models["north"]) == "north is on its way to north"


def test_what_went_wrong_has_the_words_of_the_log() -> None:
    """Faults, deaths, refusals, errors and losses are told; what is usual is not."""
    said = [
        (events.FaultEvent("slow", 2, 1, 3.0), "slow, on purpose, round 2, hop 1, for 3 s"),
        (events.Restarted(1, "killed by signal 9"), "started again, time 1 in a row: killed by"),
        (events.Refused("east", "no key"), "refused what east sent: no key"),
        (
            events.Error(31, own=True, message="no data", fix="bring it"),
            "exit code 31: no data; fix",
        ),
        (events.LostEvent(2, {"south": 0}), "the ring goes on without south"),
        (events.EndEvent(3, "a hospital failed"), "the run has ended with exit code 3"),
    ]
    for what, text in said:
        found = trouble_of(Logged(1.0, "north", what))
        assert found is not None
        assert found.text.startswith(text)
    for usual in (events.Starting(), events.EndEvent(0, ""), events.Pod("a", "running", "", "n")):
        assert trouble_of(Logged(1.0, "north", usual)) is None


def test_what_was_taught_is_drawn_from_the_records() -> None:
    """Distances by level and stop, what each stop changed of the resident, and what a traveller
    keeps at home; a level that was not measured is not drawn.
    """
    measures = {"similarity_batch": Measure(2.0, 4.0), "resident_accuracy": Measure(3.0, 4.0)}
    records = [
        replace(one, measures={**one.measures, **measures}) if one.kind == "visit" else one
        for one in story(MINE, rounds=2)
    ]
    summary = summarise(records, MINE)
    found = taught(summary)
    assert [one.title for one in found.levels] == ["batch level"]
    assert "distance" in found.levels[0].svg
    assert "north, round 0.333: 0.5" in found.levels[0].svg
    stops = Stops.of(summary.ways, MINE)
    visits = ~stops.home & (stops.stop % 3 == 2)
    assert np.allclose(stops.change[visits], 0.0)
    assert [*as_json(summary)["memory"]["models"]] == sorted(
        summary.memory.models, key=[*summary.memory.models].index
    )


def test_few_cells_are_named_and_many_are_one_picture() -> None:
    """Values can be read by pointing, or where there is room; a map of thousands stays small."""
    small = heat(Cells("t", ("a<", "b"), ("1", "2"), "x", "points", signed=True), np.eye(2) - 0.25)
    assert "<title>a&lt;, 1: +0.8 points</title>" in small
    assert small.count("<title>") == 4 + 2
    values = np.linspace(0, 1, 40 * 100).reshape(40, 100)
    many = heat(Cells("t", [f"h{n}" for n in range(40)], ["1"] * 100, "x", "%"), values)
    assert many.count("<image") == 1
    assert len(many) < 30_000
    assert heat(Cells("t", ("a",), ("1",), "x", "%"), np.full((1, 1), np.nan)) == ""


def test_lines_leave_out_what_is_missing() -> None:
    """NaN is no point; without a value nothing is drawn; many lines are a mean and a range."""
    x = np.arange(4.0)
    one = lines(Chart("t", "round", "percent", 100), {"a": (x, np.array([0.1, np.nan, 0.3, 0.4]))})
    assert one.count("<circle") == 3
    assert "a, round 3: 40" in one
    assert lines(Chart("t", "x", "y"), {"a": (x, np.full(4, np.nan))}) == ""
    many = lines(Chart("t", "x", "y"), {f"m{n}": (x, x + n) for n in range(9)})
    assert many.count("<polyline") == many.count("<polygon") == 1
