from __future__ import annotations

import torch
from torch import Tensor, nn

from fedmerge.testtime.baselines import Memo
from fedmerge.testtime.baselines.start import mean_merged
from tests.facts import refused


def test_one_step_as_autograd_by_hand(models: list[nn.Module], batch: Tensor) -> None:
    """All views of an image of one value are the image, so the loss is H(p(x)), and theta' = theta - lr g."""
    flat = batch[:1, :, :1, :1].expand(1, 3, 7, 7).contiguous()
    mean = mean_merged(models, "mixture").requires_grad_(True)
    log_p = mean(flat).log_softmax(dim=1)
    (-(log_p.exp() * log_p).sum()).backward()
    with torch.no_grad():
        for parameter in mean.parameters():
            parameter -= 0.005 * parameter.grad
    logits, _ = Memo(models).observe(flat)
    torch.testing.assert_close(logits, mean(flat).detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, mean_merged(models, "mixture")(flat), rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_mean_prediction(linear, pixels) -> None:
    """A net of one view has its own entropy for a loss; with A views of it nothing changes."""
    x = pixels([1.0, 0.3])
    one, many = (Memo([linear(1.0, 1.0)], augmentations=a, learning_rate=0.5) for a in (1, 5))
    torch.testing.assert_close(one.observe(x)[0], many.observe(x)[0])


def test_the_size_of_a_batch_changes_nothing(models: list[nn.Module], batch: Tensor) -> None:
    together, _ = Memo(models).observe(batch)
    node = Memo(models)
    parts = torch.cat([node.observe(part)[0] for part in (batch[:3], batch[3:4], batch[4:])])
    torch.testing.assert_close(parts, together, rtol=1e-5, atol=1e-5)


def test_the_order_of_the_images_changes_nothing(models: list[nn.Module], batch: Tensor) -> None:
    node, order = Memo(models), torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    assert node.order_free
    first, _ = node.observe(batch)
    again, _ = node.observe(batch[order])  # later in the same stream
    torch.testing.assert_close(again, first[order], rtol=1e-5, atol=1e-5)


def test_weights_are_restored_after_every_batch_even_a_bad_one(
    models: list[nn.Module], batch: Tensor
) -> None:
    node = Memo(models, learning_rate=0.5)
    mean = mean_merged(models, "mixture").state_dict()
    node.observe(batch)
    assert all(torch.equal(value, mean[key]) for key, value in node.model.state_dict().items())
    with refused("finite", "normalisation"):
        node.observe(torch.cat([batch[:1], batch[:1] * torch.nan]))
    assert all(torch.equal(value, mean[key]) for key, value in node.model.state_dict().items())


def test_views_are_shifts_and_mirrors_with_the_border_repeated(models: list[nn.Module]) -> None:
    """A ramp along rows, shifted by one at most: the first row of a view is 0 (up or still) or 1."""
    image = torch.arange(7.0)[None, :, None].expand(3, 7, 7).contiguous()
    views = Memo(models, augmentations=64, shift=0.1).views(image)
    ramp = torch.arange(7.0)
    expected = {tuple((ramp + step).clamp(0, 6).tolist()) for step in (-1, 0, 1)}
    assert {tuple(view[0, :, 0].tolist()) for view in views} == expected


def test_mirrors_can_be_left_out(models: list[nn.Module]) -> None:
    image = torch.arange(7.0).expand(3, 7, 7).contiguous()
    for flip, mirrored in ((True, True), (False, False)):
        views = Memo(models, augmentations=64, shift=0.0, flip=flip).views(image)
        assert any(torch.equal(view, image.flip(-1)) for view in views) == mirrored
        assert any(torch.equal(view, image) for view in views)


def test_views_differ_by_image_and_seed_and_repeat(models: list[nn.Module], batch: Tensor) -> None:
    node, other = Memo(models), Memo(models, seed=1)
    first = node.views(batch[0])
    assert torch.equal(first, node.views(batch[0]))
    assert not torch.equal(first, other.views(batch[0]))
    ramp = torch.arange(7.0)[None, :, None].expand(3, 7, 7)  # its views say by how much they are shifted
    first, more = ((node.views(image)[:, 0, 3, 0] - image[0, 3, 0]).tolist() for image in (ramp, ramp + 10))
    assert first != more


def test_images_of_one_pixel(linear, pixels) -> None:
    assert Memo([linear(1.0, 1.0)]).observe(pixels([1.0, 0.0]))[0].isfinite().all()


def test_unfit_options_are_sentences(models: list[nn.Module]) -> None:
    for options, words in (
        ({"augmentations": 0}, (0, "augmentations")),
        ({"shift": 2.0}, ("shift",)),
        ({"learning_rate": -1.0}, ("learning_rate",)),
    ):
        with refused(*words):
            Memo(models, **options)
