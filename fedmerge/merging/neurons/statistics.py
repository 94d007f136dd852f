"""Where sums over fusion images come from: tensors here, or hospitals that keep their images.

A method asks, and does not know which of them answers. Every answer is a dict of float64 tensors, sums over
images, so the answers of several hospitals add up to that of their pooled images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.fx import Node

from fedmerge.errors import FedMergeError
from fedmerge.merging.neurons.sums import gram_of_inputs, layer_sums, rows
from fedmerge.models.graph import Layer, Program, Run
from fedmerge.models.graph.program import operation

Sums = dict[str, Tensor]
BATCH = 64
SMALL, MANY = 1024, 256


@runtime_checkable
class Statistics(Protocol):
    """Answers questions about fusion images with sums over them.

    - ``outer`` {layers, activation}: per layer K = A^T A, the parents' pre-activations side by side (n_tot x
      n_tot); ``activation: relu`` applies it first.
    - ``inputs`` {}: per parent and layer, X_m^T X_m of the parent's own inputs (``m/LAYER``).
    - ``importance`` {kind}: per parent and layer, summed importance of each channel (``m/LAYER``).
    - ``moments`` {}: per parent and layer, sums and sums of squares of each channel (``m/LAYER``: 2 x n).
    - ``walk`` {} with the fused model's whole state: begin at its input. Nothing is returned.
    - ``layer`` {name} with changed entries: the fused model runs up to this layer; returns gram, cross and
      outer, or with a tensor ``.mix`` (n_F x n_tot) gram and cross of the mixed targets A mix^T alone.
    - ``fused-moments`` {name} with changed entries: sums and sums of squares of the layer's channels in the
      fused model (2 x n); ``norm-moments`` {index}: of the inputs of its index-th batch norm.

    Every answer also has ``images`` and, where it makes sense, ``rows`` (samples x positions).
    """

    def ask(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        """Answer one question; raises FedMergeError for one that cannot be answered."""
        ...


class LocalStatistics:
    """Answers from images here. Only values that the networks still need are stored.

    fused: the program of the fused model. parents: for each, its program and its state. images: N x C x H x W
    as the models take them. labels: N. own: answer ``inputs`` and ``importance`` for this parent alone, as a
    hospital does for its own model.
    """

    def __init__(
        self,
        fused: Program,
        parents: Sequence[tuple[Program, Mapping[str, Tensor]]],
        images: Tensor,
        labels: Tensor | None = None,
        *,
        device: str | torch.device = "cpu",
        own: int | None = None,
    ) -> None:
        if len(images) == 0:
            raise FedMergeError("there are no fusion images: give at least one.")
        self.fused = fused
        self.parents = list(parents)
        self.images, self.labels, self.device = images, labels, device
        self.which = range(len(self.parents)) if own is None else [own]
        self._values: list[dict[str, Tensor]] = [p.values(state, device) for p, state in self.parents]
        self._fused_values: dict[str, Tensor] = {}
        self._walks: list[tuple[Run, list[Run]]] = []

    @property
    def walking(self) -> bool:
        """Whether a walk through the fused model has begun."""
        return bool(self._walks)

    def passed(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Return the entries that ``tensors`` would change although the walk has passed what reads them."""
        at = max((fused.place for fused, _ in self._walks), default=0)
        return [
            key
            for key, value in tensors.items()
            if key in self.fused.keys.values()
            and self._first_use(key) < at
            and not torch.equal(self._fused_values[self._placeholder(key)], value.to(self.device))
        ]

    def _first_use(self, key: str) -> int:
        """The place of the first operation that reads an entry of the fused model."""
        name = self._placeholder(key)
        (node,) = [node for node in self.fused.nodes if node.name == name]
        return min((self.fused.index[user] for user in node.users), default=len(self.fused.nodes))

    @torch.no_grad()
    def ask(self, kind: str, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        """Answer one question from the images here; see ``Statistics``."""
        answers: dict[str, Callable[..., Sums]] = {
            "outer": self._outer,
            "inputs": self._inputs,
            "importance": self._importance,
            "moments": self._moments,
            "walk": self._walk,
            "layer": self._layer,
            "fused-moments": self._fused_moments,
            "norm-moments": self._norm_moments,
        }
        found = answers[kind](options, tensors)
        return found | {"images": torch.tensor(float(len(self.images)), dtype=torch.float64)}

    def _outer(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        relu = options.get("activation") == "relu"
        sums: Sums = {}
        for x in self._batches():
            runs = [Run(p, v, x) for (p, _), v in zip(self.parents, self._values, strict=True)]
            for layer in self._named(options["layers"]):
                found = self._pre_activations(runs, layer)
                _add(sums, layer.name, _square(found.relu() if relu else found))
        return sums

    def _inputs(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        sums: Sums = {}
        for m in self.which:
            program = self.parents[m][0]
            for x in self._batches():
                run = Run(program, self._values[m], x)
                for layer in program.layers:
                    weight = self.parents[m][1][layer.weight]
                    _add(sums, f"{m}/{layer.name}", gram_of_inputs(layer, weight, run.until(layer.input)))
        return sums

    def _importance(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        from fedmerge.merging.attribution import importance

        found: Sums = {}
        for m in self.which:
            program, state = self.parents[m]
            with torch.enable_grad():
                each = importance(
                    program,
                    state,
                    self.images,
                    self.labels,
                    options["kind"],
                    batch_size=BATCH,
                    device=self.device,
                )
            found |= {f"{m}/{name}": values for name, values in each.items()}
            found[f"{m}/images"] = torch.tensor(float(len(self.images)), dtype=torch.float64)
        return found

    def _moments(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        sums: Sums = {}
        for x in self._batches():
            for m, (program, _) in enumerate(self.parents):
                run = Run(program, self._values[m], x)
                for layer in program.layers:
                    found = rows(run.until(layer.output), layer)
                    _add(sums, f"{m}/{layer.name}", _two(found))
                    _add(sums, f"rows/{layer.name}", _count(found, m == 0))
        return sums

    def _walk(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        self._fused_values = self.fused.values(tensors, self.device)
        self._walks = [
            (
                Run(self.fused, self._fused_values, x),
                [Run(p, v, x) for (p, _), v in zip(self.parents, self._values, strict=True)],
            )
            for x in self._batches()
        ]
        return {}

    def _layer(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        self._change(tensors)
        (layer,) = self._named([options["name"]])
        mix = tensors.get(".mix")
        weight = self._fused_values[self._placeholder(layer.weight)]
        sums: Sums = {}
        for fused, runs in self._walks:
            targets = self._pre_activations(runs, layer)
            if mix is None:
                _add(sums, "outer", _square(targets))
            else:
                targets = targets @ mix.to(targets).T
            found = layer_sums(layer, weight, fused.until(layer.input), targets)
            _add(sums, "gram", found.gram)
            _add(sums, "cross", found.cross)
            _add(sums, "rows", _count(targets))
        return sums

    def _fused_moments(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        self._change(tensors)
        (layer,) = self._named([options["name"]])
        return self._ahead(layer.output, lambda value: rows(value, layer))

    def _norm_moments(self, options: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sums:
        self._change(tensors)
        given = norms(self.fused)[options["index"]].args[0]
        assert isinstance(given, Node)
        return self._ahead(given, lambda value: value.movedim(1, -1).reshape(-1, value.shape[1]).double())

    def _ahead(self, node: Node, as_rows: Callable[[Tensor], Tensor]) -> Sums:
        """Moments of a value that lies ahead of the walk, which stays where it is before ``node``'s layer."""
        sums: Sums = {}
        for fused, _ in self._walks:
            found = as_rows(fused.fork().until(node))
            _add(sums, "moments", _two(found))
            _add(sums, "rows", _count(found))
        return sums

    def _change(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over changed entries of the fused model; operations that lie ahead will see them."""
        for key, value in tensors.items():
            if not key.startswith("."):
                self._fused_values[self._placeholder(key)] = value.to(self.device)

    def _placeholder(self, key: str) -> str:
        return next(name for name, known in self.fused.keys.items() if known == key)

    def _batches(self) -> list[Tensor]:
        """Images in batches of ``BATCH``; those of up to ``SMALL`` values, of ``MANY``, which is faster."""
        size = MANY if self.images[0].numel() <= SMALL else BATCH
        return [x.to(self.device) for x in self.images.split(size)]

    def _named(self, names: Sequence[str]) -> list[Layer]:
        wanted = set(names)
        return [layer for layer in self.fused.layers if layer.name in wanted]

    def _pre_activations(self, runs: Sequence[Run], layer: Layer) -> Tensor:
        """Rows x n_tot: the parents' pre-activations of one layer, side by side."""
        place = self.fused.layers.index(layer)
        found = []
        for run in runs:
            own = run.program.layers[place]
            found.append(rows(run.until(own.output), own))
        return torch.cat(found, 1)


def norms(program: Program) -> list[Node]:
    """The batch norms of a network, in the order in which they run."""
    return [node for node in program.nodes if operation(node) == "batch_norm"]


def _add(sums: Sums, key: str, part: Tensor) -> None:
    if key in sums:
        sums[key].add_(part)
    else:
        sums[key] = part


def _square(found: Tensor) -> Tensor:
    return found.T @ found


def _two(found: Tensor) -> Tensor:
    return torch.stack([found.sum(0), found.square().sum(0)])


def _count(found: Tensor, really: bool = True) -> Tensor:
    return torch.tensor(float(len(found) if really else 0), dtype=torch.float64)
