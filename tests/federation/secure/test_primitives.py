"""Masks, shares and fixed-point numbers: exact, and nothing to be read before the last mask is off."""

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from facts import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmerge.federation.privacy import masked
from fedmerge.federation.privacy.secure_sum import agree, mask, new_secret, own_mask, public_of
from fedmerge.federation.privacy.shamir import combine, recover, split
from fedmerge.models import average
from fedmerge.seeding import numpy_generator


def keys(names: str) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes]]:
    secrets = {name: new_secret() for name in names}
    return (
        secrets,
        {name: public_of(s) for name, s in secrets.items()},
        {name: new_secret() for name in names},
    )


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
def test_masks_towards_others_cancel_and_ones_own_come_off(hospitals, words, seed):
    """Over all 64-bit numbers: masked vectors, less own masks, sum to what the vectors do, modulo 2^64."""
    names = "abcdef"[:hospitals]
    rng = numpy_generator(seed, "test")
    vectors = {name: rng.integers(0, 2**64, words, dtype=np.uint64) for name in names}
    secrets, publics, own = keys(names)
    total = sum(mask(vectors[n], n, own[n], secrets[n], publics, b"round 1") for n in names)
    assert np.array_equal(
        total - sum(own_mask(own[n], words, b"round 1") for n in names), sum(vectors.values())
    )


def test_every_part_of_a_sum_looks_like_noise():
    """100,000 zeros, masked: bits of single vectors, of the sum of two of three, and of all three under their
    own masks, are 1 half of the time; the share of ones among 6.4 million fair bits has the standard
    deviation 0.0002.
    """
    secrets, publics, own = keys("abc")
    zeros = np.zeros(100_000, dtype=np.uint64)
    parts = {n: mask(zeros, n, own[n], secrets[n], publics, b"round 1") for n in "abc"}
    whole = sum(parts.values())
    bare = whole - sum(own_mask(own[n], 100_000, b"round 1") for n in "ab")
    for numbers in [*parts.values(), parts["a"] + parts["b"], whole, bare]:
        assert np.unpackbits(numbers.view(np.uint8)).mean() == pytest.approx(0.5, abs=0.001)
    assert not (bare - own_mask(own["c"], 100_000, b"round 1")).any()


def test_another_purpose_key_or_own_secret_gives_other_masks():
    secrets, publics, own = keys("abc")
    zeros = np.zeros(100, dtype=np.uint64)
    first = mask(zeros, "a", own["a"], secrets["a"], publics, b"round 1")
    others = [
        mask(zeros, "a", own["a"], secrets["a"], publics, b"round 2"),
        mask(zeros, "a", own["b"], secrets["a"], publics, b"round 1"),
        mask(zeros, "a", own["a"], new_secret(), publics, b"round 1"),
    ]
    assert np.array_equal(first, mask(zeros, "a", own["a"], secrets["a"], publics, b"round 1"))
    assert not any(np.any(first == other) for other in others)


SMALL = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("public", SMALL)
def test_a_public_key_of_small_order_is_refused(public):
    """0, 1 and p - 1 (RFC 7748 section 6.1): with any private key they give all zeros."""
    with refused("small", "order"):
        agree(X25519PrivateKey.generate().private_bytes_raw(), public, b"")


@given(shares=st.integers(3, 9), data=st.data())
def test_any_so_many_shares_give_the_secret(shares, data):
    threshold = data.draw(st.integers(2, shares))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    made = dict(enumerate(split(secret, threshold, shares), 1))
    some = data.draw(st.sets(st.sampled_from(sorted(made)), min_size=threshold, max_size=threshold))
    assert combine({number: made[number] for number in some}) == secret


def test_fewer_shares_say_nothing():
    """With t - 1 shares of a constant secret every byte still takes all values: 4,000 first bytes of the
    first of three shares, threshold 2, have 16 in each of 256 bins on average; none is empty or above 60.
    """
    firsts = [split(bytes(32), 2, 3)[0][0] for _ in range(4_000)]
    counts = np.bincount(firsts, minlength=256)
    assert counts.min() > 0
    assert counts.max() < 60


def test_a_wrong_share_is_found_out_where_there_are_more_than_needed():
    secret = new_secret()
    shares = dict(enumerate(split(secret, 3, 5), 1)) | {2: bytes(32)}
    assert recover(shares, 3, lambda found: found == secret) == secret
    del shares[1], shares[4]
    assert recover(shares, 3, lambda found: found == secret) is None


@pytest.mark.parametrize("batch_norm", ["mixture", "average"])
def test_the_decoded_sum_is_the_mean_weighted_by_images(batch_norm):
    """To 2^-31 of rounding; a variance has its mean's error twice over. Counters are the start's."""
    models, images = [model(seed) for seed in range(4)], [10, 250, 3, 77]
    numbers = [masked.encode_weights(state, n, batch_norm) for state, n in zip(models, images, strict=True)]
    found = masked.decode_weights(sum(numbers), models[0], 340, batch_norm)
    expected = average(models, [float(n) for n in images], batch_norm=batch_norm)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, rtol=2e-7, atol=1e-8)


@given(x=st.floats(-1000, 1000), images=st.integers(1, 10_000))
def test_a_weight_is_rounded_by_at_most_half_a_step(x, images):
    state = {"w": torch.tensor([x], dtype=torch.float64)}
    found = masked.decode_weights(masked.encode_weights(state, images, "average"), state, images, "average")
    assert abs(float(found["w"]) - x) <= 2.0**-31 * 1.001


@pytest.mark.parametrize("x", [5000.0, float("inf"), float("nan")])
def test_weights_that_could_overflow_are_a_sentence(x):
    """2^62 / (2^30 * 1,000,000) = 4295."""
    with refused("1000000", "images", "4294.97"):
        masked.encode_weights({"w": torch.tensor([1.0, x])}, 1_000_000, "average")


@given(vectors=st.lists(st.lists(st.floats(-1e14, 1e14), min_size=4, max_size=4), min_size=1, max_size=9))
def test_wide_numbers_sum_to_their_last_place(vectors):
    """Each is rounded to 2^-44, so is off by 2^-45; the total, a float64, by half of its own last place."""
    total = sum(masked.encode_wide(np.array(vector)) for vector in vectors)
    found = masked.decode_wide(total)
    for i, value in enumerate(found.tolist()):
        exact = sum(int(np.rint(vector[i] * 2.0**44)) for vector in vectors)
        assert abs(int(value * 2.0**44) - exact) <= max(1, abs(exact) >> 52)
        plain = sum(vector[i] for vector in vectors)
        assert abs(value - plain) <= len(vectors) * (2.0**-45 + np.spacing(abs(plain) + 1e14) * 2)


@pytest.mark.parametrize("x", [float("nan"), float("inf"), 2.0**50, -(2.0**50)])
def test_a_number_that_no_word_holds_is_a_sentence(x):
    with refused("finite", "below", "1.13e+15"):
        masked.encode_wide(np.array([0.0, x]))


def test_means_are_those_over_all_images():
    parts = [(10, {"loss": 2.0, "accuracy": 0.5}), (30, {"loss": 1.0, "accuracy": 0.75})]
    total = sum(masked.encode_means(*part) for part in parts)
    assert masked.decode_means(total, ["loss", "accuracy"]) == {
        "num-examples": 40,
        "accuracy": (5 + 22.5) / 40,
        "loss": (20 + 30) / 40,
    }


@pytest.mark.parametrize(
    ("images", "values", "sentence"),
    [
        (-5, {"accuracy": 0.5}, ("-5", "images")),
        (2**41, {"accuracy": 0.5}, ("2.19902e+12", "images")),
        (10, {"accuracy": 1.5}, ("accuracy", "1.5")),
        (10, {"accuracy": -0.5}, ("accuracy", "-0.5")),
        (10, {"loss": -3.0}, ("loss", "-3")),
    ],
)
def test_means_that_cannot_be_are_no_sum(images, values, sentence):
    with refused(*sentence, kind=masked.NoSum):
        masked.decode_means(masked.encode_means(images, values), list(values))
