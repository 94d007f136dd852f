"""Images of a stream that a method keeps, balanced over the classes that it predicts for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedmerge.seeding import generator

Item = tuple[Tensor, int, float, int]
"""An image C x H x W, its predicted class, its entropy in nats, and how many images ago it came."""


@dataclass
class Memory:
    """At most ``capacity`` images; ``counts``: how many of each of C classes the stream has shown."""

    capacity: int
    items: list[Item] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def reset(self) -> None:
        """Forget everything."""
        self.items, self.counts = [], []

    def images(self, like: Tensor) -> Tensor:
        """The images, m x C x H x W, in the dtype and on the device of ``like``."""
        return torch.stack([item[0] for item in self.items]).to(like)

    def ages(self) -> Tensor:
        """How many images ago each came, in units of the capacity: m."""
        return torch.tensor([item[3] / self.capacity for item in self.items])

    def held(self, classes: int) -> list[int]:
        """How many images of each class are kept."""
        found = [0] * classes
        for item in self.items:
            found[item[1]] += 1
        return found

    def seen(self, label: int, classes: int) -> None:
        """Count an image of the stream."""
        self.counts = self.counts or [0] * classes
        self.counts[label] += 1

    def state(self) -> dict[str, Tensor]:
        """All of it by name; nothing where it is empty."""
        if not self.items:
            return {}
        images, labels, entropies, ages = zip(*self.items, strict=True)
        return {
            "images": torch.stack(images),
            "labels": torch.tensor(labels),
            "entropies": torch.tensor(entropies, dtype=torch.float64),
            "ages": torch.tensor(ages),
            "counts": torch.tensor(self.counts),
        }

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        self.reset()
        if "images" in state:
            parts = (state[name].tolist() for name in ("labels", "entropies", "ages"))
            self.items = list(zip(state["images"], *parts, strict=True))
            self.counts = state["counts"].tolist()

    def moved(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the images to another device; they keep their dtype."""
        self.items = [(item[0].to(fn(item[0]).device), *item[1:]) for item in self.items]


def keep_sure_and_new(memory: Memory, image: Tensor, label: int, entropy: float, classes: int) -> None:
    """Offer an image to RoTTA's memory, which keeps images that are new and that the model is sure of.

        score = 1 / (1 + exp(-age / capacity)) + entropy / log C

    A class has room for capacity / C images. A new image of a class below that, where the memory is full,
    takes the place of the worst-scored image of the fullest classes; one of a class at or above it, the worst
    of its own class; it is dropped where that one scores no worse. All others grow older by one.
    """

    def score(age: float, entropy: float) -> float:
        return 1 / (1 + math.exp(-age / memory.capacity)) + entropy / math.log(classes)

    memory.seen(label, classes)
    held, kept = memory.held(classes), True
    below = held[label] < memory.capacity / classes
    if not below or len(memory.items) >= memory.capacity:
        full = {c for c in range(classes) if held[c] == max(held)} if below else {label}
        worst = max(
            (i for i, item in enumerate(memory.items) if item[1] in full),
            key=lambda i: score(memory.items[i][3], memory.items[i][2]),
        )
        kept = score(memory.items[worst][3], memory.items[worst][2]) > score(0, entropy)
        if kept:
            del memory.items[worst]
    if kept:
        memory.items.append((image, label, entropy, 0))
    memory.items = [(*item[:3], item[3] + 1) for item in memory.items]


def keep_balanced(memory: Memory, image: Tensor, label: int, classes: int, seed: int) -> None:
    """Offer an image to NOTE's prediction-balanced reservoir.

    While there is room it is kept. Then one of a class that is not among the fullest takes the place of a
    random image of a random fullest class; one of a fullest class takes the place of a random image of its
    own with probability (images of it kept) / (images of it seen), as in reservoir sampling.
    """
    memory.seen(label, classes)
    if len(memory.items) >= memory.capacity:
        draws = generator(seed, "note", round=sum(memory.counts))
        held = memory.held(classes)
        full = [c for c in range(classes) if held[c] == max(held)]
        out = label
        if label not in full:
            out = full[int(torch.randint(len(full), (), generator=draws))]
        elif float(torch.rand((), generator=draws)) > held[label] / memory.counts[label]:
            return
        among = [i for i, item in enumerate(memory.items) if item[1] == out]
        del memory.items[among[int(torch.randint(len(among), (), generator=draws))]]
    memory.items.append((image, label, 0.0, 0))
