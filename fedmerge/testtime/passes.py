"""How a node's forward passes are made: one after another, or on a GPU as graphs with a branch a source.

A pass of a small network on a GPU is mostly the host launching kernels. A CUDA graph launches all of them
at once, and sources that do not wait for one another fill the device together. A graph gives the numbers of
the plain pass, because it is a recording of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fedmerge.errors import FedMergeError
from fedmerge.models.wide import wide

Precision = Literal["float32", "bfloat16"]
"""Of the arithmetic in a float32 network; what it returns, scores, coefficients and merges are float32."""
Work = Callable[..., tuple[Tensor, ...]]
MOST = 16
"""Graphs that are kept at most; each holds the memory of its activations."""


class Passes:
    """Makes passes over batches, and records those on a CUDA device that come again with the same shapes.

    graphs: whether to record. precision: ``bfloat16`` makes passes under ``torch.autocast``, which give
    float32; else they give what the network does. A recording reads the weights where they lay when it was
    made, so call ``forget()`` whenever they move.
    """

    def __init__(self, graphs: bool = True, precision: Precision = "float32") -> None:
        self.graphs, self.precision = graphs, precision
        self.forget()

    def forget(self) -> None:
        """Drop all recordings."""
        self.met: set[tuple[Any, ...]] = set()
        self.recorded: dict[tuple[Any, ...], Recording] = {}
        self.refused: dict[str, str] = {}
        self.recording = False

    @torch.no_grad()
    def __call__(self, name: str, work: Work, *given: Tensor) -> tuple[Tensor, ...]:
        """``work(*given)``. The result may be overwritten by the next call with this ``name``.

        name: one for each ``work``, whatever tensors it is given. Shapes are recorded when met for the second
        time. Work that cannot be recorded is done plainly; ``refused`` says why.
        """
        if not self.graphs or given[0].device.type != "cuda" or name in self.refused:
            return self._plain(work, given)
        key = (name, *((value.shape, value.stride(), value.dtype) for value in given))
        if key in self.recorded:
            return self.recorded[key](given)
        if key not in self.met or len(self.recorded) >= MOST:
            self.met.add(key)
            return self._plain(work, given)
        self.recording = True
        try:
            with torch.cuda.device(given[0].device):
                self.recorded[key] = Recording(lambda *inputs: self._plain(work, inputs), given)
        except (RuntimeError, FedMergeError) as error:
            self.refused[name] = str(error).split("\n", 1)[0]
        finally:
            self.recording = False
        if name in self.refused:
            return self._plain(work, given)
        return self.recorded[key](given)

    def side_by_side(self, runs: Sequence[Callable[[], Any]]) -> list[Any]:
        """The results of all ``runs``, part of one work; in a recording each is a branch of its own."""
        if not self.recording:
            return [run() for run in runs]
        trunk = torch.cuda.current_stream()
        branches = [torch.cuda.Stream() for _ in runs]
        found = []
        for branch, run in zip(branches, runs, strict=True):
            branch.wait_stream(trunk)
            with torch.cuda.stream(branch):
                found.append(run())
        for branch in branches:
            trunk.wait_stream(branch)
        return found

    def _plain(self, work: Work, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        half = self.precision == "bfloat16"
        # no cache of weights as bfloat16: they change between passes, and a graph would keep the first ones
        with torch.autocast(given[0].device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            return tuple(wide(value) if half else value for value in work(*given))

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a node records its own passes."""
        return {"graphs": self.graphs, "precision": self.precision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class Recording:
    """A CUDA graph of ``work`` with inputs like ``given``."""

    def __init__(self, work: Work, given: Sequence[Tensor]) -> None:
        self.inputs = [value.clone() for value in given]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = work(*self.inputs)

    def __call__(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Replay; the outputs are the same tensors each time."""
        for own, value in zip(self.inputs, given, strict=True):
            own.copy_(value)
        self.graph.replay()
        return self.outputs
