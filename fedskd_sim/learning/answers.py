"""What every model that is tested at a hospital says of each of its patients: kept as it is tested,
written to one file at the end.

The file is a hospital's result, as its weights are: no message has a field for it.
`fedskd_sim.report.predictions` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from zipfile import ZipFile, ZipInfo

import numpy as np

from fedskd_sim.learning.base import NOTHING, LearnerState
from fedskd_sim.learning.task import ONE_LABEL, PredictionTask
from fedskd_sim.messages import Buffer, Weights
from fedskd_sim.wholefiles import PRIVATE_FOLDER, drafted, opened, settle

if TYPE_CHECKING:
    from torch import Tensor

    from fedskd_sim.learning.data import Samples

SCHEMA = 1
FOLDER = "predictions"
CHANCES, THRESHOLDS = "probabilities", "thresholds"
Tested = Literal["evaluation", "ensemble"]
"""The kind of the record that the same test gives: of one hospital's model, or of all finished
models together."""


@dataclass
class Answers:
    """Class probabilities (N, classes), fp64, by kind and model; nothing is kept where it is not
    ``wanted``.
    """

    wanted: bool
    task: PredictionTask = ONE_LABEL
    named: bool = False
    """Patients go by the ids of their source, and not by their rows in the hospital's data."""
    _found: dict[tuple[Tested, str], Weights] = field(default_factory=dict)

    def add(
        self, kind: Tested, model: str, logits: Tensor, task: PredictionTask | None = None
    ) -> None:
        """Keep the probabilities of a test's logits (N, classes), as the measures take them, and
        the thresholds of the task as it was tested; a model that is tested again replaces them.
        """
        if self.wanted:
            task = task or self.task
            arrays = {CHANCES: task.chances(logits.detach()).cpu().numpy()}
            if task.thresholds is not None:
                arrays[THRESHOLDS] = task.thresholds
            self._found[kind, model] = {
                name: Buffer("float64", one.shape, one.tobytes()) for name, one in arrays.items()
            }

    def state(self) -> LearnerState:
        """Return all answers, each a group of its own, and their order."""
        return NOTHING.plus(
            {"answers": [[*whose] for whose in self._found]},
            {_group(*whose): group for whose, group in self._found.items()},
        )

    def restore(self, state: LearnerState) -> None:
        """Go on with the answers that `state` gave in an earlier life, in the same order."""
        self._found = {
            (kind, model): state.weights[_group(kind, model)]
            for kind, model in state.numbers["answers"]
        }

    def save(self, file: Path, test: Samples, about: Mapping[str, object]) -> None:
        """Write all answers as one npz without pickles, the same bytes from every Python; does
        nothing where there are none.

        Args:
            file: where to; its folder is made.
            test: what the models were tested on.
            about: ``scenario``, ``seed``, ``host``, ``split`` and ``classes``.

        """
        if not self._found:
            return
        kinds, models = zip(*self._found, strict=True)
        arrays = {
            name: np.stack(
                [
                    np.frombuffer(group[name].data, np.float64).reshape(group[name].shape)
                    for group in self._found.values()
                ]
            )
            for name in next(iter(self._found.values()))
        }
        arrays |= {name: np.asarray(value) for name, value in about.items()}
        arrays |= {
            "schema": np.asarray(SCHEMA),
            "kinds": np.asarray(kinds),
            "models": np.asarray(models),
        }
        whose = test.ids if self.named else tuple(map(str, test.numbers))
        arrays |= {"samples": np.asarray(whose), "labels": test.labels.cpu().numpy()}
        if len(set(test.subjects)) < len(test.subjects):  # else every sample is of another one
            arrays["subjects"] = np.asarray(test.subjects)
        write_arrays(file, arrays)


def write_arrays(file: Path, arrays: Mapping[str, object]) -> None:
    """Write arrays as one npz without pickles, in a folder of its owner's alone, the same bytes
    from every Python.
    """
    file.parent.mkdir(PRIVATE_FOLDER, exist_ok=True)
    with (
        drafted(file, lasting=True) as draft,
        opened(draft) as stream,
        ZipFile(stream, "w") as archive,  # numpy's own writer depends on the version of Python
    ):
        for name, values in arrays.items():
            member = BytesIO()
            np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)
            archive.writestr(ZipInfo(f"{name}.npy"), member.getvalue())
    settle(file.parent)


def _group(kind: Tested, model: str) -> str:
    return f"answers/{kind}/{model}"
