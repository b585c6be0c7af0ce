"""What a comparison says: differences and claims, and what its means rest on."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from fedskd_sim.cli import main
from fedskd_sim.results.comparison.planning import methods
from fedskd_sim.results.comparison.statistics import Difference
from fedskd_sim.results.comparison.summary import _notes
from fedskd_sim.results.comparison.tables import COMPARED, SCORES, MethodRow, MethodTable, Score
from fedskd_sim.results.comparison.text import (
    as_html,
    as_text,
    conclusion,
    format_difference,
)
from fedskd_sim.results.comparison.values import as_json
from fedskd_sim.results.notes import Basis
from fedskd_sim.scenario import load

QUICKSTART = Path(__file__).parents[3] / "scenarios" / "quickstart.yaml"
NAMES = ("aachen", "bergen", "cork", "delft")
HERE = {name: Basis(10 * number, number) for number, name in enumerate(NAMES, 1)}


def compared(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    bases: Sequence[Mapping[str, Basis]] = (),
    metric: str = "auc",
) -> MethodTable:
    """Make a comparison from values by method and place; the first method is the control."""
    count = len(next(iter(next(iter(scores.values())).values())))
    rows = []
    for method in methods(load(QUICKSTART).scenario, list(scores)):
        runs = [
            Score(
                {(metric, place): values[seed] for place, values in scores[method.label].items()},
                {},
                dict.fromkeys(("samples", "forwards", "bytes", "seconds"), 1.0),
                dict.fromkeys(SCORES, bases[seed] if bases else HERE),
            )
            for seed in range(count)
        ]
        rows.append(MethodRow(method, runs))
    return MethodTable(tuple(rows), next(iter(scores)), tuple(range(1, count + 1)), ())


def test_a_methods_faults_stand_beside_its_name(scenario_file: Callable) -> None:
    """In the text and on the page, so that nobody takes their effect for the algorithm's."""
    dark = "\nvariants: {dark: {faults: [{hospital: cork, what: slow, round: 1, factor: 2}]}}\n"
    scenario = load(scenario_file(QUICKSTART.read_text("utf-8") + dark)).scenario
    of_both = [*methods(scenario, ["fedskd", "dark"])]
    found = compared({"fedskd": {"own": [0.5, 0.6]}, "circulation": {"own": [0.5, 0.6]}})
    told = [replace(row, method=method) for method, row in zip(of_both, found.rows, strict=True)]
    found = replace(found, rows=tuple(told))
    words = "cork: slow, factor 2, round 1"
    assert f"dark: fedskd; faults: {words}\n" in as_text(found)
    assert f"dark (faults: {words}):" in as_html(found)
    said = f"Disturbed on purpose: {words} (dark)."
    assert as_text(found).startswith(said)
    assert said in as_html(found)
    assert [row.split()[:2] for row in rows(found)][1] == ["dark", "(disturbed)"]
    methods_ = as_json(found)["methods"]
    assert [one["disturbed"] for one in methods_] == ["", f"disturbed on purpose: {words}"]


def rows(comparison: MethodTable) -> list[str]:
    """Give the lines of the methods in the AUC's table."""
    lines = as_text(comparison).splitlines()
    start = lines.index("AUC") + 2
    return lines[start : start + len(comparison.rows)]


def everywhere(*values: float) -> dict[str, Sequence[float]]:
    """Give the same values for all places that a table shows."""
    return dict.fromkeys(("own", "others", "mean"), values)


CONTROL = everywhere(0.70, 0.71, 0.72, 0.71, 0.70)
AHEAD = everywhere(0.80, 0.812, 0.817, 0.81, 0.80)
LIKE = everywhere(0.71, 0.69, 0.73, 0.72, 0.69)


def test_a_table_has_interval_corrected_p_and_seeds() -> None:
    """Each difference stands with Student's interval, the p that Holm gives all of the table,
    and the seeds that find it.
    """
    found = compared({"circulation": CONTROL, "fedskd": AHEAD, "local": LIKE})
    circulation, fedskd, local = (line.split()[1:] for line in rows(found))
    assert circulation == ["70.8", "70.8", "70.8", "control"]
    assert fedskd[3:] == ["+10.0", "[+9.8,", "+10.2]", "<0.001", "2"]
    difference = found.differences("auc")["local", "mean"]
    assert difference.corrected == pytest.approx(difference.p)
    assert found.differences("auc")["fedskd", "mean"].corrected == pytest.approx(
        2 * found.differences("auc")["fedskd", "mean"].p
    )
    assert local[3:] == ["+0.0", "[-1.8,", "+1.8]", "1.000", ">1000"]


@pytest.mark.parametrize(
    ("p", "written"), [(0.0504, "0.0504"), (0.05, "0.050"), (0.0496, "0.050"), (0.0512, "0.051"),
                       (0.05000001, "0.05000001"), (0.0004, "<0.001"), (1.0, "1.000")]
)  # fmt: skip
def test_a_p_tells_on_which_side_it_is(p: float, written: str) -> None:
    """One above 0.05 is not written as 0.050, beside a conclusion that does not claim it."""
    assert format_difference(Difference(0.1, 0.01, 5, 0.0, 0.2, p, corrected=p))[1] == written


def test_the_correction_is_for_all_differences_of_a_table() -> None:
    """With an ensemble's column beside that of the mean, every p counts for twice as many."""
    both = [{**part, "ensemble": part["mean"]} for part in (CONTROL, AHEAD, LIKE)]
    found = compared(dict(zip(("circulation", "fedskd", "local"), both, strict=True))).differences(
        "auc"
    )
    assert {difference.beside for difference in found.values()} == {4}
    assert found["fedskd", "ensemble"].corrected == pytest.approx(4 * found["fedskd", "ensemble"].p)


def test_claims_are_said_and_nothing_else() -> None:
    """Methods ahead of and behind the control are named, the best only where it is ahead of all;
    a tie is no difference.
    """
    found = compared({"circulation": CONTROL, "fedskd": AHEAD, "local": LIKE})
    assert conclusion(found, "auc", "mean") == (
        "Mean of own and others (AUC): ahead of circulation: fedskd; fedskd is ahead of all others."
    )
    below = compared({"fedskd": AHEAD, "circulation": CONTROL, "local": LIKE})
    assert conclusion(below, "auc", "mean") == (
        "Mean of own and others (AUC): behind fedskd: circulation, local; fedskd is ahead of all "
        "others."
    )
    tied = compared({"circulation": CONTROL, "local": LIKE})
    assert conclusion(tied, "auc", "mean") == (
        "Mean of own and others (AUC): no difference to circulation is beyond chance; no method "
        "is ahead of all others."
    )
    assert as_json(tied)["best"]["auc"] == dict.fromkeys(COMPARED)


def test_the_best_is_not_named_where_the_table_does_not_claim_its_lead() -> None:
    """A lead over the control that is beyond chance only by itself, and not beside an ensemble's
    column, makes no best.
    """
    slight = everywhere(0.73, 0.715, 0.75, 0.73, 0.705)
    alone = compared({"circulation": CONTROL, "fedskd": slight})
    assert alone.best("auc", "mean") == "fedskd"
    both = compared(
        {
            "circulation": {**CONTROL, "ensemble": CONTROL["mean"]},
            "fedskd": {**slight, "ensemble": LIKE["mean"]},
        }
    )
    assert (
        both.differences("auc")["fedskd", "mean"].p
        <= 0.05
        < both.differences("auc")["fedskd", "mean"].corrected
    )
    assert both.best("auc", "mean") == ""


def test_more_seeds_than_are_looked_at_are_not_unknown_in_json() -> None:
    """A difference that a thousand seeds would not find is told apart from one that cannot be
    tested, and from one whose seeds are known.
    """
    control, tiny, large = [0.70, 0.72, 0.74], [0.72, 0.70, 0.7401], [0.80, 0.83, 0.84]
    methods_ = {"circulation": control, "fedskd": tiny, "local": large}
    found = as_json(compared({label: everywhere(*values) for label, values in methods_.items()}))
    told = [one["differences"]["auc"].get("mean") for one in found["methods"]]
    assert told[0] is None
    assert (told[1]["needed"], told[1]["needed_above"]) == (None, 1000)
    assert told[2]["needed"] > 2
    assert told[2]["needed_above"] is None


def test_json_has_the_means_of_the_tables_and_what_they_rest_on() -> None:
    """Each mean over seeds stands with its own interval, and each hospital with what it tests on;
    a mean without spread, or of nothing, has none.
    """
    scores = {"circulation": CONTROL, "local": everywhere(*[0.5] * 5)}
    found = as_json(compared(scores, [HERE] * 5))
    told, same = (one["means"]["auc"] for one in found["methods"])
    assert {name: round(value, 3) for name, value in told["mean"].items()} == {
        "mean": 0.708, "low": 0.698, "high": 0.718, "seeds": 5,
    }  # fmt: skip
    assert same["own"] == {"mean": 0.5, "low": None, "high": None, "seeds": 5}
    assert same["ensemble"] == {"mean": None, "low": None, "high": None, "seeds": 0}
    assert found["test_samples"]["auc"]["delft"] == {"samples": [40] * 5, "smallest_class": 4}
    assert found["methods"][0]["hospitals"]["auc"]["own"]["delft"] == [None] * 5


def test_a_comparison_is_exported_as_tables(tmp_path: Path) -> None:
    """Means and differences are rows of CSV or Parquet; a run is told apart from a comparison."""
    scores = {"circulation": CONTROL, "fedskd": AHEAD}
    (tmp_path / "compare.json").write_text(json.dumps(as_json(compared(scores))))

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, [arguments[0], str(tmp_path), *arguments[1:]])

    done = call("export")
    assert (done.exit_code, done.stdout.count("rows")) == (0, 2), done.stderr
    with (tmp_path / "export" / "methods.csv").open() as stream:
        told = [*csv.DictReader(stream)]
    assert [one["place"] for one in told] == ["own", "others", "mean"] * 2
    assert float(told[3]["mean"]) == pytest.approx(0.8078)
    assert call("export", "--format", "parquet").exit_code == 0
    table = parquet.read_table(tmp_path / "export" / "differences.parquet")
    (row,) = table.to_pylist()
    assert (row["method"], row["control"], row["place"]) == ("fedskd", "circulation", "mean")
    assert (row["difference"], row["needed"]) == (pytest.approx(0.0998), 2)
    wrong = call("export", "--format", "mlflow")
    assert "'mlflow' is for runs, not for a comparison" in wrong.stderr
    told_ = call("report").stderr
    assert "is a comparison, not a run folder" in told_
    assert "its runs in runs/METHOD/seed-N" in told_
    (tmp_path / "compare.json").write_text('{"methods": [{}]}')
    assert "its numbers are damaged" in call("export").stderr


def test_one_seed_shows_no_interval() -> None:
    """Of a single seed the difference stands alone: no interval, no p, no seeds, no claim, in
    text, page and JSON.
    """
    found = compared({"circulation": everywhere(0.7), "fedskd": everywhere(0.8)})
    assert rows(found)[1].split() == ["fedskd", "80.0", "80.0", "80.0", "+10.0"]
    told = as_json(found)["methods"][1]["differences"]["auc"]["mean"]
    assert {name for name, value in told.items() if value is None} == {
        "error",
        "low",
        "high",
        "p",
        "corrected",
        "needed",
        "needed_above",
    }
    assert (told["seeds"], told["mean"]) == (1, pytest.approx(0.1))
    assert "<svg" in as_html(found)
    json.dumps(as_json(found), allow_nan=False)


def test_seeds_that_lack_a_value_are_said() -> None:
    """A difference over fewer seeds than the table names them, and a method without any value
    has no difference.
    """
    gaps = everywhere(0.80, math.nan, 0.83, 0.81, math.nan)
    found = compared({"circulation": CONTROL, "fedskd": gaps, "local": everywhere(*[math.nan] * 5)})
    text = as_text(found)
    assert "fedskd, mean: the difference is over 3 of 5 seeds; others lack a value." in text
    assert "local, mean" not in text
    assert set(found.differences("auc")) == {("fedskd", "mean")}
    assert "<svg" in as_html(found)


def test_a_table_says_what_its_means_rest_on() -> None:
    """The test samples of a seed and the fewest of a class at a hospital stand under the table,
    per hospital beside its values.
    """
    other = {**HERE, "delft": Basis(50, 7)}
    found = compared({"circulation": CONTROL, "local": LIKE}, [HERE, HERE, other, HERE, HERE])
    text = as_text(found, per_hospital=True)
    assert (
        "Each seed tests on 100 to 110 samples. The smallest class at any hospital has 1: values "
        "there are uncertain." in " ".join(text.split())
    )
    own, others = [
        line.split(maxsplit=2)[2] for line in text.splitlines() if line.startswith("test samples")
    ][:2]
    assert own.split("  ")[0] == "10 (1)"
    assert own.strip().endswith("40 to 50 (4)")
    assert others.split("  ")[0] == "90 to 100 (2)"
    assert "unseen" not in text
    unknown = compared(
        {"circulation": CONTROL, "local": LIKE}, [{name: Basis(10) for name in NAMES}] * 5
    )
    assert "Each seed tests on 40 samples.\n" in as_text(unknown)


def test_hospitals_without_a_value_carry_no_mean() -> None:
    """A metric that could not be measured at a hospital rests on the others."""
    part = {name: HERE[name] for name in NAMES[:2]}
    found = compared({"circulation": CONTROL, "local": LIKE}, [part] * 5)
    told = "Each seed tests on 30 samples. The smallest class at any hospital has 1"
    assert told in as_text(found)


@pytest.mark.parametrize(("seeds", "said"), [(1, True), (2, False)])
def test_one_complete_seed_is_said(seeds: int, *, said: bool) -> None:
    """Where every method has finished only one seed, a note says that nothing may be claimed."""
    found = _notes(methods(load(QUICKSTART).scenario, ["local"]), 1, seeds)
    assert (
        any("One complete seed has no spread: there is no interval" in note for note in found)
        is said
    )


def test_the_page_links_the_report_of_every_run() -> None:
    """Each method and seed has a link to where the comparison has put that run, and the page is
    safe to move with its folder.
    """
    page = as_html(
        compared({"circulation": everywhere(0.7, 0.71), "fedskd": everywhere(0.8, 0.82)})
    )
    links = re.findall(r' href="([^"#][^"]*)"', page)
    assert len(links) == len({*links}) == 4
    assert all(
        re.fullmatch(r"runs/(circulation|fedskd)/seed-\d+/report\.txt", link) for link in links
    )
