"""What methods that learn from a memory share: norms whose statistics move only then, and its checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.testtime.norms import BatchStatistics


class LearningNorm(BatchStatistics):
    """A batch norm whose statistics move in passes inside ``learning``, and only there."""

    learns: bool = False


@contextmanager
def learning(model: nn.Module) -> Iterator[None]:
    """Let the norms of a network that can learn do so in passes inside."""
    norms = [module for module in model.modules() if isinstance(module, LearningNorm)]
    for norm in norms:
        norm.learns = True
    try:
        yield
    finally:
        for norm in norms:
            norm.learns = False


def check_memory(capacity: int, every: int) -> None:
    """Raise FedMergeError unless a memory holds at least two images and is learned from at times."""
    if capacity < 2 or every < 1:
        raise FedMergeError(
            f"capacity is {capacity} and every {every}; a memory must hold at least 2 images, and be learned "
            "from after at least 1."
        )


def memory_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a node's state that are its memory's, by the memory's names."""
    return {key.removeprefix("memory."): v for key, v in state.items() if key.startswith("memory.")}
