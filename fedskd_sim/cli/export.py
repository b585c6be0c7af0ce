"""`fedskd-sim export`: the tables of a run for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from fedskd_sim.cli.common import Place, short, with_exit_code


@click.command()
@click.argument("run", type=Place(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "parquet", "tensorboard", "mlflow"]),
    default="csv",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--out",
    type=Place(path_type=Path),
    help="Folder for the files. Default: export/ in the run folder.",
)
@with_exit_code
def export(run: Path, form: str, out: Path | None) -> None:
    """Write the tables of a RUN folder: hops, measures, matrix, timings and predictions.
    For TensorBoard and MLflow: the measures of every model, by its stops.

    \b
    Examples:
      fedskd-sim export runs/skin
      fedskd-sim export runs/skin --format parquet --out tables
      fedskd-sim export runs/skin --format tensorboard
      MLFLOW_TRACKING_URI=http://localhost:5000 fedskd-sim export runs/skin --format mlflow
    """
    from fedskd_sim import export as exports  # noqa: PLC0415 - only this command pays for it
    from fedskd_sim.runs import read_run  # noqa: PLC0415

    for file, rows in exports.write(read_run(run), form, out or run / "export").items():
        click.echo(f"{short(file)}: {rows} {'rows' if form in ('csv', 'parquet') else 'values'}")
