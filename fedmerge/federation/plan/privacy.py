"""The section ``federation.privacy``: central noise, central noise with an adaptive clip, or local noise."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedmerge.federation.plan.section import Section

SMALLEST, LARGEST = 1e-9, 1e9
"""Bounds of a clip, far from the limits of a float64 and of the noise's grid."""

Clip = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
Noise = Annotated[float, Field(ge=1e-3, le=1e6)]


class _Private(Section):
    """The options of all kinds of privacy.

    noise: the standard deviation of the noise, in units of the clip. delta: the delta of the reported
    epsilon. simulate: the noise comes from the run's seed, so that the run can be repeated; whoever knows the
    seed (every hospital does) can subtract it, so no epsilon is reported.
    """

    noise: Noise
    delta: float = Field(1e-5, gt=0, lt=1)
    simulate: bool = False

    @property
    def multiplier(self) -> float:
        """The noise multiplier: its deviation in units of the most that one hospital can change."""
        return self.noise


class CentralPrivacy(_Private):
    """The server clips each update to ``clip`` (L2 norm over all weights) and adds noise to their sum."""

    kind: Literal["central"] = "central"
    clip: Clip


class AdaptivePrivacy(_Private):
    """As central, but the clip follows a quantile of the updates' norms (Andrew et al., arXiv 1905.03871).

    clip: of the first round. quantile: the target share of updates within the clip. rate: how fast the clip
    follows. count_noise: the deviation of the noise on the number of updates within the clip; by default a
    twentieth of the hospitals in a round, as in the paper, but at least ``noise``. The count spends a part of
    the privacy of ``noise``, so updates get a little more noise (``on_updates``).
    """

    kind: Literal["adaptive"]
    clip: Clip = 0.1
    quantile: float = Field(0.5, ge=0, le=1)
    rate: float = Field(0.2, gt=0, le=1)
    count_noise: float | None = Field(None, gt=0, le=1e6)

    @model_validator(mode="after")
    def _leaves_something(self) -> AdaptivePrivacy:
        if self.count_noise is not None and self.noise >= 2 * self.count_noise:
            raise ValueError(
                f"count_noise {self.count_noise:g} makes the count alone tell more than noise {self.noise:g} "
                f"allows for both: set it above {self.noise / 2:g}"
            )
        return self

    def on_count(self, hospitals: int) -> float:
        """Return the deviation of the noise on the count, for so many hospitals in a round."""
        return max(hospitals / 20, self.noise) if self.count_noise is None else self.count_noise

    def on_updates(self, hospitals: int) -> float:
        """Return ``(noise^-2 - (2 count_noise)^-2)^(-1/2)``, the noise on updates in units of the clip.

        Theorem 1 of the paper. One hospital moves a count centred at half its range by 1/2, so sum and count
        together are one Gaussian mechanism with the multiplier ``noise``.
        """
        return float((self.noise**-2 - (2 * self.on_count(hospitals)) ** -2) ** -0.5)

    def next_clip(self, clip: float, share: float) -> float:
        """Return ``clip exp(-rate (share - quantile))`` for a noised share of updates within the clip."""
        return min(max(clip * math.exp(-self.rate * (share - self.quantile)), SMALLEST), LARGEST)


class LocalPrivacy(_Private):
    """Each hospital clips its update to ``clip`` and adds noise to it before it leaves.

    The server is not trusted with updates. A hospital's clipped updates for any two data sets are at most
    ``2 clip`` apart, so the noise multiplier is half of ``noise``.
    """

    kind: Literal["local"]
    clip: Clip

    @property
    def multiplier(self) -> float:
        """The noise's deviation in units of ``2 clip``."""
        return self.noise / 2


def _central_by_default(given: Any) -> Any:
    return {"kind": "central"} | given if isinstance(given, dict) else given


Privacy = Annotated[
    CentralPrivacy | AdaptivePrivacy | LocalPrivacy,
    Field(discriminator="kind"),
    BeforeValidator(_central_by_default),
]
