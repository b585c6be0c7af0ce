"""The base of every part of a scenario: frozen, and an unknown key is an error."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Part(BaseModel):
    """One mapping of the scenario file."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
LONGEST_S = 1e9
"""Some thirty years, for which clocks, threads and sockets have numbers."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]
SomeSeconds = Annotated[float, Field(gt=0, le=LONGEST_S)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""What is counted one by one: a thousand million of anything would never end."""
Samples = Annotated[int, Field(ge=10, le=10_000_000)]
"""So many synthetic samples have numbers that fit into memory."""
SIZE = r"^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$"


class Architecture(Part):
    """A registered architecture with its options; a bare name in the file means no options."""

    name: str
    """See ``fedskd-sim models``."""
    options: dict[str, int | float | str | bool] = {}
    """Options of this architecture, for example ``{width: 32, norm: group}``."""


def with_a_name(shown: Any) -> BeforeValidator:
    """Let a bare name stand for a mapping with that name; ``shown`` is what the JSON Schema
    says.
    """
    return BeforeValidator(
        lambda value: {"name": value} if isinstance(value, str) else value,
        json_schema_input_type=shown,
    )
