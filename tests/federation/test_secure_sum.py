"""Sums through masks: exact, whatever the keys; and nothing to be read before the last mask is off."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.errors import FedMergeError
from fedmerge.federation.privacy.secure_sum import decode, encode, mask, new_secret, public_of
from fedmerge.models import average
from fedmerge.seeding import numpy_generator


def keys(names: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    secrets = {name: new_secret() for name in names}
    return secrets, {name: public_of(secret) for name, secret in secrets.items()}


def model(seed: int) -> dict[str, torch.Tensor]:
    """A linear layer and a batch norm, random."""
    draws = torch.Generator().manual_seed(seed)
    return {
        "fc.weight": torch.randn(4, 3, generator=draws),
        "bn.running_mean": torch.randn(4, generator=draws),
        "bn.running_var": torch.rand(4, generator=draws),
        "bn.num_batches_tracked": torch.tensor(seed),
    }


@settings(max_examples=20)
@given(hospitals=st.integers(3, 6), words=st.integers(1, 50), seed=st.integers(0, 100))
def test_the_masks_cancel_exactly(hospitals, words, seed):
    """Over all 64-bit numbers: the sum modulo 2^64 of masked vectors is that of the vectors."""
    names = "abcdef"[:hospitals]
    rng = numpy_generator(seed, "test")
    vectors = {name: rng.integers(0, 2**64, words, dtype=np.uint64) for name in names}
    secrets, publics = keys(names)
    masked = {name: mask(vectors[name], name, secrets[name], publics, b"round 1") for name in names}
    assert np.array_equal(sum(masked.values()), sum(vectors.values()))


def test_every_sum_but_the_whole_one_looks_like_noise():
    """100,000 zeros, masked: bits of single vectors and of the sum of two of three are 1 half of the time.

    The share of ones among 6.4 million fair bits has the standard deviation 0.0002.
    """
    secrets, publics = keys("abc")
    zeros = np.zeros(100_000, dtype=np.uint64)
    masked = {name: mask(zeros, name, secrets[name], publics, b"round 1") for name in "abc"}
    partial = [masked["a"], masked["b"], masked["c"], masked["a"] + masked["b"], masked["b"] + masked["c"]]
    for numbers in partial:
        assert np.unpackbits(numbers.view(np.uint8)).mean() == pytest.approx(0.5, abs=0.001)
    assert not sum(masked.values()).any()


def test_another_purpose_or_key_gives_other_masks():
    secrets, publics = keys("abc")
    zeros = np.zeros(100, dtype=np.uint64)
    first = mask(zeros, "a", secrets["a"], publics, b"round 1")
    assert np.array_equal(first, mask(zeros, "a", secrets["a"], publics, b"round 1"))
    assert not np.any(first == mask(zeros, "a", secrets["a"], publics, b"round 2"))
    other_secrets, other_publics = keys("abc")
    assert not np.any(first == mask(zeros, "a", other_secrets["a"], other_publics, b"round 1"))


@pytest.mark.parametrize("batch_norm", ["mixture", "average"])
def test_the_decoded_sum_is_the_mean_weighted_by_images(batch_norm):
    """To 2^-31 of rounding; a variance has its mean's error twice over. Counters are the start's."""
    models, images = [model(seed) for seed in range(4)], [10, 250, 3, 77]
    numbers = [encode(state, n, 340, batch_norm) for state, n in zip(models, images, strict=True)]
    found = decode(sum(numbers), models[0], 340, batch_norm)
    expected = average(models, [float(n) for n in images], batch_norm=batch_norm)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, rtol=2e-7, atol=1e-8)


@given(x=st.floats(-1000, 1000), images=st.integers(1, 10_000))
def test_a_weight_is_rounded_by_at_most_half_a_step(x, images):
    state = {"w": torch.tensor([x], dtype=torch.float64)}
    found = decode(encode(state, images, images, "average"), state, images, "average")
    assert abs(float(found["w"]) - x) <= 2.0**-31 * 1.001


@pytest.mark.parametrize("x", [5000.0, float("inf"), float("nan")])
def test_numbers_that_could_overflow_are_a_sentence(x):
    """2^62 / (2^30 * 1,000,000) = 4295."""
    with pytest.raises(FedMergeError, match=r"over 1000000 images: they must be finite and below 4294.97"):
        encode({"w": torch.tensor([1.0, x])}, 10, 1_000_000, "average")


def test_fewer_than_three_hospitals_are_refused():
    secrets, publics = keys("ab")
    with pytest.raises(FedMergeError, match="takes at least 3 hospitals, each with a key of its own"):
        mask(np.zeros(3, dtype=np.uint64), "a", secrets["a"], publics, b"")
    puppets = publics | {"c": publics["b"]}  # one hospital under two names
    with pytest.raises(FedMergeError, match="but there are 2"):
        mask(np.zeros(3, dtype=np.uint64), "a", secrets["a"], puppets, b"")


def test_a_hospital_whose_key_was_swapped_refuses():
    secrets, publics = keys("abc")
    with pytest.raises(FedMergeError, match="'a' is not among those to be summed with the key that it gave"):
        mask(np.zeros(3, dtype=np.uint64), "a", secrets["a"], publics | {"a": public_of(new_secret())}, b"")
