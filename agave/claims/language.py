"""The contents of claims.yaml: the claims of the paper, each with the tests that decide it. Models are named by their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agave import grid
from agave.claims.comparisons import COMPARISONS
from agave.claims.evidence import MEASURES, WITHOUT_MODELS, NotTestableError
from agave.config import Params
from agave.errors import UserError
from agave.grid import Cell
from agave.published import LATENT_VARIABLES


class Strict(BaseModel):
    """A part of claims.yaml; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Accept(Strict):
    """The values that agree with a claim: exactly one of the three."""

    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one(self) -> Accept:
        if sum(value is not None for value in (self.above, self.below, self.within)) != 1:
            raise ValueError("accepted: one of above, below and within")
        if self.within is not None and self.within[0] > self.within[1]:
            raise ValueError(f"within {list(self.within)}; accepted: [low, high]")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """Return the lower and upper end; infinite where there is none."""
        if self.within is not None:
            return self.within
        return (-math.inf if self.above is None else self.above, math.inf if self.below is None else self.below)

    def __str__(self) -> str:
        if self.within is not None:
            low, high = self.within
            return f"= {low:g}" if low == high else f"{low:g} to {high:g}"
        return f"> {self.above:g}" if self.above is not None else f"< {self.below:g}"


class Models(Strict):
    """Models of the grid, named by their values. One of `kl_weight` and `levels` may name several.

    Attributes:
        kind: "agave", "vae", "pixelcnn_pp", or "latent_variables": the further systems of Table 1 that have them.
        kl_weight: a value; or several, the last of which may be "larger" (all weights of the grid above them); or "any" (all of the grid).
        levels: a value, several, or "any": all of the grid, finest first.
        resolution: resolution of the auxiliary image: pixels, or relative to x.
        auxiliary: whether the auxiliary loss is part of the objective.
    """

    kind: Literal["agave", "vae", "pixelcnn_pp", "latent_variables"] = "agave"
    kl_weight: float | Literal["any"] | list[float | Literal["larger"]] | None = None
    levels: int | Literal["any"] | list[int] = 256
    resolution: int | Literal["full", "half", "quarter"] = "full"
    auxiliary: bool = True

    @model_validator(mode="after")
    def _values(self) -> Models:
        if (self.kl_weight is None) != (self.kind in ("pixelcnn_pp", "latent_variables")):
            raise ValueError(f"kl_weight {self.kl_weight} of kind {self.kind}; accepted: a value for agave and vae, none for the others")
        if not isinstance(self.levels, int) and not isinstance(self.kl_weight, float):
            raise ValueError("kl_weight and levels; accepted: several values of one of the two")
        if isinstance(self.kl_weight, list) and ("larger" in self.kl_weight[:-1] or self.kl_weight in ([], ["larger"])):
            raise ValueError(f"kl_weight {self.kl_weight}; accepted: values, after the last of which may stand 'larger'")
        return self

    def cells(self, params: Params) -> list[Cell]:
        """Return the cells, in the order in which they are named.

        Raises:
            NotTestableError: the grid of the preset lacks one.
        """
        if self.kind == "latent_variables":
            return [cell for cell in grid.further_cells(params) if cell.system in LATENT_VARIABLES]
        size = params.prepare.image_size
        resolution = {"full": size, "half": size // 2, "quarter": size // 4}.get(str(self.resolution), self.resolution)
        form = (self.kind, resolution, self.auxiliary)
        alike = [cell for cell in grid.all_cells(params) if (cell.kind, cell.resolution, cell.auxiliary) == form]
        if self.kind == "pixelcnn_pp":
            return alike
        several, one = ("kl_weight", "levels") if isinstance(self.levels, int) else ("levels", "kl_weight")
        there = {getattr(cell, several): cell for cell in alike if getattr(cell, one) == getattr(self, one)}
        values = _expanded(getattr(self, several), sorted(there, reverse=several == "levels"))
        for value in values:
            if value not in there:
                raise NotTestableError(f"the grid of this preset has no {self._described(value)}")
        return [there[value] for value in values]

    def _described(self, value: float | int | str) -> str:
        """Describe a model that the grid lacks by the value that is missing; "" stands for any value."""
        several = value if isinstance(value, str) else f"{value:g}"
        weight, levels = (several, str(self.levels)) if isinstance(self.levels, int) else (f"{self.kl_weight:g}", several)
        parts = [f"λ {weight}" if weight.startswith("above") else f"λ = {weight}"] * (weight != "")
        parts += [f"{levels} levels"] * (levels not in ("", "256"))
        parts += [f"resolution {self.resolution}"] * (self.resolution != "full")
        parts += ["no auxiliary loss"] * (not self.auxiliary)
        return " with ".join(["VAE" if self.kind == "vae" else "model", *[", ".join(parts)] * bool(parts)])


def _expanded(wanted: Any, known: list[Any]) -> list[Any]:
    """Return the values that `wanted` stands for; where "any" or "larger" matches none, say in words what the grid lacks."""
    if wanted == "any":
        return known or [""]
    values: list[Any] = list(wanted) if isinstance(wanted, list) else [wanted]
    if values[-1] == "larger":
        largest = max(values[:-1])
        values = [*values[:-1], *([value for value in known if value > largest] or [f"above {largest:g}"])]
    return values


class Test(Strict):
    """A measurement of some models, and how these are compared."""

    measure: str
    models: list[Models] = Field(default_factory=list)
    compare: str
    accept: Accept

    @model_validator(mode="after")
    def _known(self) -> Test:
        for kind, name, known in (("measure", self.measure, MEASURES), ("compare", self.compare, COMPARISONS)):
            if name not in known:
                raise ValueError(f"{kind} '{name}'; accepted: {', '.join(known)}")
        if bool(self.models) == (self.measure in WITHOUT_MODELS):
            raise ValueError(
                f"measure '{self.measure}' of {len(self.models)} models; accepted: " + ("none" if self.models else "some models")
            )
        return self

    def cells(self, params: Params) -> list[Cell]:
        """Return the cells of all models in their order; raises NotTestableError like `Models.cells`."""
        return [cell for models in self.models for cell in models.cells(params)]


class Claim(Strict):
    """A claim of the paper and its tests."""

    id: Annotated[str, Field(pattern=r"^C[1-9][0-9]*$")]
    where: str
    claim: str
    needs: Literal["anything", "published"] = "anything"
    tests: list[Test] = Field(min_length=1)
    note: str = ""


def load(path: Path) -> list[Claim]:
    """Read and check claims.yaml.

    Raises:
        UserError: the file is missing, no YAML list, or an entry is not accepted.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); accepted: a YAML list of claims") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, list) or not document:
        raise UserError(f"{path}: holds no list; accepted: a YAML list of claims")
    found: list[Claim] = []
    for number, entry in enumerate(document, start=1):
        try:
            found.append(Claim.model_validate(entry))
        except ValidationError as error:
            name = entry.get("id", f"entry {number}") if isinstance(entry, dict) else f"entry {number}"
            first = error.errors()[0]
            raise UserError(f"{path}: {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _check_ids(path, [claim.id for claim in found])
    return found


def _check_ids(path: Path, ids: Sequence[str]) -> None:
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise UserError(f"{path}: the id {twice[0]} is given twice; accepted: distinct ids")
