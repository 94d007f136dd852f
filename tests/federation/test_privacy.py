"""Central privacy: what one hospital can move, how large the noise is, and what a section may say."""

import math
from itertools import combinations

import pytest
import torch
from facts import refused
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedmerge.federation.plan.privacy import AdaptivePrivacy, CentralPrivacy, LocalPrivacy, Privacy
from fedmerge.federation.privacy.central import private_mean
from fedmerge.federation.privacy.noise import from_the_seed, norm
from fedmerge.seeding import generator


def state(*values: float) -> dict[str, torch.Tensor]:
    """Two float tensors and a counter."""
    return {
        "a": torch.tensor(values[:2], dtype=torch.float64),
        "b": torch.tensor(values[2:], dtype=torch.float64),
        "n": torch.tensor(len(values)),
    }


def silence(count):
    """No noise."""
    return torch.zeros(count, dtype=torch.float64)


def mean(start, states, options, asked=None, draw=silence, clip=None):
    """The model that is released; by default without its noise."""
    asked = len(states) if asked is None else asked
    return private_mean(start, states, options, asked, options.clip if clip is None else clip, draw).state


def test_a_long_update_is_shortened_as_a_whole_and_a_short_one_is_not():
    """Updates of length 5 (3, 0, 4) and 0.5 with clip 1: (0.6, 0, 0.8) and itself; their plain mean."""
    start, options = state(1, 1, 1), CentralPrivacy(clip=1, noise=0.3)
    found = mean(start, [state(4, 1, 5), state(1, 1.5, 1)], options)
    torch.testing.assert_close(found["a"], torch.tensor([1.3, 1.25], dtype=torch.float64))
    torch.testing.assert_close(found["b"], torch.tensor([1.4], dtype=torch.float64))
    assert found["n"] == start["n"]
    torch.testing.assert_close(  # of three that were asked, one did not come
        mean(start, [state(4, 1, 5), state(1, 1.5, 1)], options, asked=3)["a"],
        torch.tensor([1.2, 1 + 0.5 / 3], dtype=torch.float64),
    )


UPDATE = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.sampled_from([1e300, math.inf, math.nan])), min_size=3, max_size=3
)


@given(updates=st.lists(UPDATE, min_size=2, max_size=5), clip=st.floats(1e-3, 1e3), noise=st.floats(0.01, 10))
def test_one_hospital_moves_the_sum_by_at_most_the_clip(updates, clip, noise):
    """Any update against nothing, and against a hospital that never came; the denominator stays."""
    start, options = state(0, 0, 0), CentralPrivacy(clip=clip, noise=noise)
    states, asked = [state(*update) for update in updates], len(updates)
    with_it = mean(start, states, options)
    for others in ([start, *states[1:]], states[1:]):
        without = mean(start, others, options, asked)
        assert asked * norm(with_it[key] - without[key] for key in ("a", "b")) <= clip * (1 + 1e-12)


@given(
    updates=st.lists(UPDATE, min_size=2, max_size=5),
    clip=st.floats(1e-3, 1e3),
    noise=st.floats(0.1, 10),
    count_noise=st.one_of(st.none(), st.floats(6, 50)),
)
def test_updates_and_count_together_tell_no_more_than_the_noise_says(updates, clip, noise, count_noise):
    """One hospital's distance in both answers, each in deviations of its noise, is at most 1 / noise."""
    start, asked = state(0, 0, 0), len(updates)
    options = AdaptivePrivacy(kind="adaptive", clip=clip, noise=noise, count_noise=count_noise)
    found = []
    states = [state(*update) for update in updates]
    for given_ in (states, [start, *states[1:]], states[1:]):
        released = private_mean(start, given_, options, asked, clip, silence)
        share = options.quantile - math.log(released.clip / clip) / options.rate
        found.append((released.state, share * asked))
    for model, count in found[1:]:
        moved = asked * norm(found[0][0][key] - model[key] for key in ("a", "b"))
        counted = abs(found[0][1] - count)
        whitened = math.hypot(moved / (options.on_updates(asked) * clip), counted / options.on_count(asked))
        if model is found[1][0]:  # a short update within the clip instead of a long one: two halves
            assert counted <= 1 + 1e-6
        else:
            assert counted <= 0.5 + 1e-6
            assert whitened <= 1 / noise * (1 + 1e-6)


def test_one_hostile_update_does_not_spoil_the_others():
    start, options = state(0, 0, 0), CentralPrivacy(clip=1, noise=1)
    good = [state(0.3, 0, 0), state(0, 0.3, 0)]
    honest = mean(start, good, options, asked=3)
    for evil in (state(math.nan, 0, 0), state(math.inf, 0, 0), state(0, -math.inf, 1)):
        spoilt = mean(start, [*good, evil], options)
        assert all(torch.equal(spoilt[key], honest[key]) for key in start)
    huge = mean(start, [*good, state(-1e308, 1e308, 0)], options)
    pushed = 3 * norm(huge[key] - honest[key] for key in ("a", "b"))
    assert pushed == pytest.approx(1, rel=1e-6)


def test_the_noise_has_the_deviation_it_must():
    """noise * clip / asked = 2 * 0.5 / 4 over 100,000 entries: within 1.6 % (seven deviations)."""
    start = {"w": torch.zeros(100_000, dtype=torch.float64)}
    central = CentralPrivacy(clip=0.5, noise=2)
    adaptive = AdaptivePrivacy(kind="adaptive", clip=0.5, noise=2, count_noise=2)
    for options, wanted in ((central, 0.25), (adaptive, 0.25 / math.sqrt(1 - 0.25))):
        for asked in (4, 4):
            noise = private_mean(start, [start] * 4, options, asked, 0.5).state["w"]
            assert float(noise.std()) == pytest.approx(wanted, rel=0.016)
            assert abs(float(noise.mean())) < 7 * wanted / math.sqrt(100_000)


@pytest.fixture
def round_of_four():
    """A start of 5,000 weights and four updates of length 0.15."""
    draws = torch.Generator().manual_seed(5)
    start = {"w": torch.randn(5000, generator=draws)}
    updates = [torch.randn(5000, generator=draws, dtype=torch.float64) * 0.002 for _ in range(4)]
    return start, [{"w": (start["w"] + update).float()} for update in updates]


def update_of(start, state):
    return state["w"].double() - start["w"].double()


def alike(one, other):
    """The correlation of two vectors; independent ones of 5,000 lie within 0.1 (seven deviations)."""
    return abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1]))


def test_whoever_knows_the_seed_cannot_take_the_noise_off(round_of_four):
    """Three hospitals with seed, model, and every purpose that the code draws for, miss the fourth."""
    start, states = round_of_four
    options = CentralPrivacy(clip=1, noise=1)
    known = sum(update_of(start, state) for state in states[:3])
    fourth = update_of(start, states[3])
    released = 4 * update_of(start, mean(start, states, options, draw=private_mean.__defaults__[0]))
    for purpose in ("noise", "local noise", "round", "start", "participation", "fault"):
        for round in range(4):
            drawn = torch.randn(5000, generator=generator(0, purpose, round), dtype=torch.float64)
            assert alike(released - known - drawn, fourth) < 0.1
            assert float((released - drawn - known).norm()) > 50  # sqrt(2 * 5000) is 100, the update 0.15
    seeded = 4 * update_of(start, mean(start, states, options, draw=from_the_seed(0, "noise", 1)))
    drawn = torch.randn(5000, generator=generator(0, "noise", 1), dtype=torch.float64)
    assert alike(seeded - known - drawn, fourth) > 0.999  # which is why a simulation has no epsilon


def test_the_same_round_with_four_and_then_three_hospitals_tells_nothing_of_the_fourth(round_of_four):
    start, states = round_of_four
    options, system = CentralPrivacy(clip=1, noise=1), private_mean.__defaults__[0]
    fourth = update_of(start, states[3])
    four = mean(start, states, options, draw=system)
    three = mean(start, states[:3], options, draw=system)
    assert alike(4 * update_of(start, four) - 3 * update_of(start, three), fourth) < 0.1
    again = mean(start, states, options, draw=system)
    assert not (update_of(start, four) == update_of(start, again)).all()
    assert alike(update_of(start, four) - update_of(start, again), fourth) < 0.1


def test_the_clip_finds_the_quantile_of_the_norms():
    """Twenty updates of lengths 0.1 to 2.0: from far below and far above it comes to 1 (quantile 0.5)."""
    start = state(0, 0, 0)
    states = [state(length / 10, 0, 0) for length in range(1, 21)]
    options = AdaptivePrivacy(kind="adaptive", noise=0.1, count_noise=0.5)
    for clip in (0.01, 50.0):
        for _ in range(200):
            clip = private_mean(start, states, options, 20, clip).clip
        assert 0.8 < clip < 1.3


def test_without_noise_the_clip_takes_the_steps_of_the_paper():
    """b = 3 of 4 within, quantile 0.5, rate 0.2: exp(-0.2 * 0.25); one that is missing counts as half."""
    options = AdaptivePrivacy(kind="adaptive", clip=1.0, noise=0.1)
    start, short, long_ = state(0, 0, 0), state(0.5, 0, 0), state(5, 0, 0)
    found = private_mean(start, [short, short, short, long_], options, 4, 1.0, silence).clip
    assert found == pytest.approx(math.exp(-0.2 * 0.25))
    found = private_mean(start, [short, short, short], options, 4, 1.0, silence).clip
    assert found == pytest.approx(math.exp(-0.2 * (3.5 / 4 - 0.5)))


@pytest.mark.parametrize(("noise", "count", "n"), [(1.0, 2.0, 10), (0.3, None, 40), (2.0, None, 10)])
def test_the_parts_of_adaptive_noise_make_up_the_whole(noise, count, n):
    """z^-2 = z_updates^-2 + (2 sigma_b)^-2 (arXiv 1905.03871, theorem 1)."""
    options = AdaptivePrivacy(kind="adaptive", noise=noise, count_noise=count)
    assert options.on_count(n) == (count if count else max(n / 20, noise))
    whole = options.on_updates(n) ** -2 + (2 * options.on_count(n)) ** -2
    assert whole == pytest.approx(noise**-2)


def test_a_round_without_updates_is_a_sentence():
    with refused("update", "aggregate"):
        mean(state(0, 0, 0), [], CentralPrivacy(clip=1, noise=1), asked=3)


SECTION = TypeAdapter(Privacy)


@pytest.mark.parametrize(
    ("given_", "kind"),
    [
        ({"clip": 1, "noise": 1}, CentralPrivacy),
        ({"kind": "adaptive", "noise": 1}, AdaptivePrivacy),
        ({"kind": "local", "clip": 1, "noise": 1}, LocalPrivacy),
    ],
)
def test_a_section_is_read_by_its_kind_and_written_as_it_was(given_, kind):
    read = SECTION.validate_python(given_)
    assert type(read) is kind
    assert SECTION.validate_python(read.model_dump(mode="json", exclude_defaults=True)) == read


@pytest.mark.parametrize(
    "given_",
    [
        {"noise": 1},
        {"clip": 0, "noise": 1},
        {"clip": 1, "noise": 0},
        {"clip": math.inf, "noise": 1},
        {"clip": 1e-300, "noise": 1},
        {"clip": 1, "noise": 1e-300},
        {"clip": 1, "noise": 1, "quantile": 0.5},
        {"kind": "adaptive", "noise": 1, "count_noise": 0.5},
        {"kind": "elsewhere", "clip": 1, "noise": 1},
    ],
)
def test_what_cannot_be_is_refused(given_):
    with pytest.raises(ValidationError):
        SECTION.validate_python(given_)


def test_two_seeds_of_one_purpose_are_two_streams():
    drawn = [from_the_seed(s, "noise", r)(1000) for s, r in ((0, 1), (0, 2), (1, 1))]
    assert torch.equal(drawn[0], from_the_seed(0, "noise", 1)(1000))
    assert all(alike(one, other) < 0.25 for one, other in combinations(drawn, 2))
