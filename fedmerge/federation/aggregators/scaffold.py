"""SCAFFOLD: hospitals correct their steps by control variates, so that many of them do not drift apart."""

from __future__ import annotations

from collections.abc import Iterable

from fedmerge.errors import FedMergeError
from fedmerge.federation.aggregators.contract import AGGREGATORS, Aggregated, AggregationContext, Update
from fedmerge.models.state import RunningMean, State
from fedmerge.registry import Needs


@AGGREGATORS.method(
    "scaffold",
    title="SCAFFOLD, control variates",
    paper="Karimireddy et al. 2020, arXiv 1910.06378",
    needs=Needs(individual_models=True, control_variates=True),
)
def scaffold(updates: Iterable[Update], context: AggregationContext) -> Aggregated:
    """The mean by images of updates with corrected steps, and the change of the server's control variate.

    theta <- sum_{m in S} (n_m / n_S) theta_m          c <- c + sum_{m in S} (n_m / n) d_m

    S: the hospitals of the round, with n_S images; n: the images of all hospitals of the federation, so that
    c stays the mean by images of all c_m, whoever takes part. d_m: the change of c_m
    (``federation.messages.control_variates``), option II of the paper, computed from the update. With as many
    images everywhere these are the paper's 1 / |S| and |S| / N. The paper's server step size is the learning
    rate of ``federation.optimizer: {method: fedavgm, momentum: 0, lr: ...}``; its default is the paper's 1.

    Hospitals train by plain SGD. As with the mean, one hostile update can move theta and c anywhere.
    """
    if context.control is None:
        raise FedMergeError("scaffold computes control variates in rounds: there are none in the context.")
    running = RunningMean(context.batch_norm)
    step: State = {}
    for update in updates:
        running.add(update.state, update.images)
        for name, moved in context.control.change(update).items():
            moved *= update.images / context.control.images
            step[name] = step[name] + moved if name in step else moved
        del update  # free it before the next one is read
    return Aggregated(running.result(), control=step)
