"""A pool of models on disk: weights as safetensors, a card in JSON; weights are read only when asked for."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fedmerge.errors import FedMergeError, nearest
from fedmerge.models.cards import UNKNOWN, ModelCard, Origin, read_card, write_model
from fedmerge.models.inputs import Inputs
from fedmerge.models.loading import network_of
from fedmerge.models.state import State, check_alike, non_finite, state_hash
from fedmerge.models.weights import read_file, tensors
from fedmerge.models.zoo import ModelSpec
from fedmerge.storage.files import make_folder
from fedmerge.storage.own_files import room_of


class ModelPool:
    """The models of one architecture in one folder, NAME.safetensors beside NAME.json each.

    Opening reads the cards; weights are read when asked for. A model counts once its card is there, and
    the card is written last: a crash leaves no half model. Raises FedMergeError for a folder that cannot
    be made (or, without ``create``, is not there) and for a damaged card. counts: which files are the pool's;
    others are left alone. A model that a run made and that does not count is made anew in its place.
    """

    def __init__(
        self, folder: str | Path, *, create: bool = True, counts: Callable[[Path], bool] | None = None
    ) -> None:
        self.folder = Path(folder)
        self._view = False
        if create:
            make_folder(self.folder)
        elif not self.folder.is_dir():
            raise FedMergeError(f"there is no model pool at '{self.folder}': check the path.")
        found = (p for p in self.folder.glob("*.json") if counts is None or _both_count(p, counts))
        cards = sorted(map(read_card, found), key=lambda c: (c.position, c.name))
        self._cards = {card.name: card for card in cards}

    @property
    def names(self) -> list[str]:
        """All names in the order of addition."""
        return list(self._cards)

    def __len__(self) -> int:
        return len(self._cards)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._cards

    def card(self, name: str) -> ModelCard:
        """The card of a model; raises FedMergeError if there is none, with the nearest name."""
        if name in self._cards:
            return self._cards[name]
        if self._weights(name).is_file() and not self._view:
            raise FedMergeError(
                f"'{self._weights(name)}' has no card: '{name}.json' must stand beside it. "
                "Put it back, or add the model to the pool again."
            )
        held = f"It holds: {', '.join(self)}." if len(self) else "It is empty."
        raise FedMergeError(f"the pool '{self.folder}' has no model '{name}'.{nearest(name, self)} {held}")

    def state(self, name: str) -> State:
        """The weights of a model on the CPU, mapped from the file and read when they are touched."""
        return read_file(self._held(name), tensors)

    def tensor(self, name: str, key: str) -> Tensor:
        """One entry of a model's weights; nothing else is read."""
        path = self._held(name)
        keys = read_file(path, lambda file: list(file.keys()))
        if key not in keys:
            raise FedMergeError(f"'{path}' has no entry '{key}'.{nearest(key, keys)}")
        return read_file(path, lambda file: file.get_tensor(key))

    def model(self, name: str, device: str | torch.device = "cpu") -> nn.Module:
        """The network of a model with its weights, on ``device``, in evaluation mode."""
        return network_of(self.card(name).model, self.state(name), name).to(device)

    def add(
        self,
        name: str,
        state: State,
        *,
        model: ModelSpec,
        normalisation: Inputs,
        class_names: Sequence[str],
        method: str,
        origin: Origin = UNKNOWN,
        metrics: Mapping[str, float] | None = None,
    ) -> ModelCard:
        """Write a model and return its card; each file is written whole or not at all.

        Raises FedMergeError for a name that is taken or no file name, weights that are not finite or of
        another architecture or other classes than the pool's, and a folder that cannot be written.
        """
        self._refuse(name, state, class_names)
        card = ModelCard(
            name=name,
            position=1 + max((card.position for card in self._cards.values()), default=-1),
            model=model,
            normalisation=normalisation,
            class_names=tuple(class_names),
            parents=tuple(origin.parents),
            method=method,
            metrics=dict(metrics or {}),
            seed=origin.seed,
            config_hash=origin.config_hash,
            batch_norm=origin.batch_norm,
            pixel_spacing=origin.pixel_spacing,
            sha256=state_hash(state),
        )
        written = write_model(self._weights(name), state, card)
        assert written is not None
        self._cards[name] = written
        return written

    def verify(self) -> None:
        """Read everything once; raise FedMergeError for the first file that is not what its card says."""
        for name in self:
            if state_hash(self.state(name)) != self.card(name).sha256:
                raise FedMergeError(
                    f"'{self._weights(name)}' does not have the hash on its card: the weights were changed "
                    "or damaged. Restore the file from a copy, or make the model again."
                )

    def subset(self, names: Iterable[str]) -> ModelPool:
        """A view of these models, in this order; it reads the same files and takes no additions."""
        view = copy.copy(self)
        view._cards = {name: self.card(name) for name in names}
        view._view = True
        return view

    def _weights(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _card_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _held(self, name: str) -> Path:
        self.card(name)
        path = self._weights(name)
        if not path.is_file():
            raise FedMergeError(
                f"'{path}' is missing: the card '{name}.json' is there, but not the weights. "
                "Restore the file, or remove the card."
            )
        return path

    def _refuse(self, name: str, state: State, class_names: Sequence[str]) -> None:
        if self._view:
            raise FedMergeError(f"cannot add '{name}' to a view: add it to the pool '{self.folder}' itself.")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise FedMergeError(
                f"'{name}' cannot name a model: use letters, digits, '_', '-' and '.', for a file name."
            )
        if name in self or _foreign(self._card_path(name)):
            raise FedMergeError(
                f"the pool '{self.folder}' already has a model '{name}': choose another name."
            )
        if _foreign(self._weights(name)):
            self._refuse_remnant(name, state)
        broken = non_finite(state)
        if broken:
            raise FedMergeError(
                f"the weights of '{name}' hold NaN or infinity in '{broken[0]}' ({len(broken)} of "
                f"{len(state)} entries): train it again, for instance with a smaller learning rate."
            )
        if len(self):
            first = next(iter(self._cards.values()))
            check_alike((first.name, name), (self.state(first.name), state))
            if first.class_names != tuple(class_names):
                raise FedMergeError(
                    f"'{first.name}' and '{name}' name their classes differently "
                    f"({', '.join(first.class_names)}; {', '.join(class_names)}): models of one pool share "
                    "one list of classes, in one order."
                )

    def _refuse_remnant(self, name: str, state: State) -> None:
        """Refuse weights without a card, which a crash leaves, unless they are the same as ``state``."""
        path = self._weights(name)
        found = read_file(path, tensors)
        if state_hash(found) != state_hash(state):
            raise FedMergeError(
                f"'{path}' is there without a card and holds other weights: "
                "remove it, or choose another name."
            )


def _both_count(card: Path, counts: Callable[[Path], bool]) -> bool:
    return counts(card) and counts(card.with_suffix(".safetensors"))


def _foreign(path: Path) -> bool:
    """Whether ``path`` exists and was not made by the run that owns its folder."""
    room = room_of(path)
    return path.exists() and (room is None or not room.owns(path))
