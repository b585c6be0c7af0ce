"""What the hospitals learn from. The top level's ``data`` is the default of every hospital,
whose own ``data`` overrides keys.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedskd_sim.scenario.owndata import OwnData
from fedskd_sim.scenario.part import Count, NonNegative, Part, Positive, Samples, Share
from fedskd_sim.scenario.partition import Partition
from fedskd_sim.scenario.volumes import Nifti, SyntheticVolumes

Fold = Annotated[int, Field(ge=0, le=4)]
Pixels = Annotated[int, Field(ge=8, le=512)]
HAM10000 = (
    "HAM10000 is CC BY-NC 4.0: non-commercial use only (Tschandl, Rosendahl and Kittler 2018)"
)
ABIDE = "ABIDE I is CC BY-NC-SA 3.0: non-commercial use only (Di Martino et al. 2014)"


class SyntheticSkin(Part):
    """Images that look like pigmented lesions, made from the scenario's seed; nothing is
    downloaded or stored.
    """

    name: Literal["synthetic-skin"]
    """Draw round blotches whose border, colour and texture depend on the class, under the
    hospital's own camera."""
    samples: Samples = 400
    """Images of this hospital; 60 % train, 20 % validate, 20 % test."""
    image_size: Annotated[int, Field(ge=8, le=512)] = 32
    """Height and width in pixels."""
    classes: Annotated[int, Field(ge=2, le=8)] = 4
    """Number of diagnoses; every hospital must have the same."""
    site_shift: NonNegative = 0.6
    """Strength of this hospital's own colour cast, lighting and blur; 0 makes all cameras alike."""
    label_skew: Share = 0.6
    """0: all classes equally frequent; 1: class frequencies drawn freely for each hospital (flat
    Dirichlet)."""


class Ham10000(Part):
    """HAM10000 in one ``.npz``: image, label, site, split_group, fold (see docs/data.md)."""

    licence: ClassVar[str] = HAM10000
    name: Literal["ham10000"]
    """Four source collections act as four hospitals."""
    file: str = "ham10000_28x28.npz"
    """File name inside the folder given by ``--data`` or FEDSKD_DATA."""
    site: str = ""
    """The collection this hospital owns: rosendahl, vidir_modern, vidir_molemax or vienna_dias."""
    partition: Partition | None = None
    """Instead of a site: the part of all collections that this hospital owns."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a lesion."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training images, drawn from the seed; null takes all."""


class SyntheticRoi(Part):
    """Connectivity matrices of brain regions, made from the scenario's seed; nothing is
    downloaded or stored.
    """

    name: Literal["synthetic-roi"]
    """Networks of regions whose coupling depends on the class, seen through the hospital's own
    scanner."""
    samples: Samples = 150
    """Subjects of this hospital; 60 % train, 20 % validate, 20 % test."""
    regions: Annotated[int, Field(ge=8, le=512)] = 40
    """Regions of the atlas; every hospital must have the same."""
    classes: Annotated[int, Field(ge=2, le=8)] = 2
    """Number of diagnoses; every hospital must have the same."""
    effect: Positive = 0.4
    """How much the coupling of networks differs between classes, in units of the noise between
    subjects."""
    site_shift: NonNegative = 0.6
    """Strength of this hospital's own pattern; 0 makes all scanners alike."""
    label_skew: Share = 0.6
    """0: all classes equally frequent; 1: class frequencies drawn freely for each hospital (flat
    Dirichlet)."""


class Abide(Part):
    """ABIDE I connectivity in one ``.npz``: fc_q8, label, site, institution, fold, sub_id (see
    docs/data.md).
    """

    licence: ClassVar[str] = ABIDE
    name: Literal["abide"]
    """Imaging sites, or institutions, act as hospitals."""
    file: str = "abide_ho111_nofilt_noglobal_q8.npz"
    """File name inside the folder given by ``--data`` or FEDSKD_DATA."""
    by: Literal["site", "institution"] = "site"
    """What a hospital is: one of 20 scanners, or one of 17 institutions."""
    site: str = ""
    """The scanner or institution this hospital owns, for example NYU."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a subject."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training subjects, drawn from the seed; null takes all."""


class Ham10000Images(Part):
    """HAM10000 as it was released: folders of images and a table that tells their collection
    (see docs/data.md).
    """

    licence: ClassVar[str] = HAM10000
    name: Literal["ham10000-images"]
    """Four source collections act as four hospitals; the folds are drawn here."""
    file: str = "HAM10000_metadata.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA; images lie in any folders
    beside it."""
    site: str = ""
    """The collection this hospital owns: rosendahl, vidir_modern, vidir_molemax or vienna_dias."""
    partition: Partition | None = None
    """Instead of a site: the part of all collections that this hospital owns."""
    size: Pixels = 64
    """Height and width in pixels to which the middle square of every image is brought."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a lesion."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    cache: str | None = None
    """Folder in which decoded images are kept for later runs, for nobody else to read; ~ is your
    home. null: they are decoded every time."""
    limit: Count | None = None
    """At most this many training images, drawn from the seed; null takes all."""


class MedMnist(Part):
    """One of the MedMNIST sets in its ``.npz``, images or volumes, with its own train,
    validation and test samples.
    """

    name: Literal["medmnist"]
    """Small images; several hospitals share the file by ``partition``."""
    file: str = "bloodmnist.npz"
    """File name inside the folder given by ``--data`` or FEDSKD_DATA."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The names of the classes in the order of their numbers; null calls them 0, 1, ..."""
    partition: Partition | None = None
    """The part of the set that this hospital owns; null for the whole of it."""
    limit: Count | None = None
    """At most this many training images, drawn from the seed; null takes all."""


class Derm7pt(Part):
    """Derm7pt as it was released: tables and images of about a thousand cases, with its own
    train, validation and test cases.
    """

    licence: ClassVar[str] = (
        "Derm7pt has its owners' terms, non-commercial use only (Kawahara, Daneshvar, Argenziano "
        "and Hamarneh 2019)"
    )
    name: Literal["derm7pt"]
    """Five diagnoses; several hospitals share the set by ``partition``."""
    file: str = "release_v0/meta/meta.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA; the indexes lie beside it,
    the images in ../images."""
    view: Literal["derm", "clinic"] = "derm"
    """Dermoscopic or clinical images."""
    partition: Partition | None = None
    """The part of the set that this hospital owns; null for the whole of it."""
    size: Pixels = 64
    """Height and width in pixels to which the middle square of every image is brought."""
    cache: str | None = None
    """Folder in which decoded images are kept for later runs, for nobody else to read; ~ is your
    home. null: they are decoded every time."""
    limit: Count | None = None
    """At most this many training images, drawn from the seed; null takes all."""


class AbideRois(Part):
    """ABIDE I as the Preprocessed Connectomes Project gives it: time series of regions, one file
    per subject, and a table.
    """

    licence: ClassVar[str] = ABIDE
    name: Literal["abide-rois"]
    """Imaging sites, or institutions, act as hospitals; connectivity is computed and folds are
    drawn here."""
    file: str = "Phenotypic_V1_0b_preprocessed1.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA; time series lie in any
    folders beside it."""
    atlas: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")] = "cc200"
    """The atlas in the names of the files, as in ``..._rois_cc200.1D``."""
    by: Literal["site", "institution"] = "site"
    """What a hospital is: one of 20 scanners, or one of 17 institutions."""
    site: str = ""
    """The scanner or institution this hospital owns, for example NYU."""
    missing: Literal["refuse", "skip"] = "refuse"
    """What to do about subjects of the table whose file is not there: refuse, or leave them out and
    count them."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a subject."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training subjects, drawn from the seed; null takes all."""


class NoData(Part):
    """No data at all, for the placebo algorithm."""

    name: Literal["none"] = "none"
    """Nothing is loaded."""


KINDS = (
    SyntheticSkin, Ham10000, Ham10000Images, MedMnist, Derm7pt, SyntheticRoi, Abide, AbideRois,
    SyntheticVolumes, Nifti, OwnData, NoData,
)  # fmt: skip
Dataset = Annotated[
    SyntheticSkin
    | Ham10000
    | Ham10000Images
    | MedMnist
    | Derm7pt
    | SyntheticRoi
    | Abide
    | AbideRois
    | SyntheticVolumes
    | Nifti
    | OwnData
    | NoData,
    Field(discriminator="name"),
]


def overrides_schema() -> dict[str, Any]:
    """Write the JSON Schema of a hospital's ``data``: any keys of any kind of data, none of them
    required.
    """
    parts = [_partial(kind.model_json_schema())["properties"] for kind in KINDS]
    names = [part.pop("name")["const"] for part in parts]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        for key, entry in part.items():
            kinds.setdefault(key, []).append(entry)
    keys = {"name": {"enum": names, "type": "string"}} | {
        key: _any_of(entries) for key, entries in kinds.items()
    }
    return {"type": "object", "properties": keys, "additionalProperties": False}


def _partial(schema: dict[str, Any]) -> dict[str, Any]:
    """Write out the parts of a part, none of whose keys is required either."""
    inner = {
        f"#/$defs/{name}": {**part, "required": []}
        for name, part in schema.get("$defs", {}).items()
    }

    def resolve(entry: Any) -> Any:
        if isinstance(entry, dict):
            return (
                inner[entry["$ref"]]
                if "$ref" in entry
                else {key: resolve(value) for key, value in entry.items()}
            )
        return [resolve(one) for one in entry] if isinstance(entry, list) else entry

    return {"properties": resolve(schema["properties"])}


def _any_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Let a key be what any of several kinds of data have under it."""
    return (
        entries[0]
        if len(entries) == 1
        else {"anyOf": entries, "description": entries[0]["description"]}
    )
