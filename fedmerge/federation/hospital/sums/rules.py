"""A hospital's rules for sums over its images: its own settings, which no message changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedmerge.federation.packing import MINIMUM
from fedmerge.schema.validation import is_there, load_yaml, validate

Rows = Literal["every", "pixels", "off"]


class SumRules(BaseModel):
    """A hospital's rules for sums over its images; the defaults are those of a node in a deployment.

    minimum_images: the fewest different images in a share, and in any cell that the shares answered so far
    can single out together (``ledger``). rows: the layers where there must be as many effective rows as
    columns (``rank``): ``every``, those that read ``pixels``, or none (``off``). requests: the most that are
    ever answered about one set of images; None: any number.

    noise: standard deviation of Gaussian noise, in units of the most that one image can change a sum; None:
    no noise. clip: the root mean square of the entries, for each row, to which an image's part of a sum is
    scaled down. epsilon, delta: the most that all noised sums together may cost; then requests are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum_images: int = Field(default=MINIMUM, ge=1)
    rows: Rows = "every"
    requests: int | None = Field(default=10_000, ge=1)
    noise: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    delta: float = Field(default=1e-5, gt=0, lt=1)

    @model_validator(mode="after")
    def _epsilon_needs_noise(self) -> SumRules:
        if self.epsilon is not None and self.noise is None:
            raise ValueError("epsilon bounds what noised answers cost, but there is no noise: set noise, too")
        return self

    def at_least(self, minimum: int) -> SumRules:
        """Return the same rules with ``minimum_images`` raised to at least ``minimum``."""
        return self.model_copy(update={"minimum_images": max(self.minimum_images, minimum)})

    def spent(self, answers: int) -> float:
        """Return epsilon at ``delta`` of ``answers`` noised sums, each Gaussian and 1 / (2 noise^2)-zCDP.

        epsilon = rho + 2 sqrt(rho ln(1 / delta)) (Bun and Steinke, arXiv 1605.02065, proposition 1.3).
        Infinite without noise.
        """
        if self.noise is None:
            return math.inf if answers else 0.0
        rho = answers / (2 * self.noise**2)
        return rho + 2 * math.sqrt(rho * math.log(1 / self.delta))


SIMULATED = SumRules(rows="pixels", requests=None)
"""The rules of hospitals in a simulation, which holds all images anyway."""


def rules_of(folder: Path | None) -> SumRules:
    """Read the rules in a node's folder: ``sums:`` in its node.yaml. None: those of a simulation.

    Raises FedMergeError for an invalid section.
    """
    if folder is None:
        return SIMULATED
    path = folder / "node.yaml"
    given = load_yaml(path) if is_there(path) else {}
    written = given.get("sums", {}) if isinstance(given, dict) else given
    return validate(SumRules, written, f"{path}, sums")
