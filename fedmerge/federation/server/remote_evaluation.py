"""Evaluate models at the hospitals: scores on their images, and sums over these images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from flwr.serverapp import Grid

from fedmerge.errors import FedMergeError
from fedmerge.federation.client_registry import ClientRegistry
from fedmerge.federation.privacy.masked import NoSum, scored
from fedmerge.federation.server.client_manager import ClientManager
from fedmerge.federation.server.masked_sums import MaskedStatistics
from fedmerge.federation.server.secure_means import secure_scores
from fedmerge.federation.server.sums import FederatedStatistics
from fedmerge.models.pool import ModelPool
from fedmerge.models.state import State, state_hash
from fedmerge.tasks import TASKS

Metric = Literal["accuracy", "balanced_accuracy", "auroc", "kappa"]


class RemoteEvaluation:
    """Asks the hospitals of a client manager about models; replies have numbers, never images."""

    def __init__(self, grid: Grid, manager: ClientManager) -> None:
        self.grid = grid
        self.manager = manager

    def score(self, state: State, sites: Sequence[str] | None = None, metric: Metric = "accuracy") -> float:
        """Return the validation score of a model, by which models may be chosen.

        See ``validation``. Raises FedMergeError, too, if the images of no hospital define the score.
        """
        if math.isnan(found := self.validation(state, sites, metric)):
            raise FedMergeError(
                f"{metric}, by which the experiment selects, is not defined: no hospital's validation images "
                "are of two kinds, such as with and without a finding. Give hospitals more validation "
                "images, or choose another selection."
            )
        return found

    def validation(
        self, state: State, sites: Sequence[str] | None = None, metric: Metric = "accuracy"
    ) -> float:
        """Return the validation score of a model, computed by the hospitals on their own images.

        s = sum_m n_m s_m / sum_m n_m over the hospitals in ``sites`` (all for None), with n_m the
        validation images of hospital m: for accuracy, exactly that of the pooled validation splits. A
        hospital whose images do not define the score (all of one kind) is left out; NaN where all are.
        Raises FedMergeError where a hospital's policy lets the score not leave.
        """
        replies = self._evaluate(state, sites)
        if any(metric not in reply for reply in replies):
            raise FedMergeError(
                f"a hospital's reply has no {metric}, which the experiment selects by: let its policy.yaml "
                "name it under numbers, or choose another selection."
            )
        return _mean(replies, metric)

    def numbers(self, state: State) -> dict[str, float]:
        """Return the means of loss, scores and temperature over hospitals, weighted by validation images.

        NaN where a secure sum cannot be formed: the run goes on, and the failures say why.
        """
        try:
            replies = self._evaluate(state, None, calibrate=True)
        except NoSum as error:
            self.manager.log.void(0, "score", str(error))
            known = scored(TASKS[self.manager.plan.model.task])
            return dict.fromkeys((*known, "temperature"), math.nan)
        names = replies[0].keys() - {"num-examples"}
        return {name: _mean(replies, name) for name in sorted(names)}

    def own_numbers(self, state: State, site: str) -> dict[str, Any]:
        """Return one hospital's numbers for a model on its own validation images.

        Loss, scores, and the ``temperature`` (``fedmerge.analysis.fit_temperature``) that makes the model as
        sure there as it is right.
        """
        (numbers,) = self._evaluate(state, [site], calibrate=True)
        return numbers

    def _evaluate(
        self, state: State, sites: Sequence[str] | None, *, calibrate: bool = False
    ) -> list[dict[str, Any]]:
        """Return the numbers of each hospital's usable reply, in site order."""
        clients = self.manager.clients.named(sites)
        if self.manager.plan.federation.secure_aggregation:
            return [self._together(state, clients, calibrate)]
        request = self.manager.evaluation(0, "score", state, clients, calibrate=calibrate)
        return [reply.metrics for reply in self.manager.ask(self.grid, request)]

    def _together(self, state: State, clients: ClientRegistry, calibrate: bool) -> dict[str, Any]:
        """Return the means of the hospitals' numbers for a model, from a sum under masks. Raises NoSum.

        The label depends on the model alone, so asking again after a crash gives no other sum.
        """
        label = f"{self.manager.run} score {state_hash(state)[:32]} {calibrate}"
        request = self.manager.evaluation(0, "score", state, clients, calibrate=calibrate, label=label)
        replies = self.manager.send(self.grid, request.messages())
        return secure_scores(self.manager, self.grid, request, replies, label, calibrate)

    def statistics(
        self,
        parents: ModelPool | Mapping[str, State],
        images: Mapping[str, int],
        split: Literal["val", "train"] = "val",
    ) -> FederatedStatistics:
        """Return the remote statistics for a fusion of ``parents``, in their order; images do not leave.

        images: by hospital, the number of images of its ``split`` in the sums; the hospital draws them as
        ``fedmerge.data.cohort.fusion.share(site, n, split, seed)`` does. Raises FedMergeError for an unknown
        hospital. The sums are masked with ``federation.secure_statistics``.
        """
        states = {
            name: parents.state(name) if isinstance(parents, ModelPool) else parents[name] for name in parents
        }
        masked = self.manager.plan.federation.masks_statistics
        kind = MaskedStatistics if masked else FederatedStatistics
        return kind(self.grid, self.manager, states, images, split)


def _mean(replies: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the mean of a number, weighted by images, over the replies where it is no NaN; NaN for none."""
    known = [(reply["num-examples"], reply[name]) for reply in replies if not math.isnan(reply[name])]
    total = sum(images for images, _ in known)
    return float(sum(images * value for images, value in known) / total) if known else math.nan
