"""Fisher merging: each parameter weighted by how much the model's predictions depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedmerge.errors import FedMergeError
from fedmerge.merging.averages import Weights, normalised, parent_weights
from fedmerge.merging.checks import summation_order
from fedmerge.merging.fitting import in_float32
from fedmerge.merging.methods import FUSION, Context, Merged
from fedmerge.merging.parents import Parents
from fedmerge.merging.task_vectors import parameter_names, with_parameters
from fedmerge.models.entries import refuse_complex
from fedmerge.models.outputs import logits_of
from fedmerge.models.state import State
from fedmerge.registry import Needs
from fedmerge.seeding import generator
from fedmerge.tasks import task_of

_ENTRIES = 2**24  # of per-image gradients held at a time


@FUSION.method(
    "fisher",
    title="Fisher merging",
    paper="Merging Models with Fisher-Weighted Averaging, arXiv 2111.09832",
    needs=Needs(individual_models=True, fusion_images=True),
)
def fisher(
    parents: Parents,
    context: Context,
    *,
    weights: Weights = "uniform",
    expectation: Literal["exact", "sampled"] = "exact",
    floor: float = 1e-6,
) -> Merged:
    """Weigh each entry by its diagonal Fisher information: theta = sum a_m F_m theta_m / sum a_m F_m.

    Departs from the released code in two things: that divides each model's F by its L2 norm, unless told
    otherwise, and applies the floor to the first model alone.

    F_m = mean over images x of E_{y ~ p_m(y|x)} (d log p_m(y|x) / d theta)^2 on ``context.data``, in
    evaluation mode; no labels are used. ``expectation``: the sum over all classes, C backward passes
    an image (2 F with F findings), or one class an image, drawn from (seed, "fisher", name of the model). F
    below ``floor`` counts as ``floor``: a parameter that matters to no model is averaged. ``weights``: a_m,
    as in ``mean``. F is not rescaled per model: one that is sure everywhere has small F and a small say.

    Half precision is widened for the gradients. Buffers are averaged by the run's policy. Coefficients are
    a_m. Raises FedMergeError without images, for complex weights, and for weights or a floor below zero or
    all zero.
    """
    if context.data is None:
        raise FedMergeError("method 'fisher' measures what matters on images: pass data=.")
    shares = normalised(parent_weights(parents, weights))
    if min(shares) < 0 or not floor > 0:
        raise FedMergeError("fisher takes weights that are not negative, and a floor above zero.")
    upper: State = {}
    lower: State = {}
    refuse_complex(parents.load(0), "fisher")
    for i in summation_order(parents, shares):
        state = parents.load(i)
        draws = generator(context.seed, "fisher", site=parents.names[i])
        module, images = in_float32(parents.copy(i, context.example).to(context.device), context.data)
        try:
            diagonal = fisher_diagonal(module, images, expectation, draws)
        except RuntimeError as error:
            raise FedMergeError(
                f"'{parents.names[i]}' gives no gradients image by image, as fisher needs from torch.func "
                f"({str(error).splitlines()[0]}): use another method."
            ) from None
        for key, information in diagonal.items():
            weight = information.clamp_(min=floor).mul_(shares[i])
            part = weight * state[key].to(weight.device, torch.float64)
            upper[key] = upper[key] + part if key in upper else part
            lower[key] = lower[key] + weight if key in lower else weight
    parameters = {key: value / lower[key] for key, value in upper.items()}
    coefficients = dict(zip(parents.names, shares, strict=True))
    names = parameter_names(parents.template)
    return Merged(with_parameters(parents, context, parameters, names), coefficients)


def fisher_diagonal(
    model: nn.Module,
    images: Tensor,
    expectation: Literal["exact", "sampled"] = "exact",
    draws: torch.Generator | None = None,
) -> State:
    """The diagonal of the Fisher information of each parameter of ``model`` (eval mode), float64, its shape.

    images: N x C x H x W as the model takes them. Gradients per image are taken in chunks of at most 2^24
    entries (or one image).
    """
    names, task = parameter_names(model), task_of(model)
    everything = {key: value.detach() for key, value in model.named_parameters()}
    fixed = {key: value.detach() for key, value in model.named_buffers()}
    parameters = {key: everything[key] for key in dict.fromkeys(names.values())}

    def log_probability(theta: State, image: Tensor, target: Tensor) -> Tensor:
        output = functional_call(model, (everything | theta, fixed), (image.unsqueeze(0),))
        log_p = task.log_p(logits_of(output, model).flatten(1)).flatten(1)
        return log_p[0].gather(0, target.unsqueeze(0)).squeeze(0)

    gradients = vmap(grad(log_probability), in_dims=(None, 0, 0))
    total = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in parameters.items()}
    device = next(iter(parameters.values())).device
    chunk = max(1, _ENTRIES // sum(value.numel() for value in parameters.values()))
    for batch in images.split(chunk):
        batch = batch.to(device)
        for targets, shares in _targets(model, batch, expectation, draws):
            for key, value in gradients(parameters, batch, targets).items():
                squares = value.to(torch.float64).square_().reshape(len(value), -1)
                total[key] += (shares @ squares).view_as(total[key])
    return {key: value / len(images) for key, value in total.items()}


@torch.no_grad()
def _targets(
    model: nn.Module, batch: Tensor, expectation: str, draws: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outcomes (N) to take gradients of, and the weight of each (N, float64).

    They are classes; of several findings an image, the presence and the absence of each: these are
    independent given the image, so their information adds up.
    """
    outcomes = task_of(model).p(logits_of(model(batch), model).flatten(1).to(torch.float64))
    probabilities = outcomes.flatten(1)
    if expectation == "sampled":
        kinds = outcomes.shape[-1]
        for first in range(0, probabilities.shape[1], kinds):
            shares = probabilities[:, first : first + kinds]
            drawn = torch.multinomial(shares.cpu(), 1, generator=draws)[:, 0].to(batch.device)
            yield drawn + first, torch.ones_like(probabilities[:, 0])
        return
    for label in range(probabilities.shape[1]):
        yield torch.full((len(batch),), label, device=batch.device), probabilities[:, label]
