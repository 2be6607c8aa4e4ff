"""Types that several parameters share, with the range that is accepted, and what every block of parameters has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from agave.config_schema import LARGEST
from agave.yaml_files import quoted

LARGEST_SEED = 2**63 - 1
"""The largest seed that every generator and every table of results can hold."""

Count = Annotated[int, Field(ge=1, le=LARGEST)]
Steps = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Channels = Annotated[int, Field(ge=1, le=65_536)]
Seeds = Annotated[list[Seed], AfterValidator(sorted)]  # whose images are shown does not depend on the order in the file
Images = Annotated[int, Field(ge=2, le=LARGEST)]  # an interval over images needs two
UpTo100 = Annotated[int, Field(ge=1, le=100)]
UpTo8 = Annotated[int, Field(ge=1, le=8)]
KLWeight = Annotated[float, Field(ge=0, le=1000), AfterValidator(abs)]  # -0 is 0
PathText = Annotated[str, BeforeValidator(quoted), Field(min_length=1)]


class ParameterBlock(BaseModel):
    """A block of params.yaml. Unknown keys are errors; values cannot be changed after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        json_schema_serialization_defaults_required=True,
    )
