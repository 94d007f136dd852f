"""Control variates of SCAFFOLD: both sides compute the same change of them from one hospital's update.

Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1 with option II. Hospital i takes K local steps from the
global weights x,

    y <- y - eta_k (g_i(y) - c_i + c),            y_i = y after the last step,

with c the server's control variate and c_i its own, and then, with the steps' learning rates eta_k,

    c_i <- c_i + d_i,       d_i = (x - y_i) / sum_k eta_k - c,

which makes c_i the mean of its gradients along the way. The server knows x, c, y_i and the learning rates, so
it computes d_i itself and none is sent: a message to a hospital is twice as long as without, a reply is not.

A parameter that learns in some of the steps alone (an encoder while the head is probed) has the sum over
those, and one that does not learn has d_i = 0. Batch-norm statistics have no control variate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedmerge.federation.messages.jobs import TrainJob
from fedmerge.federation.messages.networks import tensors_of
from fedmerge.federation.messages.tensors import Tensors
from fedmerge.federation.plan.personal import parameters_of, personal_entries
from fedmerge.models.state import State
from fedmerge.models.zoo import ModelSpec
from fedmerge.training import TrainingOptions
from fedmerge.training.local import batch_sizes
from fedmerge.training.recipe import probing_epochs
from fedmerge.training.schedule import learning_rates

PREFIX = "control/"
"""Before the names of the server's control variate in a message and in the server's state."""


def sent_tensors(job: TrainJob) -> Tensors:
    """Return the schema of the arrays in a training job: the weights, and the server's control variate."""
    forms = dict(tensors_of(job.model).forms)
    if job.control:
        forms |= {PREFIX + name: forms[name] for name in parameters_of(job.model)}
    return Tensors(forms)


def divided(sent: State) -> tuple[State, State]:
    """Divide the arrays of a training job into the weights and the server's control variate."""
    control = {key.removeprefix(PREFIX): value for key, value in sent.items() if key.startswith(PREFIX)}
    return {key: value for key, value in sent.items() if not key.startswith(PREFIX)}, control


def rate_sums(
    spec: ModelSpec, options: TrainingOptions, images: int, span: tuple[float, float]
) -> dict[str, float]:
    """Return the sum of the learning rates of the steps in which each parameter learns, by name.

    images: of the hospital's training. span: the part of the learning-rate schedule.
    """
    sizes = batch_sizes(images, options.batch_size)
    rates = learning_rates(options.schedule, options.lr, options.epochs * len(sizes), span)
    probing = probing_epochs(options)
    head = personal_entries(spec, "head") if probing else ()
    whole, after = sum(rates), sum(rates[probing * len(sizes) :])
    return {name: whole if name in head else after for name in parameters_of(spec)}


def change(control: State, start: State, after: State, sums: Mapping[str, float]) -> State:
    """Return d_i in float64, by parameter. control: c as it was sent. start, after: x and y_i."""
    return {
        name: (start[name].double() - after[name].double()) / total - control[name].double()
        if total
        else torch.zeros_like(control[name], dtype=torch.float64)
        for name, total in sums.items()
    }
