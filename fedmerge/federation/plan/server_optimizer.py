"""Server optimizers: the server takes a step towards the round's mean instead of adopting it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from fedmerge.federation.plan.personal import Personal, personal_entries
from fedmerge.models.state import State, check_alike
from fedmerge.models.zoo import ModelSpec, build

_RATES = {"fedavgm": 1.0, "fedadam": 0.01, "fedyogi": 0.01, "fedadagrad": 0.01}


class ServerOptimizerOptions(BaseModel):
    """A server optimizer and its constants; written as its name, or as a mapping with the key ``method``.

    lr: the server's learning rate, by default 1 for FedAvgM and 0.01 for the others. momentum: of FedAvgM.
    beta1, beta2, tau: of the others; tau is the smallest update they scale up. beta1 is 0.9 by default, and 0
    for FedAdagrad, which has no momentum in the paper's experiments nor in Flower.

    Flower's defaults that differ: lr 0.1 of FedAdam and FedAdagrad, momentum 0 of FedAvgM.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["fedavgm", "fedadam", "fedyogi", "fedadagrad"]
    lr: float | None = Field(None, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        given = {"method": given} if isinstance(given, str) else given
        if isinstance(given, dict) and given.get("method") == "fedadagrad":
            return {"beta1": 0.0} | given
        return given

    @property
    def rate(self) -> float:
        """The server's learning rate."""
        return _RATES[self.method] if self.lr is None else self.lr


class ServerOptimizer:
    """FedAvgM (arXiv 1909.06335), FedAdam, FedYogi and FedAdagrad (arXiv 2003.00295, Algorithm 2).

    With the global weights x and the round's mean y, the update is d = y - x, entry by entry in float64:

    - FedAvgM: ``m <- momentum m + d`` and ``x <- x + lr m``;
    - the others: ``m <- beta1 m + (1 - beta1) d`` and ``x <- x + lr m / (sqrt(v) + tau)``, where v begins at
      tau^2 and becomes ``v + d^2`` (Adagrad), ``beta2 v + (1 - beta2) d^2`` (Adam), or
      ``v - (1 - beta2) d^2 sign(v - d^2)`` (Yogi). No bias is corrected, as in the paper; Flower multiplies
      FedAdam's step of round t by ``sqrt(1 - beta2^(t+1)) / (1 - beta1^(t+1))``, and begins all v at 0.

    moved: the entries that are optimised, a model's parameters. All others (batch-norm statistics, integer
    buffers) are taken from y: they are measurements, and a step beyond a mean of variances may be below zero.
    """

    def __init__(self, options: ServerOptimizerOptions, moved: Iterable[str]) -> None:
        self.options = options
        self.moved = tuple(moved)
        self._m: State = {}
        self._v: State = {}

    @classmethod
    def of(
        cls, options: ServerOptimizerOptions | None, model: ModelSpec, personal: Personal
    ) -> ServerOptimizer | None:
        """Return the optimizer of all parameters but the personal (there y - x is no update), or None."""
        if options is None:
            return None
        own = personal_entries(model, personal)
        names = [name for name, _ in build(model, 0).named_parameters()]
        return cls(options, [name for name in names if name not in own])

    @torch.no_grad()
    def step(self, current: State, mean: State) -> State:
        """Return the new global weights in ``current``'s dtypes. Raises FedMergeError for unlike states."""
        check_alike(("the global model", "the round's mean"), (current, mean))
        new = dict(mean)
        for key in self.moved:
            x = current[key].double()
            new[key] = (x + self.options.rate * self._direction(key, mean[key].double() - x)).to(
                current[key].dtype
            )
        return new

    def state_dict(self) -> State:
        """Return the moments ``m/KEY`` and ``v/KEY`` in float64; empty before the first step."""
        return {f"m/{key}": value.clone() for key, value in self._m.items()} | {
            f"v/{key}": value.clone() for key, value in self._v.items()
        }

    def load_state_dict(self, state: State) -> None:
        """Load a state from ``state_dict``."""
        self._m = {key[2:]: value.clone() for key, value in state.items() if key.startswith("m/")}
        self._v = {key[2:]: value.clone() for key, value in state.items() if key.startswith("v/")}

    def _direction(self, key: str, d: Tensor) -> Tensor:
        o = self.options
        m = self._m.get(key, torch.zeros_like(d))
        if o.method == "fedavgm":
            self._m[key] = o.momentum * m + d
            return self._m[key]
        v, square = self._v.get(key, torch.full_like(d, o.tau**2)), d.square()
        self._m[key] = o.beta1 * m + (1 - o.beta1) * d
        if o.method == "fedadagrad":
            self._v[key] = v + square
        elif o.method == "fedadam":
            self._v[key] = o.beta2 * v + (1 - o.beta2) * square
        else:
            self._v[key] = v - (1 - o.beta2) * square * torch.sign(v - square)
        return self._m[key] / (self._v[key].sqrt() + o.tau)
