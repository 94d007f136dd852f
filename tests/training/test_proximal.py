"""FedProx: the gradient of mu / 2 |w - w_start|^2, checked by closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.seeding import Draws
from fedmerge.training import TrainingOptions, fit
from fedmerge.training.proximal import Proximal

Data = tuple[Tensor, Tensor]


def half(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


class Bias(nn.Module):
    """Two logits (b, 0) for every image, so the loss is a function of the number b alone."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.b, torch.zeros_like(self.b)]).expand(len(images), 2)


def trained(start: float, images: Tensor, **options: Any) -> float:
    """The number b after full batches of as many class 0 as class 1."""
    model = Bias(start)
    chosen = TrainingOptions(batch_size=40, schedule="constant", weight_decay=0, **options)
    fit(model, images, torch.arange(40) % 2, chosen, normalise=half, draws=Draws(0))
    return model.b.item()


def test_gradient_descent_ends_at_the_proximal_point(dark_and_bright: Data) -> None:
    """For half the labels 0, the gradient is sigmoid(b) - 1/2 + mu (b - b_start); it is 0 at the end."""
    b = trained(3.0, dark_and_bright[0], lr=1.0, momentum=0, epochs=200, proximal=0.25)
    gradient = torch.sigmoid(torch.tensor(b)) - 0.5 + 0.25 * (b - 3.0)
    assert abs(float(gradient)) < 1e-7
    assert 0.5 < b < 2.5  # neither the minimum of the loss, 0, nor the start


def test_two_steps_of_momentum_by_hand(dark_and_bright: Data) -> None:
    """v1 = g(3), b1 = 3 - lr v1; v2 = 0.9 v1 + g(b1) + mu (b1 - 3); b2 = b1 - lr v2: no pull in step 1."""
    first = torch.sigmoid(torch.tensor(3.0, dtype=torch.float64)) - 0.5
    b1 = 3 - 0.5 * first
    v2 = 0.9 * first + torch.sigmoid(b1) - 0.5 + 2.0 * (b1 - 3)
    expected = float(b1 - 0.5 * v2)
    b = trained(3.0, dark_and_bright[0], lr=0.5, momentum=0.9, epochs=2, proximal=2.0)
    assert b == pytest.approx(expected, abs=1e-12)


def test_adamw_sees_loss_and_term_as_one_gradient(make_network: Callable[[], nn.Module]) -> None:
    """Against a loss that has mu / 2 |w - w_start|^2 in it, differentiated by autograd, three steps."""
    ours, theirs = make_network().double(), make_network().double()
    proximal = Proximal(ours, 0.7)
    start = [parameter.detach().clone() for parameter in theirs.parameters()]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1) for m in (ours, theirs)]
    x = torch.randn(6, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        losses = [model.eval()(x).logsumexp(1).mean() for model in (ours, theirs)]
        term = sum((p - s).square().sum() for p, s in zip(theirs.parameters(), start, strict=True))
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses[0].backward()
        proximal.pull()
        (losses[1] + 0.7 / 2 * term).backward()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
        assert mine.dtype == torch.float64


def test_a_frozen_parameter_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    proximal = Proximal(model, 1.0)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad.clone()
    proximal.pull()  # nothing has moved yet, so nothing is pulled
    assert torch.equal(model.weight.grad, before)
    assert model.bias.grad is None


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_only_mu_above_zero_changes_bits(
    make_network: Callable[[], nn.Module], dark_and_bright: Data, mu: float
) -> None:
    plain, held = make_network(), make_network()
    for model, options in (
        (plain, TrainingOptions(batch_size=8)),
        (held, TrainingOptions(batch_size=8, proximal=mu)),
    ):
        fit(model, *dark_and_bright, options, normalise=half, draws=Draws(0))
    same = all(torch.equal(a, b) for a, b in zip(plain.parameters(), held.parameters(), strict=True))
    assert same is (mu == 0)


def test_it_is_written_only_where_it_is_set() -> None:
    assert "proximal" not in TrainingOptions().model_dump()
    written = TrainingOptions(proximal=0.1).model_dump()
    assert written["proximal"] == 0.1
    assert TrainingOptions(**written).proximal == 0.1
