"""Pictures in files of their own, laid as people have them: what a scenario says of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedskd_sim.scenario.part import Count, Fold, ImageSize, Part, Partition
from fedskd_sim.scenario.tables import Column, TestFolds, Values


class ImageTable(Part):
    """Images in files of their own (JPEG, PNG, TIFF, DICOM) and a CSV table with a row for each
    (see docs/data.md).
    """

    name: Literal["image-table"]
    """Sites act as hospitals; DICOM needs the extra ``dicom``."""
    file: str = "table.csv"
    """The table inside the folder given by ``--data`` or FEDSKD_DATA."""
    images: str = ""
    """The folder of the images, beside the table; empty: the table's own."""
    file_column: Column = "file"
    """The column of the images' paths below that folder, with or without their ending."""
    label_column: Column = "label"
    """The column of the classes."""
    labels: Annotated[dict[Column, Values], Field(min_length=1)] | None = None
    """Classes with the cells that stand for each, as in ``{healthy: ["0"], ill: ["1", "2"]}``;
    null: a cell is the name of its class."""
    site_column: Column = "site"
    """The column of the sites, which a partition does without."""
    patient_column: Column = "patient"
    """The column of the patients, nobody of whom comes into two folds; without it each image is of
    another one."""
    fold_column: str = "fold"
    """The column of the folds, 0 to 4; without it, or if this is empty, they are drawn, evenly over
    sites and classes."""
    site: str = ""
    """The site this hospital owns."""
    partition: Partition | None = None
    """Instead of a site: the part of all images that this hospital owns."""
    size: ImageSize = 64
    """Height and width in pixels to which the middle square of every image is brought."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a patient."""
    test_folds: TestFolds = 1
    """How many folds test: ``test_fold`` and those before it; more where a hospital has few
    patients of a class."""
    validation_fold: Fold = 1
    """Fold used for validation; the others train."""
    cache: str | None = None
    """Folder in which decoded images are kept for later runs, for nobody else to read; ~ is your
    home. null: they are decoded every time."""
    limit: Count | None = None
    """At most this many training images, drawn from the seed; null takes all."""


class ImageFolders(Part):
    """Images in folders SITE/CLASS: JPEG, PNG, TIFF or DICOM (see docs/data.md)."""

    name: Literal["image-folders"]
    """Sites act as hospitals, folds are drawn here; DICOM needs the extra ``dicom``."""
    images: str = ""
    """The folder of the sites' folders, inside the folder given by ``--data`` or FEDSKD_DATA;
    empty: that folder itself."""
    patients: bool = False
    """Whether each patient has a folder, as in SITE/CLASS/PATIENT; otherwise each image is of
    another one."""
    site: str = ""
    """The site this hospital owns: the name of its folder."""
    partition: Partition | None = None
    """Instead of a site: the part of all images that this hospital owns."""
    size: ImageSize = 64
    """Height and width in pixels to which the middle square of every image is brought."""
    test_fold: Fold = 0
    """Fold used for testing; folds never split a patient."""
    test_folds: TestFolds = 1
    """How many folds test: ``test_fold`` and those before it; more where a hospital has few
    patients of a class."""
    validation_fold: Fold = 1
    """Fold used for validation; the others train."""
    cache: str | None = None
    """Folder in which decoded images are kept for later runs, for nobody else to read; ~ is your
    home. null: they are decoded every time."""
    limit: Count | None = None
    """At most this many training images, drawn from the seed; null takes all."""

    @property
    def file(self) -> str:
        """What is read, in words."""
        return "/".join(filter(None, (self.images.rstrip("/"), "SITE", "CLASS")))
