"""What the hospitals learn from. The top level's ``data`` is the default of every hospital, whose own ``data`` overrides keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, NonNegative, Part, Positive, Share


class SyntheticSkin(Part):
    """Images that look like pigmented lesions, made from the scenario's seed; nothing is downloaded or stored."""

    name: Literal["synthetic-skin"]
    """Draw round blotches whose border, colour and texture depend on the class, under the hospital's own camera."""
    samples: Annotated[int, Field(ge=10)] = 400
    """Images of this hospital; 60 % train, 20 % validate, 20 % test."""
    image_size: Annotated[int, Field(ge=8, le=512)] = 32
    """Height and width in pixels."""
    classes: Annotated[int, Field(ge=2, le=8)] = 4
    """Number of diagnoses; every hospital must have the same."""
    site_shift: NonNegative = 0.6
    """Strength of this hospital's own colour cast, lighting and blur; 0 makes all cameras alike."""
    label_skew: Share = 0.6
    """0: all classes equally frequent; 1: class frequencies drawn freely for each hospital (flat Dirichlet)."""


class Ham10000(Part):
    """HAM10000 in one ``.npz``: image, label, site, split_group, fold (see README, Data)."""

    name: Literal["ham10000"]
    """Four source collections act as four hospitals."""
    file: str = "ham10000_28x28.npz"
    """File name inside the folder given by ``--data`` or FEDSKD_DATA."""
    site: str = ""
    """The collection this hospital owns: rosendahl, vidir_modern, vidir_molemax or vienna_dias."""
    test_fold: Annotated[int, Field(ge=0, le=4)] = 0
    """Fold used for testing; folds never split a lesion."""
    validation_fold: Annotated[int, Field(ge=0, le=4)] = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training images, drawn from the seed; null takes all."""


class SyntheticRoi(Part):
    """Connectivity matrices of brain regions, made from the scenario's seed; nothing is downloaded or stored."""

    name: Literal["synthetic-roi"]
    """Networks of regions whose coupling depends on the class, seen through the hospital's own scanner."""
    samples: Annotated[int, Field(ge=10)] = 150
    """Subjects of this hospital; 60 % train, 20 % validate, 20 % test."""
    regions: Annotated[int, Field(ge=8, le=512)] = 40
    """Regions of the atlas; every hospital must have the same."""
    classes: Annotated[int, Field(ge=2, le=8)] = 2
    """Number of diagnoses; every hospital must have the same."""
    effect: Positive = 0.4
    """How much the coupling of networks differs between classes, in units of the noise between subjects."""
    site_shift: NonNegative = 0.6
    """Strength of this hospital's own pattern; 0 makes all scanners alike."""
    label_skew: Share = 0.6
    """0: all classes equally frequent; 1: class frequencies drawn freely for each hospital (flat Dirichlet)."""


class Abide(Part):
    """ABIDE I connectivity in one ``.npz``: fc_q8, label, site, institution, fold, sub_id (see README, Data)."""

    name: Literal["abide"]
    """Imaging sites, or institutions, act as hospitals."""
    file: str = "abide_ho111_nofilt_noglobal_q8.npz"
    """File name inside the folder given by ``--data`` or FEDSKD_DATA."""
    by: Literal["site", "institution"] = "site"
    """What a hospital is: one of 20 scanners, or one of 17 institutions."""
    site: str = ""
    """The scanner or institution this hospital owns, for example NYU."""
    test_fold: Annotated[int, Field(ge=0, le=4)] = 0
    """Fold used for testing; folds never split a subject."""
    validation_fold: Annotated[int, Field(ge=0, le=4)] = 1
    """Fold used for validation; the other three train."""
    limit: Count | None = None
    """At most this many training subjects, drawn from the seed; null takes all."""


class NoData(Part):
    """No data at all, for the placebo algorithm."""

    name: Literal["none"] = "none"
    """Nothing is loaded."""


KINDS = (SyntheticSkin, Ham10000, SyntheticRoi, Abide, NoData)
Dataset = Annotated[SyntheticSkin | Ham10000 | SyntheticRoi | Abide | NoData, Field(discriminator="name")]


def overrides_schema() -> dict[str, Any]:
    """Write the JSON Schema of a hospital's ``data``: any keys of any kind of data, none of them required."""
    parts = [kind.model_json_schema()["properties"] for kind in KINDS]
    names = [part.pop("name")["const"] for part in parts]
    keys = {"name": {"enum": names, "type": "string"}} | {key: entry for part in parts for key, entry in part.items()}
    return {"type": "object", "properties": keys, "additionalProperties": False}
