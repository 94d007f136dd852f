"""What a fusion method gets besides the models: images or sums over them, labels, the common start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from fedmerge.data import FusionData, concat
from fedmerge.data.cohort.content import public_content
from fedmerge.data.cohort.fusion import portions, server_set, share
from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.entries import MethodConfig
from fedmerge.experiment.configuration.needs import needs_data, needs_of
from fedmerge.experiment.stages.setup import Setup
from fedmerge.models.inputs import Normalise
from fedmerge.models.state import State

if TYPE_CHECKING:
    from fedmerge.federation import Server

SERVER = "server"


def gather(setup: Setup, server: Server, target: str, entry: MethodConfig, start: State) -> dict[str, Any]:
    """Return the arguments of ``merge`` that ``entry`` needs to fuse the models for ``target``.

    data: float32 N x C x H x W as the networks take it, and labels: N, only for a method that uses them,
    both on the CPU; or statistics, where the images stay in the hospitals. start: the weights the parents
    were trained from. Raises FedMergeError where no hospital may give images.
    """
    needs, data = needs_of(entry), setup.experiment.fusion_data
    given: dict[str, Any] = {"start": start} if needs.shared_start else {}
    if not needs_data(needs):
        return given
    if data is None:
        raise FedMergeError(f"'{entry.method}' needs images to fuse with: set fusion_data.")
    asked = {SERVER: data.images}
    if data.origin != "server":
        asked = portions(data, givers(setup, data, target))
    if data.origin == "hospitals":
        held = {member.name: member.held(data.split) for member in server.clients}
        _note(setup, target, entry, {site: (n, min(n, held[site])) for site, n in asked.items()})
        parents = setup.pool.subset(setup.sources(target))
        return given | {"statistics": server.statistics(parents, asked, data.split)}
    if data.origin == "server":
        shares = {SERVER: server_set(data, setup.cohort, setup.seed, needs.fusion_labels)}
        if public_content(data, setup.cohort.folder) != setup.public:
            raise FedMergeError(
                f"the public images '{data.source}' were changed while this was at work: put them back, or "
                "begin a new run."
            )
    else:
        shares = {
            site: share(setup.cohort.here(site), n, data.split, setup.seed) for site, n in asked.items()
        }
    _note(setup, target, entry, {place: (n, len(shares[place])) for place, n in asked.items()})
    images = concat(list(shares.values()))
    given["data"] = torch.cat([_normalise(setup, place)(part.images) for place, part in shares.items()])
    return given | ({"labels": images.labels} if needs.fusion_labels else {})


def _normalise(setup: Setup, place: str) -> Normalise:
    """Return the normalisation of a share; the server's public set is a place of its own."""
    return (
        setup.normalise(place) if place != SERVER else lambda images: setup.normalisation.of(images)(images)
    )


def givers(setup: Setup, data: FusionData, target: str) -> Sequence[str]:
    """Return the hospitals that give images for ``target``: its sources, or those in ``sites``."""
    sources = setup.sources(target)
    chosen = [name for name in sources if data.sites is None or name in data.sites]
    if not chosen:
        raise FedMergeError(
            f"none of fusion_data.sites ({', '.join(data.sites or ())}) is a source for '{target}': name "
            f"some of {', '.join(sources)}."
        )
    return chosen


def note_traffic(setup: Setup, target: str, entry: MethodConfig, given: dict[str, Any]) -> None:
    """Log the traffic to and from each hospital, where the fusion asked for sums."""
    if "statistics" in given:
        log = [{"model": row.pop("site")} | row for row in given["statistics"].traffic]
        setup.record.fusion(setup.seed, target, entry.label, log)


def _note(setup: Setup, target: str, entry: MethodConfig, images: dict[str, tuple[int, int]]) -> None:
    """Log for each place how many images the fusion asked for, and how many it has."""
    log = [{"model": place, "images_asked": n, "images": held} for place, (n, held) in images.items()]
    setup.record.fusion(setup.seed, target, entry.label, log)
