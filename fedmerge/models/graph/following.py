"""Derive a network's program and tied neurons once, and remember them by what they depend on.

Another merge of an architecture, another round of a federation, another hospital's sums: none follows the
operations again, which takes longer than the arithmetic of a small fusion. A remembered program is used for
another model only where both have one ``fingerprint``; and every program, new or remembered, is run beside
the model it stands for and must give the same outputs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.entries import entries
from fedmerge.models.graph.fingerprint import fingerprint
from fedmerge.models.graph.neurons import Neurons, find_neurons
from fedmerge.models.graph.permute import check_neurons
from fedmerge.models.graph.program import Program
from fedmerge.models.modes import evaluating
from fedmerge.models.outputs import logits_of

MOST = 16
"""Programs that are remembered; the one unused for longest goes first."""

_programs: OrderedDict[Hashable, Program] = OrderedDict()
_neurons: WeakKeyDictionary[Program, Neurons] = WeakKeyDictionary()
_lock = threading.Lock()


def follow(model: nn.Module, example: Tensor) -> Program:
    """The operations of a network in evaluation mode; see ``Program`` for what is taken and refused.

    example: a batch as the model takes it. Raises FedMergeError, too, where the operations that were followed
    give other outputs for the example than the model does.
    """
    known = fingerprint(model)
    key = None if known is None else (known, tuple(example.shape[1:]), example.dtype)
    with _lock:
        found = _programs.get(key)
        if found is not None:
            _programs.move_to_end(key)
    if found is not None and _stands_for(found, model, example):
        return found
    program = Program(model, example)
    if not _stands_for(program, model, example):
        raise FedMergeError(
            f"the operations of {program.name}, as torch.export follows them, give other outputs than the "
            "model itself: give a model without chance and without state of its own in its forward pass."
        )
    if key is not None:
        with _lock:
            _programs[key] = program
            while len(_programs) > MOST:
                _programs.popitem(last=False)
    return program


def neurons_of(program: Program, state: Mapping[str, Tensor]) -> Neurons:
    """The tied neurons of a program, derived and checked once; of ``state`` only the shapes count.

    Raises FedMergeError as ``find_neurons`` and ``check_neurons`` do.
    """
    found = _neurons.get(program)
    if found is None:
        cpu = {key: value.detach().cpu() for key, value in state.items()}
        found = find_neurons(program, program.values(cpu))
        check_neurons(program, cpu, found)
        _neurons[program] = found
    return found


@torch.no_grad()
def _stands_for(program: Program, model: nn.Module, example: Tensor) -> bool:
    """Whether program and model give the same outputs for the example's first two images."""
    device = next((p.device for p in model.parameters()), example.device)
    images = example[:2].to(device)
    with evaluating(model):
        wanted = logits_of(model(images), model)
    found = program.run(program.values(entries(model), device), images)
    if found.shape != wanted.shape:
        return False
    known = wanted[wanted.isfinite()]
    scale = float(known.abs().max()) if known.numel() else 0.0
    close = 1e-2 if wanted.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return torch.allclose(found, wanted, rtol=close, atol=close * scale, equal_nan=True)
