"""What algorithms are compared with: training alone, on everybody's data, or not at all."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedskd_sim.scenario.circulation import (
    CommunicationPattern,
)
from fedskd_sim.scenario.part import Count, Part, Seconds


class Local(Part):
    """Every hospital trains alone; nothing travels before the evaluation."""

    pattern: ClassVar[CommunicationPattern] = "none"
    warms_up: ClassVar[bool] = True
    name: Literal["local"]
    """The lower reference."""
    rounds: Count = 2
    """Sessions of ``training.epochs`` each."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital trains its own model on its own data. No model travels before all are "
            "tested."
        )

    def work(self, size: int) -> float:  # noqa: ARG002 - every hospital works for itself
        """One session."""
        return 1.0


class Pooled(Part):
    """Every hospital's architecture trains on the data of ALL hospitals: not federated, in one
    process only.
    """

    pattern: ClassVar[CommunicationPattern] = "none"
    warms_up: ClassVar[bool] = True
    name: Literal["pooled"]
    """The upper reference; refuses to run where hospitals are apart."""
    rounds: Count = 2
    """Sessions of ``training.epochs`` passes over everybody's data each."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return (
            "Every hospital's model trains on the data of all hospitals, put into one place. This "
            "is no federation."
        )

    def work(self, size: int) -> float:
        """One session over everybody's data: as much as ``size`` hospitals' on average."""
        return float(size)


class Placebo(Part):
    """Tests the machinery: buffers travel, nothing is learned, PyTorch is never imported."""

    pattern: ClassVar[CommunicationPattern] = "circulation"
    warms_up: ClassVar[bool] = True
    name: Literal["placebo"]
    """No learning."""
    rounds: Count = 1
    """Full circulations."""
    buffer_bytes: Annotated[int, Field(ge=0, le=2**33)] = 1024
    """Size of each travelling model in bytes."""
    session_seconds: Seconds = 0.0
    """How long a session pretends to work."""

    @property
    def words(self) -> str:
        """Say what travels and who trains with whom, for reports."""
        return "Buffers without meaning travel from hospital to hospital. Nothing is learned."

    def work(self, size: int) -> float:  # noqa: ARG002 - there is none
        """Nothing is learned."""
        return 0.0
