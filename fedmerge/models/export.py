"""A model as a file for other programs: TorchScript or ONNX, checked against the model on two batches."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError, short
from fedmerge.extras import extra
from fedmerge.models.cards import ModelCard
from fedmerge.models.inputs import Normalisation
from fedmerge.models.loading import network_of
from fedmerge.models.outputs import logits_of
from fedmerge.models.weights import load_weights
from fedmerge.schema.validation import is_folder, is_there
from fedmerge.seeding import generator
from fedmerge.storage.files import write

FORMATS = {".pt": "TorchScript", ".onnx": "ONNX"}
BATCHES = (2, 5)
"""Images in the two batches of the check: the exported model takes any number."""
NEAR = 1e-4
"""The largest difference of logits that is accepted, relative to the largest logit."""


class Deployed(nn.Module):
    """A network with its normalisation: uint8 images N x C x H x W in, logits N x classes out."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        shape = (1, len(normalisation.mean), 1, 1)
        self.register_buffer("mean", torch.tensor(normalisation.mean).reshape(shape))
        self.register_buffer("std", torch.tensor(normalisation.std).reshape(shape))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of uint8 images."""
        normal = (images.to(torch.float32) / 255 - self.mean) / self.std
        return logits_of(self.network(normal), self.network)


def export(weights: Path, card: ModelCard, output: Path) -> float:
    """Write a model as TorchScript (``.pt``) or ONNX (``.onnx``); return how far its logits are off.

    The normalisation is inside: the file takes uint8 images N x C x H x W, for any N. The written bytes are
    loaded again and asked for two batches of random images; they must answer as the model does, to ``NEAR``
    of the largest logit. Raises FedMergeError for an output that is there or ends otherwise, a network that
    cannot be exported, a missing extra, and answers that differ: then nothing is written.
    """
    if output.suffix not in FORMATS:
        raise FedMergeError(f"'{short(output)}' is no file that can be exported: end it in .pt or .onnx.")
    if is_there(output) or not is_folder(output.absolute().parent):
        raise FedMergeError(
            f"'{short(output)}' must be a new file in a folder that is there: choose another."
        )
    if not isinstance(card.normalisation, Normalisation):
        raise FedMergeError(
            f"'{card.name}' takes images by each hospital's own mean and deviation, and an export has those "
            "of one: give images of it with --normalise SOURCE."
        )
    model = Deployed(network_of(card.model, load_weights(weights), card.name), card.normalisation).eval()
    first, second = (_images(card, count) for count in BATCHES)
    made = (_torchscript if output.suffix == ".pt" else _onnx)(model, first)
    run = (_run_torchscript if output.suffix == ".pt" else _run_onnx)(made)
    worst = max(_difference(model, run, images) for images in (first, second))
    if not worst <= NEAR:
        raise FedMergeError(
            f"'{card.name}' as {FORMATS[output.suffix]} answers otherwise than the model (by {worst:.2g} of "
            f"the largest logit, more than {NEAR:g}): it was not written. Try the other format."
        )
    write(output, lambda part: part.write_bytes(made))
    return worst


def _images(card: ModelCard, count: int) -> Tensor:
    size = card.model.image_size
    shape = (count, card.model.in_channels, size, size)
    return torch.randint(0, 256, shape, generator=generator(0, "export", count, ""), dtype=torch.uint8)


@torch.no_grad()
def _difference(model: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor) -> float:
    own, other = model(images).double(), run(images).double()
    if own.shape != other.shape:
        return float("inf")
    return float((own - other).abs().max() / own.abs().max().clamp(min=1e-12))


def _torchscript(model: nn.Module, example: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), _saying(model, "TorchScript"):
        warnings.simplefilter("ignore")  # tracing is deprecated in favour of torch.export
        torch.jit.save(torch.jit.trace(model, example, check_trace=False), buffer)
    return buffer.getvalue()


def _run_torchscript(made: bytes) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(io.BytesIO(made))


def _onnx(model: nn.Module, example: Tensor) -> bytes:
    with extra("onnx", "an export to ONNX", "end the file in .pt"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    many = {"images": {0: torch.export.Dim("batch", min=1, max=2**16)}}
    with warnings.catch_warnings(), torch.no_grad(), _saying(model, "ONNX"):
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            model, (example,), dynamo=True, dynamic_shapes=many, input_names=["images"],
            output_names=["logits"], verbose=False,
        )  # fmt: skip
        assert made is not None
        written: bytes = made.model_proto.SerializeToString()
    return written


def _run_onnx(made: bytes) -> Callable[[Tensor], Tensor]:
    with extra("onnx", "the check of an export to ONNX", "end the file in .pt"):
        import onnxruntime
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@contextmanager
def _saying(model: nn.Module, kind: str) -> Iterator[None]:
    """Turn an error of an exporter inside the block into a sentence that names the network."""
    try:
        yield
    except FedMergeError:
        raise
    except Exception as error:
        name, first = type(model.get_submodule("network")).__name__, str(error).strip().split("\n", 1)[0]
        why = f"{type(error).__name__}: {short(first)}"
        raise FedMergeError(f"a {name} cannot be exported as {kind} ({why}).") from error
