"""Training recipes: which layers of a network learn, how fast, and what its batch norms do meanwhile.

    linear-probe   the head alone; the encoder, its batch norms included, stays as it is
    finetune       everything
    lp-ft          the head alone for some epochs, then everything: linear probing, then fine-tuning, Kumar et
                   al., arXiv 2202.10054

A head that was just drawn has large gradients that distort pretrained features; probing first avoids that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmerge.models.heads import find_head, group_of

if TYPE_CHECKING:
    from fedmerge.training.options import TrainingOptions


@dataclass(frozen=True)
class Recipe:
    """What a network's training does in which epoch.

    model: in training mode. head: the name of its head; empty where everything learns alike. probing: how
    many epochs, from the first, train the head alone. momentum: of batch norms' running statistics; None:
    their own.
    """

    model: nn.Module
    head: str
    probing: int
    momentum: float | None
    trainable: dict[str, nn.Parameter]

    def begin(self, epoch: int) -> None:
        """Set what learns in an epoch, counted from 0; call it in training mode."""
        probing = epoch < self.probing
        if self.probing:
            for name, parameter in self.trainable.items():
                parameter.requires_grad_(not probing or group_of(name, self.head) == "head")
            for name, module in self.model.named_modules():
                module.training = not probing or group_of(f"{name}.", self.head) == "head"
        if self.momentum == 0:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm) and module.running_mean is not None:
                    module.training = False


def probing_epochs(options: TrainingOptions) -> int:
    """Return how many epochs, from the first, train the head alone."""
    half = (options.epochs + 1) // 2
    usual = {"finetune": 0, "linear-probe": options.epochs, "lp-ft": half}[options.recipe]
    return usual if options.probe_epochs is None else options.probe_epochs


@contextmanager
def recipe_of(model: nn.Module, options: TrainingOptions, example: Tensor | None) -> Iterator[Recipe | None]:
    """Yield the recipe of a training; None where all learn alike and batch norms are as they come.

    example: two images as the network takes them, by which the head is found; None where no head is needed.
    Which parameters learn and the momentum of batch norms are as before afterwards. Raises FedMergeError for
    a network without an encoder and a head, where one is needed.
    """
    probing = probing_epochs(options)
    if not probing and options.norm_momentum is None:
        yield None
        return
    head = find_head(model, example) if probing and example is not None else ""
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    norms = [(m, m.momentum) for m in model.modules() if isinstance(m, _BatchNorm)]
    for norm, _ in norms:
        if options.norm_momentum:
            norm.momentum = options.norm_momentum
    try:
        yield Recipe(model, head, probing, options.norm_momentum, trainable)
    finally:
        for parameter in trainable.values():
            parameter.requires_grad_(True)
        for norm, momentum in norms:
            norm.momentum = momentum


def parameter_groups(model: nn.Module, first_layer_rate: float) -> list[dict[str, object]]:
    """Return the trainable parameters in groups with a rate each, as an optimizer takes them.

    The parameters of layer l of L, in the order of the modules, get the learning rate times

        r^((L - 1 - l) / (L - 1))

    so that the first layer's is r and the last one's 1: discriminative rates (Howard and Ruder, arXiv
    1801.06146) whose range does not depend on the depth.
    """
    trainable = {id(each): each for each in model.parameters() if each.requires_grad}
    layers = [
        [trainable.pop(id(each)) for each in module.parameters(recurse=False) if id(each) in trainable]
        for module in model.modules()
    ]
    layers = [layer for layer in layers if layer]
    if len(layers) < 2:
        return [{"params": layer, "rate": 1.0} for layer in layers]
    last = len(layers) - 1
    return [
        {"params": layer, "rate": first_layer_rate ** ((last - number) / last)}
        for number, layer in enumerate(layers)
    ]
