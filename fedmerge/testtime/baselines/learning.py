"""What methods that learn from a memory share: their state, and norms whose statistics move only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.testtime.baselines.adapted import Snapshot, UnderAdam
from fedmerge.testtime.baselines.memories import Memory
from fedmerge.testtime.baselines.start import Start
from fedmerge.testtime.norms import BatchStatistics


class Remembering(UnderAdam, Start):
    """A method that learns from a memory of the stream, by Adam; ``remember`` says what it has.

    Its networks, its Adam and its memory are as at first after ``reset()``, and are carried in its state.
    """

    memory: Memory
    firsts: list[tuple[Snapshot, nn.Module]]

    def remember(self, capacity: int, *networks: nn.Module) -> None:
        """Begin with an empty memory; ``networks``: all that learn, as they are now."""
        self.memory = Memory(capacity)
        self.firsts = [(Snapshot(network), network) for network in networks]

    def reset(self) -> None:
        """Start a new stream: the networks as at first, an empty memory."""
        for snapshot, network in self.firsts:
            snapshot.restore(network)
        super().reset()
        self.memory.reset()

    def stream_state(self) -> dict[str, Tensor]:
        """Adam's moments, the masters, and the memory."""
        return super().stream_state() | {f"memory.{name}": v for name, v in self.memory.state().items()}

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up Adam's moments, the masters, and the memory."""
        super().take_stream(state)
        own = {key.removeprefix("memory."): v for key, v in state.items() if key.startswith("memory.")}
        self.memory.take(own)

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move Adam, the first values and the memory."""
        super().moved(fn)
        for snapshot, _ in self.firsts:
            snapshot.moved(fn)
        self.memory.moved(fn)


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
