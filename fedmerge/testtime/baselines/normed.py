"""One network whose batch norms are its own, the batch's, or learned from the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from fedmerge.testtime.baselines.start import MergedBatchNorm, Start, ask
from fedmerge.testtime.norms import use_batch_statistics
from fedmerge.testtime.options import Norms
from fedmerge.testtime.stream_norms import Stream, shares_of, use_stream_norms

Learn = Literal["before", "after"]
"""Whether a batch's moments are learned before it is answered (two passes) or after (one)."""
OWN = Norms()
PRIOR = 1.0


class Normed(Start):
    """A method on the mean-merged model, with the batch norms that ``norms`` says.

    Learned from the stream, the network's own predictions say of which class an image is: a first pass with
    what was learned so far gives q, and a second learns from the batch and answers it (``"before"``); or the
    batch is answered by what was learned so far, and its moments are learned then (``"after"``).
    """

    def __init__(
        self, models: Sequence[nn.Module], batch_norm: MergedBatchNorm, norms: Norms, learn: Learn = "before"
    ) -> None:
        super().__init__(models, batch_norm)
        self.learn = learn
        self.stream = Stream(norms.prior, norms.by_class)
        if norms.statistics == "batch":
            use_batch_statistics(self.model)
        elif norms.statistics == "stream":
            use_stream_norms(self.model, self.stream)

    def reset(self) -> None:
        """Forget the stream."""
        super().reset()
        self.stream.reset()

    def pass_over(self, batch: Tensor, run: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the logits N x C of a batch; count its passes.

        run: the network's pass, which may keep features of the last one; None: the network.
        """
        network = self.model if run is None else run
        if self.stream.norms == 0:
            logits = ask(network, batch)
            self.forward_passes += 1
        elif self.learn == "after":
            with self.stream.holding():
                logits = ask(network, batch)
            self.stream.absorb(shares_of(self.task.p(logits)))
            self.forward_passes += 1
        else:
            q = shares_of(self.task.p(ask(network, batch)))
            with self.stream.learning(q):
                logits = ask(network, batch)
            self.forward_passes += 2
        return logits

    def stream_state(self) -> dict[str, Tensor]:
        """What the norms learned."""
        return {f"norms.{name}": value for name, value in self.stream.state().items()}

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up what the norms learned."""
        device = next(self.model.parameters()).device
        own = {key: value.to(device) for key, value in state.items() if key.startswith("norms.")}
        self.stream.take({key.removeprefix("norms."): value for key, value in own.items()})

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move what the norms learned."""
        self.stream.move(fn)
