"""Build a network from its specification and weights, with no random initialisation and no second copy."""

from __future__ import annotations

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.meta import allocate, on_meta
from fedmerge.models.state import State, check_alike
from fedmerge.models.zoo import ModelSpec, build


def network_of(spec: ModelSpec, state: State, name: str) -> nn.Module:
    """Return the network of ``spec`` on the CPU with a copy of ``state``, ``name``'s weights, in eval mode.

    The network is built without memory, on PyTorch's meta device; then its tensors are allocated and filled
    once. Where that cannot give the same network, it is built and initialised as always before the weights
    are copied: where the meta device lacks an operation, a tensor is not in the state dict, or one tensor
    has two names. Raises FedMergeError, with ``name``, for weights of another architecture.
    """
    plain = spec.untrained()
    network = _without_memory(plain)
    if network is None or not _filled_by_its_state(network):
        network = build(plain, seed=0)
    check_alike((f"{spec.name} as its card says", name), (network.state_dict(), state))
    if any(value.is_meta for value in network.state_dict().values()):
        allocate(network)
    network.load_state_dict(state)
    return network.eval()


def _without_memory(spec: ModelSpec) -> nn.Module | None:
    try:
        with on_meta():
            return build(spec, seed=0)
    except (FedMergeError, RuntimeError):  # the ordinary build tells a fault of the specification
        return None


def _filled_by_its_state(network: nn.Module) -> bool:
    """Whether the state dict names every tensor of the network, each once."""
    tensors = [
        value
        for module in network.modules()
        for held in (module._parameters, module._buffers, vars(module))
        for value in held.values()
        if isinstance(value, Tensor)
    ]
    return len(tensors) == len(network.state_dict()) == len(set(map(id, tensors)))
