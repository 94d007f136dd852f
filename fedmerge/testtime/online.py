"""The base of our test-time methods: it answers batches, counts passes, moves, saves and loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.models.flat import FlatModels
from fedmerge.testtime.batch import check_batch
from fedmerge.testtime.contract import Trace
from fedmerge.testtime.originals import Originals

_STREAM = "stream."
_DEVICES = ("cpu", "cuda", "mps", "xpu")


class Online(nn.Module):
    """A test-time method that counts its passes and stays in evaluation mode.

    A method writes ``answer``, and where it keeps something of the stream also ``reset``, ``stream_state``,
    ``take_stream`` and ``moved``. Inside ``answer`` neither ``torch.inference_mode`` nor ``torch.autocast``
    of the caller is in force: a method decides itself where it needs gradients and which precision it has.

    ``state_dict`` holds what was learned of the stream, so that a node of the same models and options that
    loads it goes on with the same bits. It raises FedMergeError, before anything is loaded, for a state of
    another method or of other models. Traces are not in it.

    order_free: see ``Node``; methods that answer each image by itself set it. ``batches``: answered since
    the last ``reset()``.
    """

    order_free: bool = False
    never_narrowed: tuple[str, ...] = ()
    """Own parameters and buffers that ``half()`` leaves in their dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.forward_passes: float = 0
        self.backward_passes: float = 0
        self.batches = 0
        self.originals: Originals | None = None

    def reset(self) -> None:
        """Forget the stream; methods that keep more than counts restore it too."""
        self.forward_passes = self.backward_passes = 0
        self.batches = 0

    def observe(self, batch: Tensor) -> tuple[Tensor, Trace | None]:
        """Return the logits N x C of a float batch N x C x H x W, and the trace, if any.

        N = 1 is allowed. The first batch's first two images also show that copies answer as the caller's
        models do, which are kept until then (``originals``); that is not counted as passes. Raises
        FedMergeError where they do not, for a batch that is not floating-point images or that the models
        cannot take, and for logits that are not finite.
        """
        check_batch(batch)
        with apart():
            given = batch.clone() if batch.is_inference() else batch.detach()
            if self.originals is not None:
                self.originals.check(given, self.copied)
                self.originals = None
            answer = self.answer(given)
        self.batches += 1
        return answer

    def forward(self, batch: Tensor) -> Tensor:
        """The logits of ``observe``."""
        return self.observe(batch)[0]

    def answer(self, batch: Tensor) -> tuple[Tensor, Trace | None]:
        """What ``observe`` returns for a batch that has been checked."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: ``mode`` is ignored."""
        return super().train(False)

    def copied(self, index: int) -> nn.Module | None:
        """The copy of a source that the node keeps; None where it has no ``sources``."""
        sources = getattr(self, "sources", None)
        return sources.model(index) if isinstance(sources, FlatModels) else None

    def fingerprint(self) -> str:
        """A hash of the models that the node was made of, in hexadecimal; by default of its ``sources``."""
        sources = getattr(self, "sources", None)
        assert isinstance(sources, FlatModels), "a method without sources has a hash of its own"
        return sources.fingerprint()

    def stream_state(self) -> dict[str, Tensor]:
        """Return what was learned of the stream, except parameters and buffers, by name."""
        return {}

    def take_stream(self, state: Mapping[str, Tensor]) -> None:
        """Take up what ``stream_state`` gave; parameters and buffers of submodules are loaded after it."""

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Also move what is neither a parameter nor a buffer; see ``carried``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: getattr(self, name).detach() for name in self.never_narrowed}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            getattr(self, name).data = carried(fn, value)
        self.moved(fn)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        counts = [self.forward_passes, self.backward_passes, self.batches]
        about = {
            "method": as_bytes(type(self).__name__),
            "sources": as_bytes(self.fingerprint()),
            "counts": torch.tensor(counts, dtype=torch.float64),
        }
        for name, value in (about | self.stream_state()).items():
            destination[f"{prefix}{_STREAM}{name}"] = value.detach()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        if local_metadata.get("assign_to_params_buffers", False):
            raise FedMergeError(
                "a node's state is copied into the tensors that it adapts, never put in their place: load it "
                "without assign=True."
            )
        given = {key.removeprefix(prefix): state_dict[key] for key in state_dict if key.startswith(prefix)}
        self._check_state(given)
        state = {key.removeprefix(_STREAM): given[key] for key in given if key.startswith(_STREAM)}
        for name in state:
            del state_dict[f"{prefix}{_STREAM}{name}"]
        self.reset()
        with torch.no_grad():
            self.take_stream({name: value.detach().clone() for name, value in state.items()})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        forward, backward, batches = state["counts"].tolist()
        self.forward_passes, self.backward_passes, self.batches = forward, backward, int(batches)

    def _check_state(self, given: Mapping[str, Tensor]) -> None:
        own, kind = self.state_dict(), type(self).__name__
        method, sources = f"{_STREAM}method", f"{_STREAM}sources"
        if not {method, sources, f"{_STREAM}counts"} <= given.keys():
            raise FedMergeError(
                f"this is not the state of a {kind}: it does not say of which method and models it is; load "
                "what its state_dict() gave, or build the node anew."
            )
        if (other := as_text(given[method])) != kind:
            raise FedMergeError(f"this is the state of a {other}, which a {kind} cannot take up.")
        if as_text(given[sources]) != as_text(own[sources]):
            raise FedMergeError(
                f"this is the state of a {kind} of other models: build the node of the models that it had, "
                "in their order and dtype, and load it there."
            )
        for key in sorted(given.keys() ^ own.keys()):
            if not key.startswith(_STREAM):
                raise FedMergeError(
                    f"this is the state of a {kind} with other options: '{key}' is in one of the two alone; "
                    "give the node the options that it had."
                )


@contextmanager
def apart() -> Iterator[None]:
    """Leave the caller's ``inference_mode`` and ``autocast`` for the block."""
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def carried(fn: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Move ``value`` as ``fn`` of ``Module._apply`` does, never to a narrower dtype; integers keep theirs.

    Then ``node.half()`` narrows the networks, but neither scores nor sums over a stream.
    """
    target = fn(value.new_empty(0))
    kept = not value.is_floating_point() or torch.finfo(target.dtype).bits < torch.finfo(value.dtype).bits
    return value.to(target.device, value.dtype if kept else target.dtype)


def as_bytes(text: str) -> Tensor:
    """A text as a tensor of its UTF-8 bytes, as a state dict can hold it."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def as_text(value: Tensor) -> str:
    """The inverse of :func:`as_bytes`."""
    return bytes(value.tolist()).decode()
