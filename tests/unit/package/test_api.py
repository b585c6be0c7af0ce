"""The program as a library: its names, runs as tables, tables as files, and the program in
examples/.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import random
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fedskd_sim
from fedskd_sim import Cluster, Run, launch, load, read_run, resume, try_out
from fedskd_sim.cli import main
from fedskd_sim.errors import (
    ClusterUnavailable,
    FedskdError,
    InvalidValue,
    LibraryMissing,
    OutputNotEmpty,
    OutputNotWritable,
    RunUnreadable,
    ScenarioSyntaxError,
)
from fedskd_sim.observe.events import Arrived, Logged
from fedskd_sim.observe.words import short_path
from fedskd_sim.records.files import read_records
from fedskd_sim.results import export
from fedskd_sim.results.export import FORMS, write
from fedskd_sim.results.report import read_predictions
from fedskd_sim.results.runs import TABLES, Row

ROOT = Path(__file__).parents[3]
FIGURES = ("matrix", "accuracy", "drift", "confusion", "roc", "calibration", "timeline")
SMALL = """\
name: small
data: {name: synthetic-skin, samples: 60, image_size: 16, classes: 3}
hospitals:
  - {name: b, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: a, architecture: {name: cnn-plain, options: {width: 4}}}
algorithm: {name: fedskd, rounds: 1}
training: {warmup_epochs: 1}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    return launch(folder / "small.yaml", on="memory", out=folder / "run")


def test_a_run_is_shown_by_its_folder(small: Run) -> None:
    """A notebook that ends in a run shows a line and not the whole scenario."""
    assert repr(small) == f"Run(folder={small.folder!r})"


def test_changes_are_texts_of_their_own() -> None:
    """Whoever gives a list of them is told how to give them."""
    with pytest.raises(InvalidValue, match="not list") as caught:
        load("quickstart", ["training.epochs=3"])  # type: ignore[arg-type]
    assert 'load("quickstart", "training.epochs=3", "seed=2")' in caught.value.fix


def test_a_run_folder_is_no_scenario_and_holds_one(small: Run) -> None:
    """Whoever gives a run folder in place of a scenario is told the file within."""
    with pytest.raises(ScenarioSyntaxError) as caught:
        load(small.folder)
    assert caught.value.fix.endswith(f"such as {small.folder / 'scenario.yaml'}")
    assert load(small.folder / "scenario.yaml").scenario == small.scenario


PUBLIC = """
AddedLoss AlgorithmKeys AllReduceKeys AllReduceLearner Architecture AveragingKeys AveragingLearner
CirculatingLearner CirculationKeys Cluster Cohort Comparison Geometry GossipKeys GossipLearner Kept
Learner LearnerState LocalLearner Loss NamedArchitecture Output Preview Reconciled Run Schedule
Session SessionModels Site Stop Taps Total TrainingStep __version__ algorithm architecture
channel_means compare divergence export files_below flat install install_flat launch load loss
read_run reader resume snapshot try_out
"""


def test_the_public_names_are_pinned() -> None:
    """A name that is added or goes is a change for users; type checkers see the same names."""
    names = PUBLIC.split()
    assert fedskd_sim.__all__ == dir(fedskd_sim) == names
    assert all(getattr(fedskd_sim, name) for name in names)
    stub = ast.parse((ROOT / "fedskd_sim" / "__init__.pyi").read_text(encoding="utf-8"))
    homes = {
        name.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert homes == fedskd_sim._HOMES
    (told,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(told) == names
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        _ = fedskd_sim.lunch


def test_importing_the_package_imports_nothing_else() -> None:
    """The package and the reading of a scenario need neither PyTorch nor numpy."""
    code = "import sys, fedskd_sim; few = len(sys.modules); fedskd_sim.load('quickstart');"
    code += (
        "sys.exit(few > 200 or any(name in sys.modules for name in ('torch', 'numpy', 'zmq', "
        "'pandas')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 0
    )


@pytest.mark.slow
def test_a_run_is_what_the_command_line_leaves(small: Run, tmp_path: Path, cli: Callable) -> None:
    """Records are the same bytes, and the folder has the same files."""
    done = cli(
        "launch", small.folder.parent / "small.yaml", "--on", "memory", "--out", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    files = {
        file.relative_to(tmp_path / "run")
        for file in (tmp_path / "run").rglob("*")
        if file.is_file()
    }
    assert files == {
        file.relative_to(small.folder) for file in small.folder.rglob("*") if file.is_file()
    }
    for name in ("a", "b"):
        record = Path("records") / f"{name}.jsonl"
        assert (small.folder / record).read_bytes() == (tmp_path / "run" / record).read_bytes()


def test_tables_are_plain_and_say_what_the_records_say(small: Run) -> None:
    """Every table is JSON, has the same columns in every row, and its numbers are the records'
    and the predictions' own.
    """
    run = read_run(str(small.folder))
    for name in TABLES:
        rows = run.table(name)
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows
        assert len({tuple(row) for row in rows}) == 1
    records = read_records(small.folder)
    assert [row["digest_out"] for row in run.hops] == [record.digest_out for record in records]
    assert sum(row["sum"] for row in run.measures) == sum(
        one.sum for record in records for one in record.measures.values()
    )
    assert [(row["model"], row["host"]) for row in run.matrix] == [
        ("b", "b"),
        ("b", "a"),
        ("a", "b"),
        ("a", "a"),
    ]
    report = json.loads((small.folder / "report.json").read_text())["metrics"]["auc"]["matrix"]
    assert [row["auc"] for row in run.matrix] == [value for row in report for value in row]
    assert all(row["seconds"] == row["end"] - row["start"] for row in run.timings)
    found = read_predictions(small.folder)
    assert len(run.predictions) == sum(
        len(here.models) * len(here.samples) for here in found.values()
    )
    assert len({(row["host"], row["subject"]) for row in run.predictions}) == sum(
        len(here.samples) for here in found.values()
    )
    right = [
        row["predicted"] == row["label"]
        for row in run.predictions
        if (row["model"], row["host"]) == ("b", "a")
    ]
    assert sum(right) / len(right) == pytest.approx(run.matrix[1]["accuracy"])


def test_a_table_is_a_frame(small: Run) -> None:
    """Where pandas is installed a table is a DataFrame of the same rows."""
    pandas = pytest.importorskip("pandas")
    frame = small.frame("matrix")
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == [dict(row) for row in small.matrix]
    with pytest.raises(InvalidValue, match="no table 'hop'") as caught:
        small.frame("hop")
    assert "hops" in caught.value.fix


def test_a_run_shows_itself_in_a_notebook(small: Run) -> None:
    """As HTML with its table, matrix and accuracy; a name in it is text."""
    html = small._repr_html_()
    assert html.count("<svg") == 2
    assert "balanced accuracy" in html
    assert "small (seed 1): 2 hospitals" in html
    assert "<script" not in html


def test_a_run_has_figures(small: Run) -> None:
    """Each has the axes of the field; what was not measured is an error that names what was."""
    axes = {
        "accuracy": ("", "accuracy in percent"),
        "drift": ("", "drift in percent"),
        "matrix": ("test data of", "model of"),
        "confusion": ("predicted class", "true class"),
        "roc": ("false positive rate, percent", "true positive rate, percent"),
        "calibration": ("confidence, percent", "accuracy, percent"),
        "timeline": ("seconds from the first start", ""),
    }
    for name, (below, beside) in axes.items():
        drawn = getattr(small.plot, name)().axes[0]
        assert drawn.get_xlabel().startswith(below), name
        assert drawn.get_ylabel() == beside, name
    with pytest.raises(InvalidValue, match="nothing to draw as dilution") as caught:
        small.plot.dilution()
    assert caught.value.fix == f"what can be drawn: {', '.join([*FIGURES])}"


def test_an_interactive_python_shows_how_far_a_run_is(tmp_path: Path) -> None:
    """A line for each tenth on standard error; a script is shown nothing."""
    code = "import sys; sys.ps1 = '> '\n" * 2
    call = "from fedskd_sim import launch\nlaunch('placebo-ok', on='memory', out={!r})\n"
    told = []
    for place, first in (("shown", code), ("silent", "")):
        program = first + call.format(str(tmp_path / place))
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
        )
        told.append(done.stderr)
    assert "placebo-ok: 30 of 30 stops\n" in told[0]
    assert 2 <= told[0].count(" stops") <= 10
    assert told[1] == ""


@pytest.mark.parametrize(
    ("library", "extra", "use"),
    [
        ("pandas", "export", lambda run, _: run.frame("hops")),
        ("pyarrow", "export", lambda run, to: write(run, "parquet", to)),
        ("tensorboard", "tensorboard", lambda run, to: write(run, "tensorboard", to)),
        ("mlflow", "mlflow", lambda run, to: write(run, "mlflow", to)),
    ],
)
def test_a_missing_library_is_named(
    library: str,
    extra: str,
    use: Callable,
    small: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an optional library the error names it and the extra that has it."""
    for loaded in (library, *(name for name in sys.modules if name.startswith(f"{library}."))):
        monkeypatch.setitem(sys.modules, loaded, None)
    with pytest.raises(LibraryMissing, match=f"{library} is not installed") as caught:
        use(small, tmp_path)
    assert f"fedskd-sim[{extra}]" in caught.value.fix


def test_csv_can_be_read_back(small: Run, tmp_path: Path) -> None:
    """Every value of every table stands in the files, exactly; what is missing is empty."""
    done = CliRunner().invoke(main, ["export", str(small.folder), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for name in TABLES:
        with (tmp_path / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            read = [*csv.DictReader(stream)]
        assert read == [
            {key: "" if cell is None else str(cell) for key, cell in row.items()}
            for row in small.table(name)
        ]
        assert f"{name}.csv: {len(read)} rows" in done.output


@pytest.mark.parametrize("group", [20_000, 7])
def test_parquet_can_be_read_back(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """Parquet keeps the rows with their types, in however many parts they are written."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("fedskd_sim.results.export.ROW_GROUP", group)
    write(small, "parquet", tmp_path / "new")
    for name in TABLES:
        assert parquet.read_table(tmp_path / "new" / f"{name}.parquet").to_pylist() == small.table(
            name
        )


def test_parquet_takes_numbers_that_the_first_rows_miss(tmp_path: Path) -> None:
    """A column that is empty in all rows of the first part is one of numbers."""
    parquet = pytest.importorskip("pyarrow.parquet")
    group, file = export.ROW_GROUP, tmp_path / "t.parquet"
    rows = [{"a": "x", "b": None}] * group + [{"a": "y", "b": 0.5}]
    assert export._parquet(file, rows) == group + 1
    assert parquet.read_table(file).to_pylist() == rows


def curves(run: Run) -> Iterator[tuple[tuple[str, str, int], Row]]:
    """Give model, name and step of every measure, and its row."""
    for row in run.measures:
        if row["value"] is not None:
            hospital = f"/{row['host']}" if row["kind"] in ("evaluation", "ensemble") else ""
            stop = int(row["round"] or 0) * len(run.scenario.members) + int(row["hop"] or 0)
            yield (row["model"], f"{row['kind']}/{row['measure']}{hospital}", stop), row


def test_tensorboard_reads_every_measure(small: Run, tmp_path: Path) -> None:
    """TensorBoard's own reader finds each model's measures at its stops; nothing is written twice
    into one folder.
    """
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    write(small, "tensorboard", tmp_path)
    found = set()
    for model in small.scenario.members:
        events = EventAccumulator(
            str(tmp_path / "tensorboard" / model), {"tensors": 0, "scalars": 0}
        )
        events.Reload()
        for tag in events.Tags()["tensors"]:
            for one in events.Tensors(tag):
                found.add((model, tag, one.step, one.tensor_proto.float_val[0]))
    assert found == {
        (*where, struct.unpack("f", struct.pack("f", row["value"]))[0])
        for where, row in curves(small)
    }
    with pytest.raises(OutputNotEmpty):
        write(small, "tensorboard", tmp_path)


def test_what_a_sum_brings_is_exported_as_the_hosts() -> None:
    """While parts of a sum go round, what is measured is the host's own model: its curve has it,
    after the session of that round and before that of the next one.
    """
    measured = [
        ("alone", "a", "a", 1, 0), ("gather", "a", "c", 1, 4), ("alone", "a", "a", 2, 0),
        ("evaluation", "b", "a", 3, 1),
    ]  # fmt: skip
    columns = ("kind", "host", "model", "round", "hop")
    told = [{**dict(zip(columns, one, strict=True)), "measure": "auc", "value": 0.5}
            for one in measured]  # fmt: skip
    scenario = SimpleNamespace(
        members=("a", "b", "c"), algorithm=SimpleNamespace(pattern="all_reduce")
    )
    run = SimpleNamespace(scenario=scenario, rows=lambda _: told)
    assert dict(export._curves(run)) == {
        "a": [
            ("alone/auc", 0.5, 5),
            ("gather/auc", 0.5, 9),
            ("alone/auc", 0.5, 10),
            ("evaluation/auc/b", 0.5, 16),
        ]
    }


@pytest.mark.filterwarnings("default")  # MLflow uses what its libraries have deprecated
def test_mlflow_has_every_measure(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of MLflow for each model has its measures at its stops; nothing is logged twice. Runs
    only where MLflow is installed.
    """
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write(small, "mlflow", tmp_path)
    there = client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = there.get_experiment_by_name(small.scenario.name).experiment_id
    found = {
        (one.data.tags["fedskd_sim.model"], name, metric.step, metric.value)
        for one in there.search_runs([experiment])
        for name in one.data.metrics
        for metric in there.get_metric_history(one.info.run_id, name)
    }
    assert found == {(*where, row["value"]) for where, row in curves(small)}
    with pytest.raises(OutputNotEmpty):
        write(small, "mlflow", tmp_path)


def test_what_cannot_be_exported(small: Run, tmp_path: Path) -> None:
    """No run folder, and no place to write to, are errors with codes of their own; the command
    offers every form.
    """
    with pytest.raises(RunUnreadable, match="is not a run folder"):
        read_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable):
        write(small, "csv", tmp_path / "file")
    assert [*FORMS] == [*main.commands["export"].params[1].type.choices]


def test_a_library_says_what_it_cannot_do(tmp_path: Path) -> None:
    """Another runtime, a cluster or a scenario that is not there, and a run that fails are the
    errors of the command line.
    """
    with pytest.raises(InvalidValue, match="nothing runs on 'slurm'"):
        launch("placebo-ok", on="slurm")
    with pytest.raises(ClusterUnavailable):
        launch("placebo-ok", on="kubernetes", cluster=Cluster(context="none of that name"))
    with pytest.raises(InvalidValue, match="not for a cluster"):
        try_out("placebo-ok", on="kubernetes")
    with pytest.raises(FedskdError, match="cannot read"):
        load(tmp_path / "no.yaml")
    with pytest.raises(FedskdError) as caught:
        launch(load("placebo-abort"), on="memory", out=tmp_path / "run")
    assert caught.value.exit_code == 42
    assert (tmp_path / "run" / "report.json").is_file()
    place = short_path(tmp_path / "run" / "report.html")
    assert f"report: {place}" in caught.value.__notes__


def test_a_run_that_was_stopped_goes_on_to_the_same_records(tmp_path: Path) -> None:
    """A script that is interrupted resumes its run; one that has ended well is not run again."""

    def interrupt(event: Logged) -> None:
        if isinstance(event.what, Arrived):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch("placebo-ok", out=tmp_path / "run", watch=interrupt)
    run = resume(tmp_path / "run")
    whole = launch("placebo-ok", on="memory", out=tmp_path / "whole")
    assert run.hops == whole.hops
    assert [read_run(run.folder).hops] == [whole.hops]
    with pytest.raises(RunUnreadable, match="has ended well"):
        resume(run.folder)


def test_a_short_run_forecasts_the_whole(tmp_path: Path) -> None:
    """It runs two rounds and tells what the command line prints."""
    found = try_out("placebo-ok", on="memory", out=tmp_path / "short")
    assert found.good
    assert found.at_least <= found.usual <= found.at_most
    assert [*found.lines()][-1] == "canary: good"
    assert (tmp_path / "short" / "seal.json").is_file()


def test_a_program_needs_no_guard(tmp_path: Path) -> None:
    """A script that launches processes at its top level launches one run, and is itself again
    afterwards.
    """
    program = tmp_path / "program.py"
    lines = [
        "import sys",
        "from fedskd_sim import launch",
        "me = sys.modules['__main__']",
        "run = launch('placebo-ok', out='run')",
    ]
    program.write_text(
        "\n".join([*lines, "print(len(run.hops), sys.modules['__main__'] is me)"]), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "30 True\n"), done.stderr


def test_two_threads_may_launch_at_the_same_time(tmp_path: Path) -> None:
    """Whichever of two runs of one program ends first, the program is set aside for both, and is
    itself again afterwards.
    """
    program = tmp_path / "program.py"
    lines = [
        "import sys",
        "from threading import Event, Thread",
        "from fedskd_sim import launch",
        "me, began, inside, over = sys.modules['__main__'], Event(), Event(), Event()",
        "aside = lambda: sys.modules['__main__'] is not me",
        "def one(_):",
        "    began.set()",
        "    assert inside.wait(250)",
        "def two(_):",
        "    inside.set()",
        "    assert over.wait(250)",
        "    seen.append(aside())",
        "seen = []",
        "first = Thread(target=launch, args=['placebo-ok'], kwargs={",
        "    'on': 'memory', 'out': 'one', 'watch': one})",
        "second = Thread(target=launch, args=['placebo-ok'], kwargs={",
        "    'on': 'memory', 'out': 'two', 'watch': two})",
        "first.start()",
        "assert began.wait(250)",
        "second.start()",
        "first.join()",
        "over.set()",
        "second.join()",
        "print(len(seen) > 0, all(seen), aside())",
    ]
    program.write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True True False\n"), done.stderr


def test_licences_are_told(small: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a data set's licence asks for is a warning of the library."""
    monkeypatch.setattr(
        "fedskd_sim.api.licences", lambda scenario: [f"not for sale: {scenario.name}"]
    )
    with pytest.warns(UserWarning, match="not for sale: small"):
        launch(small.folder.parent / "small.yaml", on="memory", out=tmp_path / "run")


def settings() -> dict[str, object]:
    """Read what a run in memory might leave behind in the process of its caller."""
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "environment": dict(os.environ),
        "warnings": [*warnings.filters],
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 - the process's own generator
        "random": random.getstate(),
    }


@pytest.mark.parametrize("ends", ["well", "in an error"])
def test_a_run_in_memory_leaves_its_caller_as_it_was(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next cell of a notebook has its threads, settings, generators and environment, however
    the run before it has ended.
    """
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    threads, watched = torch.get_num_threads(), iter(range(5))
    torch.set_num_threads(3)
    try:
        before = settings()
        with nullcontext() if ends == "well" else pytest.raises(ZeroDivisionError):
            launch(
                tmp_path / "small.yaml",
                on="memory",
                out=tmp_path / "run",
                watch=lambda _: None if ends == "well" or next(watched) < 4 else 1 / 0,
            )
        assert settings() == before
    finally:
        torch.set_num_threads(threads)


def test_events_are_watched(tmp_path: Path) -> None:
    """Whoever watches a run is told of every event, from processes as well."""
    seen: list[str] = []
    run = launch(
        "placebo-ok",
        out=tmp_path / "run",
        watch=lambda logged: seen.append(type(logged.what).__name__),
    )
    assert {"StartEvent", "Arrived", "DoneEvent"} <= {*seen}
    assert len(run.hops) == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_examples_run(program: Path, tmp_path: Path) -> None:
    """Every program in examples/ ends well and says something."""
    command = [sys.executable, program, tmp_path / "out"]
    done = subprocess.run(
        [*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "circulation" in done.stdout
