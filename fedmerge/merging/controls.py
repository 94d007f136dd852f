"""Controls that a fusion on images should beat: train one parent, or its head, to answer like all of them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError
from fedmerge.merging.fitting import DESCENT, Descent, descend, divergence, in_float32, soft_targets
from fedmerge.merging.matching.solve import solve
from fedmerge.merging.methods import FUSION, Context, Merged, uniform
from fedmerge.merging.parents import Parents
from fedmerge.models.copies import faithful, fill
from fedmerge.models.entries import entries
from fedmerge.models.heads import apply_head, features, find_head
from fedmerge.models.narrow_strides import sound_strides
from fedmerge.models.outputs import logits_of
from fedmerge.models.state import average, check_alike, narrowed
from fedmerge.registry import Needs
from fedmerge.seeding import generator

Student = Literal["first", "mean"]
AnyStudent = Literal["first", "mean", "into"]
BATCH = 64


@FUSION.method(
    "distill",
    title="Distillation",
    paper="Distilling the knowledge in a neural network, arXiv 1503.02531",
    needs=Needs(individual_models=True, fusion_images=True),
    own_state=True,
    any_width=True,
)
def distill(
    parents: Parents,
    context: Context,
    *,
    student: AnyStudent = "first",
    temperature: float = 2.0,
    descent: Descent = DESCENT,
) -> Merged:
    """Train one network, on the fusion images, to the mean of the parents' probabilities.

        minimise T^2 mean_n KL((1/M) sum_m softmax(z_m(x_n) / T) | softmax(z(x_n) / T))

    student: begin as the first parent, as the mean of all, or as the module ``into=`` given to ``merge`` is,
    with its weights; it may be of another width, as parents may. No label is used. descent: Adam on four
    fifths of the images, stopped after ``patience`` epochs without improvement on the last fifth, the best
    weights restored: the start is one of them. Batch norms train on their batches (batches of one excepted);
    dropout is off and images are not augmented, so small sets over-fit sooner than in common distillation.
    The images and M times their logits are held in memory. Raises FedMergeError for fewer than two images,
    for a student of another architecture than the model to be made, and for other numbers of classes.
    """
    images, task = _images(context, "distill"), context.task
    begun = _student(parents, context, student)
    targets = soft_targets(_alike_logits(parents, begun, context, images), temperature, task).float()
    module, images = in_float32(begun.to(context.device), images)

    def loss(indices: Tensor, training: bool) -> Tensor:
        _norms(module, training and len(indices) > 1)
        logits = logits_of(module(images[indices].to(context.device)), module).flatten(1)
        return divergence(logits, targets[indices].to(logits), temperature, task)

    rng = generator(context.seed, "distill")
    with sound_strides(module):
        fit = descend(
            list(module.parameters()), loss, len(images), descent, rng=rng, buffers=list(module.buffers())
        )
    decision = {"student": student, "epochs": fit.epochs, "best_epoch": fit.best, "loss": fit.loss}
    return _merged(parents, module, decision, student)


@FUSION.method(
    "refit-head",
    title="Refitted head",
    paper="Model Fusion via Neuron Interpolation (last-layer distillation), arXiv 2507.00037",
    needs=Needs(individual_models=True, features=True, fusion_images=True),
    own_state=True,
)
def refit_head(
    parents: Parents,
    context: Context,
    *,
    student: Student = "first",
    fit: Literal["distill", "ridge"] = "distill",
    temperature: float = 1.0,
    ridge: float = 1e-3,
    descent: Descent = DESCENT,
) -> Merged:
    """Keep one parent's encoder and fit its head alone to what all parents answer together.

    fit: ``distill``, as in the method of that name but for the head (its features are computed once); or
    ``ridge``, least squares to the parents' mean logits in closed form, ``ridge`` in units of the mean
    squared feature and pulled towards the student's own head, which must be a linear layer then. Whatever a
    fusion gains beyond this it has not gained by refitting its last layer. Raises FedMergeError for fewer
    than two images.
    """
    images, task = _images(context, "refit-head"), context.task
    logits = _logits(parents, context, images)
    module, images = in_float32(_student(parents, context, student).to(context.device), images)
    head = find_head(module, images[:2].to(context.device))
    with torch.no_grad():
        inputs = torch.cat([features(module, head, x.to(context.device)) for x in images.split(BATCH)])
    part = module.get_submodule(head)
    decision: dict[str, Any] = {"student": student, "head": head}
    if fit == "ridge":
        decision["loss"] = _by_ridge(part, head, inputs, torch.stack(logits).double().mean(0), ridge)
        return _merged(parents, module, decision)
    targets = soft_targets(logits, temperature, task).to(inputs)

    def loss(indices: Tensor, training: bool) -> Tensor:
        indices = indices.to(inputs.device)
        return divergence(apply_head(module, head, inputs[indices]), targets[indices], temperature, task)

    found = descend(
        list(part.parameters()), loss, len(images), descent, rng=generator(context.seed, "refit-head")
    )
    decision |= {"epochs": found.epochs, "best_epoch": found.best, "loss": found.loss}
    return _merged(parents, module, decision)


@torch.no_grad()
def _by_ridge(part: nn.Module, head: str, inputs: Tensor, targets: Tensor, ridge: float) -> float:
    """Fit a linear layer to N x C targets on N x d features, in place; returns the mean squared error."""
    if not isinstance(part, nn.Linear) or inputs.ndim != 2:
        raise FedMergeError(
            f"the head '{head}' is not one linear layer on a vector of features: use fit: distill for it."
        )
    rows, goal = inputs.double(), targets.to(inputs.device)
    weight = part.weight.double().T
    if part.bias is not None:
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
        weight = torch.cat([weight, part.bias.double()[None]])
    gram = rows.T @ rows
    columns = weight + solve(gram, rows.T @ (goal - rows @ weight), ridge=ridge)
    part.weight.copy_(columns[: part.in_features].T)
    if part.bias is not None:
        part.bias.copy_(columns[-1])
    return float((rows @ columns - goal).square().mean())


def _images(context: Context, method: str) -> Tensor:
    if context.data is None or len(context.data) < 2:
        raise FedMergeError(f"{method} trains on fusion images: pass data=, at least two images.")
    return context.data


@torch.no_grad()
def _logits(parents: Parents, context: Context, images: Tensor) -> list[Tensor]:
    """Each parent's logits, N x C, on the CPU; one parent is in memory at a time."""
    found = []
    for index in range(len(parents)):
        module = parents.copy(index, context.example).to(context.device)
        logits = [logits_of(module(x.to(context.device)), module).flatten(1) for x in images.split(BATCH)]
        found.append(torch.cat([part.cpu() for part in logits]))
    return found


@torch.no_grad()
def _alike_logits(parents: Parents, begun: nn.Module, context: Context, images: Tensor) -> list[Tensor]:
    """The logits of parents that may differ in width; begun: the student, in evaluation mode.

    Raises FedMergeError where classes differ in number.
    """
    found = _logits(parents, context, images)
    own = logits_of(begun(images[:2].to(next(begun.parameters(), images).device)), begun)
    widths = [each.shape[1] for each in [*found, own.flatten(1)]]
    names = [*parents.names, "the model to be made"]
    for name, width in zip(names, widths, strict=True):
        if width != widths[0]:
            raise FedMergeError(
                f"'{name}' has {width} outputs, '{names[0]}' {widths[0]}: distill models of the same classes."
            )
    return found


def _student(parents: Parents, context: Context, student: AnyStudent) -> nn.Module:
    """The network that training begins at. Raises FedMergeError where it is not the model to be made."""
    if student == "into":
        return _blank(parents, student)
    states = parents.states([0] if student == "first" else None)
    for name, state in zip(parents.names, states, strict=False):
        try:
            check_alike(("the model to be made", name), (entries(parents.template), state))
        except FedMergeError as error:
            raise FedMergeError(
                f"student: {student} begins with the models' weights, but {error} Or begin with those of the "
                "model given as into= (student: into)."
            ) from None
    if student == "first":
        return parents.copy(0)
    return parents.module(average(parents.states(), batch_norm=context.batch_norm))


def _blank(parents: Parents, student: AnyStudent) -> nn.Module:
    """A copy of the module that the result is a copy of: the one given as ``into=``, or the first parent."""
    if student != "into":
        return parents.copy(0)
    if not parents.chosen:
        raise FedMergeError("student: into begins as the model given as into=: pass it to merge.")
    return faithful(parents.template)


def _norms(module: nn.Module, training: bool) -> None:
    """Put batch norms, and nothing else, into training mode."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.training = training


def _merged(
    parents: Parents, module: nn.Module, decision: dict[str, Any], student: AnyStudent = "first"
) -> Merged:
    """The result in the precision of what it is a copy of and in eval mode, free of training's traces."""
    made = _blank(parents, student)
    like = entries(made)
    state = {key: narrowed(key, value, like[key].dtype) for key, value in entries(module).items()}
    return Merged(fill(made, state), uniform(parents), [decision], fitted=True)
