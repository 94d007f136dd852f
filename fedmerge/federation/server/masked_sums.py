"""The server's side of masked sums over images: it learns only the sums of all hospitals together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from flwr.serverapp import Grid
from pydantic import ValidationError

from fedmerge.errors import FedMergeError
from fedmerge.federation.client_registry import Client
from fedmerge.federation.hospital.sums.masks import (
    Entries,
    entries_of,
    from_words,
    label_of,
    masked_digest,
    start_digest_of,
    words_in,
)
from fedmerge.federation.messages.jobs import SumsBeginJob
from fedmerge.federation.messages.reading import sentence
from fedmerge.federation.messages.secure import OWN
from fedmerge.federation.messages.tensors import Tensors
from fedmerge.federation.packing import WALKING, Shapes, packed_shapes
from fedmerge.federation.privacy.masked import SPOILT, NoSum
from fedmerge.federation.privacy.secure_sum import FEWEST
from fedmerge.federation.server.client_manager import ClientManager
from fedmerge.federation.server.requests import Reply, Request, no_tensors
from fedmerge.federation.server.secure_round import PHASE as MASKS
from fedmerge.federation.server.secure_round import check_offer, secure_total
from fedmerge.federation.server.sums import PHASE, FederatedStatistics
from fedmerge.merging.neurons.statistics import Sums
from fedmerge.models.state import State


class MaskedStatistics(FederatedStatistics):
    """``FederatedStatistics`` whose sums are masked: three more exchanges per request.

    The sums equal the open ones up to fixed-point rounding: n 2^-45 at most for n hospitals and each number.
    Sums of one hospital's own model (``inputs``, ``importance``) cannot be masked, and are refused.

    All requests over the same images are answered by one list of hospitals: the difference of two sums, one
    with and one without a hospital, would be that hospital's. So a hospital may be lost for good until the
    end of the first request; later it must come back, within the attempts of ``on_failure: retry``, or the
    fusion ends.
    """

    BEGIN, ASK = "query.secure_sums_begin", "query.secure_sums"

    def __init__(
        self,
        grid: Grid,
        manager: ClientManager,
        parents: Mapping[str, State],
        images: Mapping[str, int],
        split: Literal["val", "train"],
    ) -> None:
        """See ``FederatedStatistics``. Raises FedMergeError also for fewer than three hospitals."""
        super().__init__(grid, manager, parents, images, split)
        if len(self.active) < FEWEST:
            raise FedMergeError(
                "sums over images go under masks (federation.secure_statistics), which takes at least "
                f"{FEWEST} hospitals, but {len(self.active)} give images: with fewer, one could read "
                "another's sums. "
                "Let more give images, or set secure_statistics: false."
            )
        self._over = json.dumps([split, dict(images)], sort_keys=True)
        self._about = start_digest_of(_as_read(self._job), self._joined)
        self._entries: Entries = {}

    @property
    def together(self) -> tuple[str, ...]:
        """The hospitals in all sums over these images; empty before the first sum."""
        return self.manager.summed.get(self._over, ())

    def _total(self, kind: str, options: dict[str, Any], tensors: State, whole: Shapes) -> Sums:
        if kind in OWN:
            raise FedMergeError(
                f"the method asks each hospital for sums of its own model ('{kind}'), which masks cannot "
                "hide in a sum: choose a method that asks for sums of all hospitals alone (hf, kf, ot and "
                "rebasin without attribution; after: repair or batch-norm), or set "
                "federation.secure_statistics: false."
            )
        known = {} if kind == "walk" else self._entries
        self._entries = known | entries_of(tensors) if kind == "walk" or kind in WALKING else known
        digest = masked_digest(self._about, kind, options, tensors, self._entries)
        label = label_of(self.manager.run, digest)
        if kind == "walk":
            self._collect(kind, options, tensors, whole, label)
            return {}
        why: NoSum | None = None
        for _ in range(self.manager.plan.federation.attempts):
            if self.together:
                self.active = self.manager.clients.named(self.together)
            try:
                return self._sum(kind, options, tensors, whole, label)
            except NoSum as error:
                why = error
        raise FedMergeError(f"sums over images ('{kind}') have no sum under masks: {why}. {self._reasons()}")

    def _sum(self, kind: str, options: dict[str, Any], tensors: State, whole: Shapes, label: str) -> Sums:
        """Return the packed sums of one attempt. Raises NoSum."""
        offers = self._collect(kind, options, tensors, whole, label)
        expected = packed_shapes(kind, whole)
        total = secure_total(0, label, offers, words_in(expected), self._put, self.together)
        if len(total.names) < self._quorum:
            raise NoSum(f"{len(total.names)} hospitals are in the sum, fewer than the quorum {self._quorum}")
        self.manager.summed[self._over] = total.names
        self.active = self.manager.clients.named(total.names)
        sums = from_words(total.words, expected)
        images, asked = float(sums["images"]), sum(self._job["images"][name] for name in total.names)
        if images != round(images) or not 1 <= images <= asked:
            raise NoSum(f"the sum is over {images:g} images, of {asked} that were asked for: {SPOILT}")
        return sums

    def _put(self, request: Request) -> Iterable[Reply]:
        return self.manager.usable(request, self._send(request))

    def _expected(self, kind: str, whole: Shapes) -> Callable[[Client], Tensors]:
        return no_tensors

    def _unusable(self, reply: Reply, kind: str, label: str | None) -> str | None:
        return None if kind == "walk" else check_offer(label or "", self.manager.keys)(reply)

    def _reasons(self) -> str:
        """Return the hospitals' reasons, and a remedy."""
        failures = [each for each in self.manager.failures if each.phase in (PHASE, MASKS)]
        said = [f"{each.site}: {each.reason}" for each in failures]
        cure = (
            "After the first sum every other one is of the same hospitals, so start it again, or set "
            "on_failure: retry, when all can be reached."
        )
        return "; ".join([*dict.fromkeys(said), cure]) if self.together else "; ".join(dict.fromkeys(said))


def _as_read(job: dict[str, Any]) -> SumsBeginJob:
    """Return the job as a hospital reads it. Raises FedMergeError for an invalid one."""
    try:
        return SumsBeginJob.model_validate_json(json.dumps(job), strict=True)
    except ValidationError as error:
        raise FedMergeError(f"sums over images cannot be asked for: {sentence(error)}.") from None
