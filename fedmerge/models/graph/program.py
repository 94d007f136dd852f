"""A network as a list of operations, derived with ``torch.export``, that can be run one at a time."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from fedmerge.errors import FedMergeError
from fedmerge.models.graph.layers import Layer, Norm, layer_at
from fedmerge.models.graph.operations import VIEWS, apply, operation
from fedmerge.models.graph.quiet import quiet
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of

__all__ = ["VIEWS", "Layer", "Norm", "Program", "Run", "apply", "operation"]


class Program:
    """The operations of a network in evaluation mode, in order; weights are given to every run.

    model: any classifier that ``torch.export`` can follow (no control flow that depends on images). example:
    a batch as the model takes it; runs take any number of images. The program holds no weights and no
    image (of ``example`` only shape and dtype), but tensors that are not in the state dict (``constants``).
    Of a network that gives a dict or a tuple the output is its logits (``outputs.logits_of``). Raises
    FedMergeError where the network cannot be followed, or has one weight under two names.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.name = type(model).__name__
        images = example[:2].detach().cpu()
        images = images if len(images) == 2 else images.expand(2, *images.shape[1:]).clone()
        self.example = images.to("meta")
        _refuse_tied(model)
        exported = _export(model, images)
        self.graph = exported.graph
        self.nodes: list[Node] = [node for node in self.graph.nodes if node.op != "output"]
        self.keys, self.constants = _placeholders(model, exported)
        self.input = self._only_input()
        self.output = self._only_output(exported.graph_signature.user_outputs)

    @cached_property
    def index(self) -> dict[Node, int]:
        """The place of each operation."""
        return {node: place for place, node in enumerate(self.nodes)}

    @cached_property
    def dead_after(self) -> list[list[Node]]:
        """For each operation, the values that nothing after it reads."""
        last: dict[Node, int] = {}
        for place, node in enumerate(self.nodes):
            for given in node.all_input_nodes:
                last[given] = place
            last.setdefault(node, place)
        last[self.output] = len(self.nodes)
        dead: list[list[Node]] = [[] for _ in range(len(self.nodes) + 1)]
        for node, place in last.items():
            if node.op != "placeholder" or node is self.input:
                dead[place].append(node)
        return dead

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The linear and convolutional layers in the order in which they run.

        Raises FedMergeError where one is called twice.
        """
        found = [layer for node in self.nodes if (layer := layer_at(node, self.keys)) is not None]
        calls = Counter(layer.weight for layer in found)
        for layer in found:
            if calls[layer.weight] > 1:
                raise FedMergeError(
                    f"the layer '{layer.name}' of {self.name} is called {calls[layer.weight]} times in one "
                    "forward pass; layers that share weights over depth are not supported by this method."
                )
        return tuple(found)

    def values(self, state: Mapping[str, Tensor], device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The values of the program's placeholders for one state dict.

        They share the state's memory where it is on ``device`` already; no run writes into them. Raises
        FedMergeError where the state lacks an entry.
        """
        lost = [key for key in self.keys.values() if key not in state]
        if lost:
            raise FedMergeError(f"the state has no entry '{lost[0]}': give a state dict of {self.name}.")
        found = {name: state[key].detach().to(device) for name, key in self.keys.items()}
        return found | {name: value.to(device) for name, value in self.constants.items()}

    def run(self, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The network's output for a batch; ``values`` as :meth:`values` gives them."""
        return Run(self, values, x).until(self.output)

    def path(self, node: Node) -> str:
        """Where an operation stands in the model: its module's name, for messages."""
        stack = node.meta.get("nn_module_stack", {})
        return str(list(stack.values())[-1][0]) if stack else node.name

    def _only_input(self) -> Node:
        known = {*self.keys, *self.constants}
        inputs = [node for node in self.nodes if node.op == "placeholder" and node.name not in known]
        if len(inputs) != 1:
            raise FedMergeError(f"{self.name} takes {len(inputs)} inputs; it must take one batch of images.")
        for node in self.nodes:
            if node.op not in ("placeholder", "call_function"):
                raise FedMergeError(
                    f"{self.name} holds a part that cannot be taken apart ('{node.target}'), such as a "
                    "torch.cond or an enable_grad() in its forward pass: take it out."
                )
        return inputs[0]

    def _only_output(self, names: Sequence[Any]) -> Node:
        outputs = [node for node in self.nodes if node.name in names]
        if len(names) != 1 or len(outputs) != 1:
            raise FedMergeError(
                f"the forward pass of {self.name} gives {len(names)} values; "
                "it must give one tensor of scores."
            )
        return outputs[0]


class Run:
    """A network on its way through one batch: what it has reached, and the values still needed.

    values: as :meth:`Program.values` gives them; looked up when an operation runs, so entries of layers that
    lie ahead may still be changed. start: another value than the input to begin from, and its node; all that
    follows must depend on the input through it alone, and its first dimension must be the images. Numbers of
    another precision than the example's (float64 for float32, say) may be given; the program follows.
    """

    def __init__(
        self, program: Program, values: Mapping[str, Tensor], x: Tensor, start: Node | None = None
    ) -> None:
        self.program = program
        self.values = values
        start = program.input if start is None else start
        self.alive: dict[Node, Any] = {start: x}
        self.place = 0 if start is program.input else program.index[start] + 1
        self._device, self._dtype = x.device, x.dtype
        if start is not program.input:
            shape = (len(x), *program.example.shape[1:])
            for node in program.input.users:
                if operation(node) == "sym_size":
                    dim = node.args[1]
                    assert isinstance(dim, int)
                    self.alive[node] = shape[dim]

    def until(self, node: Node, *, keep: Sequence[Node] = ()) -> Tensor:
        """Run up to and including ``node`` and return its value.

        Values that nothing later reads are freed, except those in ``keep``, which stay for the rest of the
        run. Raises FedMergeError where the node's value has been freed.
        """
        stop = self.program.index[node]
        while self.place <= stop:
            self._step(keep, node)
        if node not in self.alive:
            raise FedMergeError(f"the value of '{node.name}' has been freed; name it in keep= to hold it.")
        value: Tensor = self.alive[node]
        return value

    def fork(self) -> Run:
        """A run of its own from here; it shares the values reached so far."""
        other = copy.copy(self)
        other.alive = dict(self.alive)
        return other

    def _step(self, keep: Sequence[Node], wanted: Node) -> None:
        node = self.program.nodes[self.place]
        if node.op != "placeholder" and node not in self.alive:
            self.alive[node] = self._apply(node)
        for dead in self.program.dead_after[self.place]:
            if dead not in keep and dead is not wanted:
                self.alive.pop(dead, None)
        self.place += 1

    def _apply(self, node: Node) -> Any:
        if operation(node).startswith("_assert"):  # of the example's dtype and device
            return None
        return apply(node, self._read, self.alive, self._convert)

    def _read(self, node: Node) -> Any:
        if node in self.alive:
            return self.alive[node]
        if node.op == "placeholder":
            if node is self.program.input:
                raise FedMergeError(
                    f"{self.program.name} cannot be run from there: it reads its input again."
                )
            return self.values[node.name]
        return self._apply(node)  # before the start, and the same for every batch

    def _convert(self, leaf: Any) -> Any:
        """Replace the example's device and dtype in an operation's arguments by those of this run."""
        if isinstance(leaf, torch.device):
            return self._device
        return self._dtype if leaf == self.program.example.dtype else leaf


def _placeholders(
    model: nn.Module, exported: torch.export.ExportedProgram
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return, by placeholder, the keys of entries of the state dict, and the tensors outside it."""
    signature = exported.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    saved = model.state_dict().keys()
    keys = {name: key for name, key in named.items() if key in saved}
    others = {name: key for name, key in named.items() if key not in saved}
    others |= getattr(signature, "inputs_to_lifted_tensor_constants", {})
    held = {**exported.state_dict, **exported.constants}
    return keys, {name: held[key].detach().clone().cpu() for name, key in others.items()}


def _refuse_tied(model: nn.Module) -> None:
    """Refuse a weight under two keys of the state dict: it would be changed under one of them only."""
    names: dict[int, list[str]] = defaultdict(list)
    for found in (
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
    ):
        for name, tensor in found:
            names[id(tensor)].append(name)
    saved = model.state_dict().keys()
    for same in names.values():
        tied = [name for name in same if name in saved]
        if len(tied) > 1:
            raise FedMergeError(
                f"'{tied[0]}' and '{tied[1]}' of {type(model).__name__} are one tensor under two names, "
                "which this method does not support: keep it under one name."
            )


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    device = next((p.device for p in model.parameters()), example.device)
    with evaluating(model), torch.no_grad(), _giving_logits(model):
        try:
            with quiet():
                return torch.export.export(
                    model,
                    (example.to(device),),
                    dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                    strict=False,
                )
        except FedMergeError:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n", 1)[0][:200]
            raise FedMergeError(
                f"the operations of {type(model).__name__} cannot be followed by torch.export "
                f"({type(error).__name__}: {reason}): give a batch the model takes as data=, and a model "
                "without control flow that depends on its input or on the number of images."
            ) from None


@contextmanager
def _giving_logits(model: nn.Module) -> Iterator[None]:
    """Within the block the model returns its logits alone, whatever it returns besides."""
    handle = model.register_forward_hook(lambda module, args, output: logits_of(output, module))
    try:
        yield
    finally:
        handle.remove()
