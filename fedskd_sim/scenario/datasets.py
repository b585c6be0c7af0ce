"""What the hospitals learn from: pictures, tables, volumes, or what a user's own package reads. The
top level's ``data`` is the default of every hospital, whose own ``data`` overrides keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue

from fedskd_sim.errors import InvalidValue
from fedskd_sim.scenario.part import (
    Count,
    Fold,
    ImageSize,
    NonNegative,
    Part,
    Partition,
    Positive,
    SampleCount,
    Share,
)
from fedskd_sim.scenario.pictures import ImageFolders, ImageTable
from fedskd_sim.scenario.tables import Heart, TableFile


class OwnData(Part):
    """Data that a package of yours reads (see docs/own-code.md)."""

    name: Literal["own"]
    """A function of yours reads the files; hospitals share them by site or by ``partition``."""
    reader: Annotated[str, Field(min_length=1)]
    """The name under which an installed package offers it, in the entry points
    ``fedskd_sim.readers``."""
    options: dict[str, int | float | str | bool] = {}
    """Options of this reader, for example ``{table: cases.csv}``."""
    site: str = ""
    """The site this hospital owns, if the reader names sites."""
    partition: Partition | None = None
    """Instead of a site: the part of all samples that this hospital owns."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a subject. Without effect where the reader gives
    splits of its own, as is the next."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training samples, drawn from the seed; null takes all."""

    @property
    def file(self) -> str:
        """What is read, in words: the reader with its options."""
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.reader}({given})" if given else self.reader


class SyntheticVolumes(Part):
    """Volumes with an atlas of regions, made from the scenario's seed; nothing is downloaded or
    stored.
    """

    name: Literal["synthetic-volumes"]
    """Regions of a ball that light up together in a way that depends on the class, seen through the
    hospital's own scanner."""
    samples: SampleCount = 120
    """Volumes of this hospital; 60 % train, 20 % validate, 20 % test."""
    size: Annotated[int, Field(ge=8, le=64)] = 16
    """Voxels along each axis; every hospital must have the same."""
    regions: Annotated[int, Field(ge=4, le=200)] = 12
    """Regions of the atlas; every hospital must have the same."""
    classes: Annotated[int, Field(ge=2, le=8)] = 2
    """Number of diagnoses; every hospital must have the same."""
    effect: Positive = 0.6
    """How strongly the regions of a class's pattern go up and down together, in units of the noise
    between regions."""
    site_shift: NonNegative = 0.6
    """Strength of this hospital's own gain, shading and blur; 0 makes all scanners alike."""
    label_skew: Share = 0.6
    """0: all classes equally frequent; 1: class frequencies drawn freely for each hospital (flat
    Dirichlet)."""


AffineRow = tuple[float, float, float, float]


class Space(Part):
    """Where the voxels of every volume lie once its axes point to the right, the front and the
    top; hospitals share it.
    """

    grid: tuple[Count, Count, Count]
    """Voxels along the three axes."""
    affine: tuple[AffineRow, AffineRow, AffineRow]
    """From the indices of a voxel to its place in millimetres, three rows of four numbers;
    ``validate`` writes it."""


class Nifti(Part):
    """Volumes in NIfTI files, a table that tells their label, site and subject, and an atlas
    (see docs/data.md).
    """

    name: Literal["nifti"]
    """Sites act as hospitals."""
    file: str = "participants.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA: columns file, label, site,
    subject; or fold, too."""
    atlas: str = ""
    """A NIfTI file of region numbers on the volumes' grid, inside the same folder; none: regions
    are the cells of a grid."""
    space: Space | None = None
    """Where the voxels of every volume lie, which compares hospitals that cannot see each other's
    files; needed in a cluster."""
    site: str = ""
    """The site this hospital owns."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a subject."""
    validation_fold: Fold = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training volumes, drawn from the seed; null takes all."""


def spaces_differ(hospitals: Sequence[Any]) -> Iterator[InvalidValue]:
    """Find hospitals whose ``space`` is another than that of the first with volumes in files."""
    known = [
        (index, hospital)
        for index, hospital in enumerate(hospitals)
        if isinstance(hospital.data, Nifti)
    ]
    for index, hospital in known[1:]:
        if hospital.data.space != known[0][1].data.space:
            text = f"{hospital.name!r} has another space than {known[0][1].name!r}"
            yield InvalidValue(
                text,
                key=("hospitals", index, "data", "space"),
                fix="write it once, in the top level's data",
            )


def spaceless(hospitals: Sequence[Any]) -> Iterator[InvalidValue]:
    """Find hospitals with volumes in files whose ``space`` is not said, which hospitals that are
    apart need.
    """
    for index, hospital in enumerate(hospitals):
        if isinstance(hospital.data, Nifti) and hospital.data.space is None:
            text = (
                f"nothing says where the voxels of {hospital.name!r} lie, and in a cluster nobody "
                "sees the files of two hospitals"
            )
            fix = (
                "add the 'space' that 'fedskd-sim validate' shows where the files are to the top "
                "level's data"
            )
            yield InvalidValue(text, key=("hospitals", index, "data"), fix=fix)


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
    samples: SampleCount = 400
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
    samples: SampleCount = 150
    """Subjects of this hospital; 60 % train, 20 % validate, 20 % test."""
    regions: Annotated[int, Field(ge=8, le=512)] = 40
    """Regions of the atlas; every hospital must have the same."""
    classes: Annotated[int, Field(ge=2, le=8)] = 2
    """Number of diagnoses; every hospital must have the same."""
    multi_label: bool = False
    """A subject has any of the diagnoses, or none, each for itself; label_skew is then that of how
    frequent each is."""
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
    size: ImageSize = 64
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
    """Small images; several hospitals share the file by ``partition``. Those of chestmnist have
    several labels each."""
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
    size: ImageSize = 64
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
    SyntheticVolumes, Nifti, TableFile, Heart, ImageTable, ImageFolders, OwnData, NoData,
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
    | TableFile
    | Heart
    | ImageTable
    | ImageFolders
    | OwnData
    | NoData,
    Field(discriminator="name"),
]


BUILT_IN_READERS = tuple(
    get_args(kind.model_fields["name"].annotation)[0]
    for kind in KINDS
    if "file" in kind.model_fields or kind in (Heart, ImageFolders)
)
"""Names of data sets in files or packages, which no other reader may have."""
CHOICES = frozenset(
    {"name", "site", "partition", "test_fold", "test_folds", "validation_fold", "limit", "classes"}
)
"""Keys that say what of a data set is a hospital's, and what its classes are called: all others are
options of its reader."""


def reader_of(dataset: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of the reader of data that come from files, and the options that it is called
    with: of `OwnData` as they are written, of a built-in data set its other keys.
    """
    if isinstance(dataset, OwnData):
        return dataset.reader, dataset.options
    given = {key: value for key, value in dataset if key not in CHOICES and value is not None}
    return dataset.name, given


class AnyKeys:
    """Describes a hospital's ``data``: any keys of any kind of data, none of them required."""

    def __get_pydantic_json_schema__(
        self, _core_schema: Any, _handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Write it when it is asked for."""
        return _overrides_schema()


def _overrides_schema() -> dict[str, Any]:
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
    """Allow a key to be what any of several kinds of data have under it."""
    return (
        entries[0]
        if len(entries) == 1
        else {"anyOf": entries, "description": entries[0]["description"]}
    )
