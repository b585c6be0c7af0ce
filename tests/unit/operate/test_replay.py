"""Sessions that a run kept are executed again: the same bytes, or what differs is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fedskd_sim.cli import main
from fedskd_sim.custody.archive import FOLDER, GIB, SessionKey, archived
from fedskd_sim.custody.files import pack_commit, pack_weights, read_commit, read_weights
from fedskd_sim.errors import CustodyForeign, FedskdError, InvalidValue, RunUnreadable
from fedskd_sim.messages import digest
from fedskd_sim.operate import replay as replaying
from fedskd_sim.operate import trust
from fedskd_sim.operate.replay import Replayed, replay
from fedskd_sim.records.files import read_records
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.scenario import load
from fedskd_sim.seeds import seed

TEXT = """
name: tiny
data: {{name: synthetic-skin, samples: 20, image_size: 16, classes: 2}}
hospitals:
  - {{name: a, architecture: {{name: {first}, options: {{width: 4}}}}}}
  - {{name: b, architecture: {{name: cnn-plain, options: {{width: 4}}}}}}
algorithm: {algorithm}
training: {{batch_size: 8, warmup_epochs: 1}}
{more}
"""
KEPT = "instruments: {keep_hops: 0.1}\n"
LEAVES = ("records", "weights", "predictions")
ALONE = "prediction: {model: averaged}\n" + KEPT
METHODS = {
    "fedskd": ("{name: fedskd, rounds: 1}", "instruments: {keep_hops: 1, changes: true}\n"),
    "traveller-first": ("{name: fedskd, preset: traveller-first, rounds: 2}", KEPT),
    "two-track": (
        "{name: fedskd, reconcile: two_track, rounds: 2}",
        "prediction: {model: mix, ensemble: true}\n" + KEPT,
    ),
    "mutual": ("{name: mutual, rounds: 1}", KEPT),
    "cyclic": ("{name: cyclic, rounds: 1}", KEPT),
    "sequential": ("{name: circulation, rounds: 1, schedule: {mode: sequential}}", KEPT),
    "local": ("{name: local, rounds: 2}", ALONE),
    "pooled": ("{name: pooled, rounds: 1}", KEPT),
    "fedavg": ("{name: fedavg, rounds: 2}", ALONE),
    "fedprox": ("{name: fedprox, mu: 0.1, rounds: 2}", KEPT),
    "fml": ("{name: fml, rounds: 2}", KEPT),
    "fedproto": ("{name: fedproto, rounds: 2}", KEPT),
    "fd": ("{name: fd, rounds: 2}", KEPT),
    "fedtgp": ("{name: fedtgp, rounds: 2}", KEPT),
    "fedgh": ("{name: fedgh, rounds: 2}", KEPT),
    "d-psgd": ("{name: d-psgd, rounds: 2}", KEPT),
    "def-kt": ("{name: def-kt, rounds: 2}", KEPT),
    "dfml": ("{name: dfml, rounds: 3}", KEPT),
    "ditto": ("{name: ditto, rounds: 2}", KEPT),
    "fedrep": ("{name: partial, rounds: 2, alternate: true}", KEPT),
    "moon": ("{name: moon, rounds: 2}", KEPT),
    "scaffold": ("{name: scaffold, rounds: 2}", KEPT),
}
OWN = """
from fedskd_sim import loss

@loss("more")
def more(step, *, weight=0.1):
    return weight * step.logits().square().mean()
"""


def carried_out(home: Path, text: str, code: str = "") -> Path:
    """Run a scenario in memory, and give the run folder."""
    home.mkdir(exist_ok=True)
    (home / "tiny.yaml").write_text(text, encoding="utf-8")
    if code:
        (home / "mine.py").write_text(code, encoding="utf-8")
    loaded, runtime = load(home / "tiny.yaml"), MemoryRuntime()
    made = folders.make(loaded, home / "run", "memory")
    runtime.launch(Order(loaded, "test", made))
    runtime.wait(lambda _: None)
    return made


def text(algorithm: str = "{name: fedskd, rounds: 2}", more: str = KEPT) -> str:
    averaging = "fedavg", "fedprox", "ditto", "partial", "moon", "scaffold", "d-psgd", "fedgh"
    alike = any(name in algorithm for name in averaging)
    first = "cnn-plain" if alike else "cnn-depthwise"
    return TEXT.format(algorithm=algorithm, more=more, first=first)


def sessions(run: Path) -> dict[str, bytes]:
    """Read all that was kept of sessions."""
    files = [file for file in (run / FOLDER).rglob("*") if file.is_file()]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds that kept its ten sessions."""
    return carried_out(tmp_path_factory.mktemp("whole"), text())


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def first(run: Path) -> tuple[SessionKey, Path]:
    """Say which session is executed first, and where it is kept."""
    kept = [one.key for name in "ab" for one in archived(run, name)]
    key = min(kept, key=lambda one: seed(1, "replay", *one))
    return key, run / FOLDER / key.host / f"{key.kind}-{key.round}-{key.hop}-{key.model}.json"


def change(file: Path, changed: Callable[[dict[str, Any]], object]) -> None:
    """Change a kept session, as somebody who knows its form would."""
    values = read_commit(file)
    changed(values)
    file.write_bytes(b"".join(pack_commit(values)))


def verify(run: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["verify", str(run), *more])


@pytest.mark.parametrize("method", METHODS)
def test_sessions_of_every_method_give_the_same_bytes_again(method: str, tmp_path: Path) -> None:
    """All sessions are kept, and all of them, executed again by a learner that is what the
    hospital's was, leave the records that stand in the run folder.
    """
    made = carried_out(tmp_path, text(*METHODS[method]))
    kept = len([*made.glob(f"{FOLDER}/*/*.json")])
    found = replay(made, kept)
    assert (found.executed, found.kept, found.sessions) == (kept, kept, kept)
    assert (found.differences, found.apart) == ((), ())
    assert kept >= 4


CHOICES = """training:
  batch_size: 4
  warmup_epochs: 1
  epochs: 4
  patience: 1
  accumulate: 2
  label_smoothing: 0.1
  optimiser: {name: sgd, learning_rate: 0.1, schedule: {name: cosine, over: run}}"""


@pytest.mark.parametrize("method", ["fedskd", "fedavg"])
def test_sessions_trained_by_choice_give_the_same_bytes_again(method: str, tmp_path: Path) -> None:
    """So do those of another optimiser whose rate falls over the run, with gathered gradients,
    and among them some that ended early.
    """
    chosen = text(f"{{name: {method}, rounds: 2}}").replace(
        "training: {batch_size: 8, warmup_epochs: 1}", CHOICES
    )
    made = carried_out(tmp_path, chosen)
    kept = len([*made.glob(f"{FOLDER}/*/*.json")])
    found = replay(made, kept)
    assert (found.executed, found.differences, found.apart) == (kept, (), ())
    records = "".join(one.read_text(encoding="utf-8") for one in made.glob("records/*.jsonl"))
    assert "ended early, after" in records
    assert "cosine to 0 of its peak over the run; gradients of 2 mini-batches" in records


def test_an_area_over_no_class_is_the_same_again(tmp_path: Path) -> None:
    """Where the validation data are of one class, the area is over none, and a session that is
    executed again says so as its record does.
    """
    written = text("{name: local, rounds: 1}").replace("name: b", "name: c")
    run = carried_out(tmp_path, written.replace("samples: 20", "samples: 60"))
    areas = [one.measures["auc"].weight for one in read_records(run) if one.host == "c"]
    assert areas[0] == 0.0
    assert replay(run, 4).differences == ()


def test_a_run_that_keeps_sessions_is_the_run_that_keeps_none(whole: Path, tmp_path: Path) -> None:
    """Records, weights and predictions are the same byte for byte; without the key nothing is
    kept.
    """
    plain = carried_out(tmp_path, text(more=""))
    files = [file for name in LEAVES for file in sorted(plain.glob(f"{name}/*"))]
    assert len(files) == 6
    for file in files:
        assert file.read_bytes() == (whole / file.relative_to(plain)).read_bytes()
    assert not (plain / FOLDER).exists()
    with pytest.raises(RunUnreadable, match="has kept no sessions") as caught:
        replay(plain, 1)
    assert "--set instruments.keep_hops=1" in caught.value.fix


def test_a_small_budget_keeps_sessions_of_the_whole_run(whole: Path, tmp_path: Path) -> None:
    """What is kept stays below the hospital's share, and is drawn by rank: the same whoever was
    executed first; a hospital that dies keeps the same ones, once.
    """
    method = "{name: local, rounds: 8}"
    share = 2.5 * max(one.size for one in archived(whole, "a"))
    budget = f"instruments: {{keep_hops: {2 * share / GIB:.12f}}}\n"
    made = carried_out(tmp_path / "one", text(method, budget))
    for name in "ab":
        taken = sum(file.stat().st_size for file in (made / FOLDER / name).iterdir())
        assert taken <= share
        kept = [one.key for one in archived(made, name)]
        assert 2 <= len(kept) < 9
    assert max(one.key.round for name in "ab" for one in archived(made, name)) > 4
    assert replay(made, 2).differences == ()
    dies = "faults: [{hospital: a, what: kill, round: 2}]\n"
    again = carried_out(tmp_path / "two", text(method, budget + dies))
    assert sessions(again) == sessions(made)


def test_a_larger_number_executes_the_same_ones_and_more(whole: Path) -> None:
    """Which sessions are drawn depends on the scenario's seed alone, which is told; no more can be
    asked for than were kept.
    """
    few, more = list[str](), list[str]()
    assert replay(whole, 2, tell=few.append).seed == load(whole / "scenario.yaml").scenario.seed
    replay(whole, 3, tell=more.append)
    assert [line.partition(": ")[2] for line in few] == [
        line.partition(": ")[2] for line in more[:2]
    ]
    with pytest.raises(InvalidValue, match="the run kept 10"):
        replay(whole, 11)


def test_what_was_kept_and_is_damaged_is_named(run: Path) -> None:
    """A file of weights that is gone, or of which a bit has changed, and a cut session: named by
    file, with what to do.
    """
    _, entry = first(run)
    blob = entry.parent / read_commit(entry)["arrived"]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    for spoil, code in (
        (lambda: blob.write_bytes(data), 51),
        (blob.unlink, 34),
        (lambda: entry.write_bytes(entry.read_bytes()[:-3]), 34),
    ):
        spoil()
        with pytest.raises(FedskdError) as caught:
            replay(run, 1)
        assert caught.value.exit_code == code
        assert "hops/ of the run folder from a copy" in caught.value.fix
        assert FOLDER in str(caught.value.where)


def test_a_name_in_what_was_kept_leads_nowhere(run: Path) -> None:
    """A session that says it is another than its name, or names weights elsewhere, is refused."""
    _, entry = first(run)
    before = entry.read_bytes()
    for key, value in (("arrived", "../../../x"), ("key", ["visit", 1, 1, "a", "../b"])):
        change(entry, lambda values, key=key, value=value: values.update({key: value}))
        with pytest.raises(RunUnreadable, match="no kept session"):
            replay(run, 1)
        entry.write_bytes(before)


def record_changed(run: Path, key: SessionKey, **changes: Any) -> int:
    """Change the record of a session; gives its line."""
    file = run / "records" / f"{key.host}.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    marks = [SessionKey(*(line[name] for name in SessionKey._fields)) for line in lines]
    one = lines[marks.index(key)]
    one["measures"] |= changes.pop("measures", {})
    one |= changes
    text_ = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    file.write_text(text_, encoding="utf-8")
    return marks.index(key) + 1


def test_a_record_that_no_session_gives_is_named(run: Path) -> None:
    """A measure that was changed, which nothing else in an unsealed folder shows, ends verify with
    its own exit code: whose session, both values, file and line; weights, too.
    """
    key, _ = first(run)
    assert key.kind in ("visit", "homecoming")
    line = record_changed(run, key, measures={"accuracy": [3.5, 4.0]})
    done = verify(run, "--replay", "2")
    assert done.exit_code == 60
    assert "is whole: 14 of 14 records" in done.output
    assert "2 of 10 sessions that were kept, of 10 in all, were executed again: 1 of them" in (
        done.output
    )
    assert f"not reproduced: {key}: accuracy is [" in done.output
    assert "the record says [3.5, 4.0]" in done.output
    assert f"records/{key.host}.jsonl:{line}" in done.output
    record_changed(run, key, digest_out="0" * 32)
    found = replay(run, 1)
    assert f"the record says {'0' * 32}" in str(found.differences[0])
    record_changed(run, key, digest_in="1" * 32)
    assert "the model that was kept has the digest" in str(replay(run, 1).differences[0])


def test_other_data_are_refused(run: Path) -> None:
    """The digest of the hospital's data is kept with the session."""
    scenario = run / "scenario.yaml"
    scenario.write_text(scenario.read_text().replace("samples: 20", "samples: 25"))
    with pytest.raises(CustodyForeign, match=r"the data of '[ab]' are not those of the run"):
        replay(run, 1)


def test_under_other_circumstances_weights_have_to_be_near(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a library or the device is another, bytes are not compared, and that is said; weights
    that are further off than arithmetic brings them are a difference all the same.
    """
    usual = replaying.circumstances
    monkeypatch.setattr(
        replaying, "circumstances", lambda *given: {**usual(*given), "torch": "9.9"}
    )
    found = replay(run, 3)
    assert found.differences == ()
    assert "all within 0.01 of the way" in str(found)
    assert "not compared byte for byte: torch was 2" in str(found)
    assert "and is 9.9" in str(found)
    _, entry = first(run)
    left = read_commit(entry)["left"]
    weights = read_weights(entry.parent / left, left)
    name = next(name for name, one in weights.items() if one.dtype == "float32")
    other = {**weights, name: weights[name]._replace(data=bytes(len(weights[name].data)))}
    (entry.parent / digest(other)).write_bytes(b"".join(map(bytes, pack_weights(other))))
    change(entry, lambda values: values.update(left=digest(other)))
    assert "the weights that were kept" in str(replay(run, 1).differences[0])
    line = run / "records" / f"{entry.parent.name}.jsonl"
    line.write_text(line.read_text().replace(left, digest(other)))
    assert "its weights are off by" in str(replay(run, 1).differences[0])


def test_code_of_somebody_else_is_run_when_they_say_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As resume does; plain verify runs none, and what runs is said."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own = text("{name: fedskd, rounds: 1, loss: more}", KEPT + "code: [mine.py]\n")
    made = carried_out(tmp_path, own, OWN)
    assert verify(made).exit_code == 0
    refused = verify(made, "--replay", "1")
    assert refused.exit_code == 34
    assert "brings code that was not launched by you: mine.py" in refused.output
    code = load(made / "scenario.yaml").code
    done = verify(made, "--replay", "6", "--trust-code", code.digest)
    assert done.exit_code == 0, done.output
    assert "runs the scenario's own code: mine.py" in done.output
    assert "6 of 6 sessions" in done.output
    trust.note(code)
    assert replay(made, 1).differences == ()
    assert verify(made, "--trust-code", code.digest).exit_code == 2


def test_what_is_not_there_is_said(run: Path) -> None:
    """Where the folder of kept sessions did not come along, that is told apart from a run that
    kept none, and from a budget that was too small.
    """
    shutil.rmtree(run / FOLDER)
    with pytest.raises(RunUnreadable, match="are not in") as caught:
        replay(run, 1)
    assert "claims" in caught.value.fix
    (run / FOLDER / "a").mkdir(parents=True)
    with pytest.raises(RunUnreadable, match=r"0\.1 GiB are too few for one"):
        replay(run, 1)


def test_the_outcome_is_one_line() -> None:
    """How many of how many were executed, with which result and seed."""
    line = "2 of 5 sessions that were kept, of 9 in all, were executed again: all the same bytes"
    assert str(Replayed(2, 5, 9, 7)) == f"{line} (drawn with seed 7)"
