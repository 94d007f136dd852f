"""A server that lies, and hospitals that do: what each tries, and the sentence it gets instead of numbers."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.keys import make_node_key, read_public
from fedmerge.federation.privacy.identity import Identity
from fedmerge.federation.privacy.masked import NoSum
from fedmerge.federation.privacy.secure_keys import make_advert
from fedmerge.federation.privacy.secure_round import check_offer
from fedmerge.federation.privacy.secure_rules import SecureRules
from fedmerge.federation.privacy.secure_sum import new_secret, public_of
from fedmerge.federation.requests import Reply
from fedmerge.federation.schema.secure import Offered

LABEL = "run train 1"


def share(them, names, adverts, label=LABEL):
    """The second step by hand: everybody's shares, by sender."""
    lists = adverts(them.offer(names, label))
    return {name: them.put(name, "shares", label=label, adverts=lists) for name in names}


def masked(them, name, shares, parties, label=LABEL):
    mine = {other: shares[other].shares[name] for other in parties if other != name}
    return them.put(name, "masked", label=label, parties=list(parties), shares=mine)


def up_to_masked(them, names, adverts, label=LABEL):
    shares = share(them, names, adverts, label)
    return {name: masked(them, name, shares, names, label) for name in names}


def confirm(them, name, survivors):
    return them.put(name, "confirm", label=LABEL, survivors=list(survivors)).signature


def unmask(them, name, survivors, confirmed=None):
    return them.put(name, "unmask", label=LABEL, survivors=list(survivors), confirmed=confirmed or {})


# Sums whose difference is one hospital


@pytest.mark.parametrize("label", [LABEL, "run train 2", "another run train 1", "run validate 9"])
def test_four_and_then_three_hospitals_after_a_crash_and_a_restart(deployed, adverts, label):
    """The sum of four; processes begin anew; training gives the same numbers; d is away, or made to be."""
    them = deployed(4)
    _, four = them.total(them.offer())
    assert np.array_equal(four, them.plain("abcd"))
    for name in "abc":
        them.restart(name)
    shares = share(them, "abc", adverts, label)
    for name in "abc":
        with pytest.raises(FedMergeError, match=r"other participants .*\(a, b, c, d; now a, b, c\)"):
            masked(them, name, shares, "abc", label)
    with pytest.raises(NoSum, match=r"0 of 3 hospitals gave masked numbers"):
        them.total(them.offer("abc", label), label)


def test_the_same_list_again_gives_the_same_sum(deployed):
    """What a resumed run does, whose server has lost the sum."""
    them = deployed(4)
    first = them.total(them.offer())
    for name in "abcd":
        them.restart(name)
    again = them.total(them.offer())
    assert again[0] == first[0]
    assert np.array_equal(again[1], first[1])


def test_all_take_part_again_but_one_is_said_to_be_lost_before_the_end(deployed):
    """The second sum has the same list of participants, and other survivors."""
    them = deployed(4)
    them.total(them.offer())
    for name in "abcd":
        them.restart(name)
    them.lost = {"masked": "d"}
    with pytest.raises(NoSum, match=r"0 of 4 hospitals gave confirmations"):
        them.total(them.offer(label="later train 1"), "later train 1")


def test_in_the_memory_of_a_simulation_too(net):
    them = net(4)
    them.total(them.offer())
    with pytest.raises(NoSum, match=r"0 of 3 hospitals gave masked numbers"):
        them.total(them.offer("abc"))


def test_numbers_that_changed_may_be_summed_over_fewer(deployed):
    """The next round is not stuck: other numbers, other participants."""
    them = deployed(4)
    them.total(them.offer())
    for name in "abc":
        them.restart(name, them.numbers[name] + 1)
    _, total = them.total(them.offer("abc", "run train 2"), "run train 2")
    assert np.array_equal(total, them.plain("abc"))


def test_a_second_list_in_one_sum(net, adverts):
    them = net(4)
    lists = adverts(them.offer())
    them.put("a", "shares", label=LABEL, adverts=lists)
    with pytest.raises(FedMergeError, match=r"has given its shares for another list"):
        them.put("a", "shares", label=LABEL, adverts=lists[:3])


def test_masked_numbers_for_two_lists(net, adverts):
    them = net(5)
    shares = share(them, "abcde", adverts)
    masked(them, "a", shares, "abcde")
    with pytest.raises(FedMergeError, match=r"has masked its numbers of .* for other participants"):
        masked(them, "a", shares, "abcd")


# Both shares of one hospital


def test_never_both_shares_of_a_hospital(net, adverts):
    """First all survive, then d is said to be lost; and the other way round."""
    for first, second in (("abcd", "abc"), ("abc", "abcd")):
        them = net(4)
        up_to_masked(them, "abcd", adverts)
        signed = {n: confirm(them, n, first) for n in first} if first == "abc" else {}
        opened = unmask(them, "a", first, signed)
        assert not opened.own.keys() & opened.pair.keys()
        with pytest.raises(FedMergeError, match=f"now {', '.join(second)}"):
            unmask(them, "a", second, {}) if second == "abcd" else confirm(them, "a", second)


def test_half_is_told_that_all_live_and_half_that_one_is_lost(net, adverts):
    """a and b unmask for all four; for the list without d, only c signs, and nobody takes its word alone."""
    them = net(4)
    up_to_masked(them, "abcd", adverts)
    for name in "ab":
        unmask(them, name, "abcd")
        with pytest.raises(FedMergeError, match=r"other survivors"):
            confirm(them, name, "abc")
    signed = {"c": confirm(them, "c", "abc")}
    with pytest.raises(FedMergeError, match=r"1 hospitals have confirmed .* it takes 3"):
        unmask(them, "c", "abc", signed)


def test_signatures_that_confirm_nothing(net, adverts):
    """One signature under all names; signatures of another list; of nobody."""
    them = net(5)
    up_to_masked(them, "abcde", adverts)
    one = confirm(them, "a", "abcd")
    forged = Identity.fresh().sign(b"survivors")
    other = {name: confirm(them, name, "abde") for name in "be"}
    for signed in (dict.fromkeys("abcd", one), other | {"a": one}, dict.fromkeys("abcd", forged), {}):
        with pytest.raises(FedMergeError, match=r"[01] hospitals have confirmed"):
            unmask(them, "c", "abcd", signed)


# Hospitals that are none


def test_a_hospital_that_nobody_pinned(deployed, adverts, tmp_path):
    """The server makes d up, with a key and signatures of its own."""
    them = deployed(3)
    invented = make_advert(Identity.fresh(), LABEL, "d", public_of(new_secret()), public_of(new_secret()))
    lists = [*adverts(them.offer()), invented.model_dump()]
    with pytest.raises(FedMergeError, match=r"'d' \(SHA256:.*\) is not pinned here, so 'a' does not sum"):
        them.put("a", "shares", label=LABEL, adverts=lists)
    assert them.hospitals["a"].peers.asked() == {"d": invented.identity}


def test_a_peer_with_another_key(deployed, adverts):
    them = deployed(3)
    for rules in (SecureRules(), SecureRules(peers="first-use")):
        lists = adverts(them.offer())
        other = make_advert(Identity.fresh(), LABEL, "c", public_of(new_secret()), public_of(new_secret()))
        them.hospitals["a"].peers.rules = rules
        with pytest.raises(FedMergeError, match=r"'c' .* comes with another key than the one pinned here"):
            them.put("a", "shares", label=LABEL, adverts=[*lists[:2], other.model_dump()])


def test_first_use_pins_whom_it_meets_and_listed_does_not(deployed, adverts):
    them = deployed(3, pinned=False)
    lists = adverts(them.offer())
    with pytest.raises(FedMergeError, match=r"is not pinned here"):
        them.put("a", "shares", label=LABEL, adverts=lists)
    them.hospitals["b"].peers.rules = SecureRules(peers="first-use")
    them.put("b", "shares", label=LABEL, adverts=lists)
    assert set(them.hospitals["b"].peers.pinned()) == {"a", "c"}
    assert them.hospitals["a"].peers.pinned() == {}


@pytest.mark.parametrize("field", ["name", "identity", "masking", "sharing"])
def test_one_hospital_under_two_names(net, adverts, field):
    """Or two with one key, which are one."""
    them = net(4)
    lists = adverts(them.offer())
    lists[3][field] = lists[2][field]
    with pytest.raises(
        FedMergeError, match=f"two hospitals in the list of a secure sum have the same {field}"
    ):
        them.put("a", "shares", label=LABEL, adverts=lists)


def test_fewer_than_a_hospital_asks_for(net, adverts):
    them = net(4)
    with pytest.raises(FedMergeError, match=r"at least 3 hospitals, but the list has 2"):
        them.put("a", "shares", label=LABEL, adverts=adverts(them.offer("ab")))
    them.hospitals["a"].rules = SecureRules(hospitals=5)
    with pytest.raises(FedMergeError, match=r"at least 5 hospitals, but the list has 4"):
        them.put("a", "shares", label=LABEL, adverts=adverts(them.offer()))


# Keys


@pytest.mark.parametrize("field", ["masking", "sharing", "label", "name"])
def test_a_key_that_was_swapped_on_the_way(net, adverts, field):
    """For one whose private key the server knows; the signature is about the one before."""
    them = net(3)
    lists = adverts(them.offer())
    swapped = {"masking": public_of(new_secret()).hex(), "sharing": public_of(new_secret()).hex()}
    lists[2] |= {field: (swapped | {"label": LABEL + "0", "name": "z"})[field]}
    with pytest.raises(FedMergeError, match=r"not signed with its key|are for another sum"):
        them.put("a", "shares", label=LABEL, adverts=lists)


def test_ones_own_key_that_was_swapped(net, adverts):
    them = net(3)
    lists = adverts(them.offer())
    identity = them.hospitals["a"]._identity
    signed = make_advert(identity, LABEL, "a", public_of(new_secret()), public_of(new_secret()))
    with pytest.raises(FedMergeError, match=r"'a' is not among those .* with the keys that it gave"):
        them.put("a", "shares", label=LABEL, adverts=[signed.model_dump(), *lists[1:]])


def test_keys_of_an_earlier_round(net, adverts):
    them = net(3)
    old = adverts(them.offer(label="run train 0"))
    new = adverts(them.offer())
    with pytest.raises(
        FedMergeError, match=r"for another sum \('run train 0', not 'run train 1'\): keys are"
    ):
        them.put("a", "shares", label=LABEL, adverts=[*new[:2], old[2]])


def test_keys_and_shares_of_the_same_round_before_a_restart(deployed, adverts):
    """The server replays c, whose masking key it may have learned then; c itself is gone."""
    them = deployed(3)
    before = share(them, "abc", adverts)
    old = adverts(them.offer())[2]
    for name in "ab":
        them.restart(name)
    lists = [*adverts(them.offer("ab")), old]
    shares = {n: them.put(n, "shares", label=LABEL, adverts=lists) for n in "ab"}
    shares["c"] = before["c"]
    with pytest.raises(FedMergeError, match=r"the shares of 'c' are not what it wrote for 'a'"):
        masked(them, "a", shares, "abc")


@pytest.mark.parametrize("which", ["masking", "sharing"])
def test_a_key_of_small_order_signed_by_its_hospital(net, adverts, which):
    """With such a key, anybody knows what two hospitals agree on."""
    them = net(3)
    lists = adverts(them.offer())
    keys = {"masking": public_of(new_secret()), "sharing": public_of(new_secret())} | {which: bytes(32)}
    lists[2] = make_advert(them.hospitals["c"]._identity, LABEL, "c", **keys).model_dump()
    with pytest.raises(FedMergeError, match=r"of small order"):
        them.put("a", "shares", label=LABEL, adverts=lists)
    offered = Reply(them.members["c"], Offered(**lists[2]))
    assert "of small order" in check_offer(LABEL, {})(offered)


def test_another_order_of_the_list_changes_nothing(net, adverts):
    them = net(4)
    lists = adverts(them.offer())
    first = them.put("a", "shares", label=LABEL, adverts=lists)
    again = them.put("a", "shares", label=LABEL, adverts=lists[::-1])
    assert first == again


# What the server passes on


def test_shares_that_were_changed_swapped_or_left_out(net, adverts):
    them = net(4)
    shares = share(them, "abcd", adverts)
    right = {other: shares[other].shares["a"] for other in "bcd"}
    flipped = format(int(right["b"][0], 16) ^ 1, "x") + right["b"][1:]
    for wrong in (
        right | {"b": flipped},
        right | {"b": right["c"]},
        right | {"b": shares["a"].shares["b"]},
        {"c": right["c"], "d": right["d"]},
    ):
        with pytest.raises(FedMergeError, match=r"shares of 'b' are not what it wrote for 'a'"):
            them.put("a", "masked", label=LABEL, parties=list("abcd"), shares=wrong)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("ab", "takes at least 4 to the end, but .* has 2"),
        ("abc", "takes at least 4 to the end, but .* has 3"),
        ("bcde", "is not one of its participants with 'a' in it"),
        ("abcz", "is not one of its participants"),
        ("abca", "is not one of its participants"),
        ("", "is not one of its participants"),
    ],
)
def test_lists_that_are_too_small_or_strange(net, adverts, names, sentence):
    them = net(5)
    shares = share(them, "abcde", adverts)
    ask = {"label": LABEL, "parties": list(names), "shares": {}}
    with pytest.raises(FedMergeError, match=sentence):
        them.put("a", "masked", **ask)
    masked(them, "a", shares, "abcde")
    for action, more in (("confirm", {}), ("unmask", {"confirmed": {}})):
        with pytest.raises(FedMergeError, match=sentence):
            them.put("a", action, label=LABEL, survivors=list(names), **more)


def test_steps_in_another_order(net, adverts):
    """Nothing is unmasked that was not masked, and nothing masked before keys are shared."""
    them = net(3)
    for action, job in (
        ("masked", {"parties": list("abc"), "shares": {}}),
        ("confirm", {"survivors": list("abc")}),
        ("unmask", {"survivors": list("abc"), "confirmed": {}}),
    ):
        with pytest.raises(FedMergeError, match=r"has no numbers of"):
            them.put("a", action, label=LABEL, **job)
        them.offer("a")
        with pytest.raises(FedMergeError, match=r"is not one of its participants"):
            them.put("a", action, label=LABEL, **job)
        with pytest.raises(FedMergeError, match=r"has no numbers of 'other'"):
            them.put("a", action, label="other", **job)
        them.restart("a")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("label", "adverts", "parties", "shares", "survivors", "confirmed")


@given(
    action=st.sampled_from(["shares", "masked", "confirm", "unmask"]),
    job=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JUNK, max_size=6),
)
def test_any_question_is_answered_or_refused_in_a_sentence(net, action, job):
    them = net(3)
    them.offer()
    with pytest.raises(FedMergeError):
        them.put("a", action, **(job | {"label": job.get("label", LABEL)}))


# Hospitals that lie


def test_garbage_instead_of_masked_numbers_is_no_sum(net):
    """Uniform 64-bit numbers: of 20, one at least is outside ±2^62 but for a chance of 1e-6."""
    them = net(4)
    rng = np.random.default_rng(0)
    garbage = rng.integers(-(2**63), 2**63, 20)
    them.changed["masked", "b"] = lambda said, arrays: ({}, {"numbers": torch.from_numpy(garbage)})
    with pytest.raises(NoSum, match=r"out of the range of honest answers"):
        them.total(them.offer())


def test_wrong_shares_of_one_hospital_do_not_matter_where_others_are_enough(net):
    """And are no sum where they are not: of three hospitals, all three are needed."""

    def lie(said, arrays):
        own = {name: bytes(32).hex() for name in said["own"]}
        return {"own": json.dumps(own), "pair": json.dumps(said["pair"])}, None

    five, three = net(5), net(3)
    five.changed["unmask", "b"] = three.changed["unmask", "b"] = lie
    assert np.array_equal(five.total(five.offer())[1], five.plain("abcde"))
    with pytest.raises(NoSum, match=r"the shares of 'a' do not give its mask"):
        three.total(three.offer())


def test_a_commitment_to_another_secret_is_no_sum(net):
    them = net(4)
    them.changed["shares", "c"] = lambda said, arrays: (
        {"shares": json.dumps(said["shares"]), "commitment": "0" * 64},
        None,
    )
    with pytest.raises(NoSum, match=r"the shares of 'c' do not give its mask"):
        them.total(them.offer())


JUNK_ANSWERS = [
    ({}, None),
    ({"shares": "[]", "commitment": "0" * 64}, None),
    ({"own": "{", "pair": "{}"}, None),
    ({"own": "{}", "pair": "{}"}, None),
    ({}, {"numbers": torch.zeros(3, dtype=torch.int64)}),
    ({}, {"numbers": torch.zeros(20)}),
    ({"signature": "0" * 1000}, {"x": torch.zeros(1)}),
]


@pytest.mark.parametrize("action", ["shares", "masked", "unmask"])
@pytest.mark.parametrize("junk", JUNK_ANSWERS)
def test_an_answer_of_another_form_is_that_of_a_hospital_that_is_lost(net, action, junk):
    them = net(5)
    them.changed[action, "b"] = lambda said, arrays: junk
    names, total = them.total(them.offer())
    assert np.array_equal(total, them.plain(names))
    assert names == (list("abcde") if action == "unmask" else list("acde"))


def test_an_offer_is_signed_with_the_key_that_was_admitted(deployed, tmp_path):
    them = deployed(3)
    (answer,) = them.offer("a")
    admitted = {"a": read_public(tmp_path / "a" / "node.pub")}
    assert check_offer(LABEL, admitted)(answer) is None
    make_node_key(tmp_path)
    other = {"a": read_public(tmp_path / "node.pub")}
    assert "not signed with the key that it was admitted with" in check_offer(LABEL, other)(answer)
    assert "keys of 'a' for 'run train 1'" in check_offer("run train 2", {})(answer)


def test_masked_numbers_say_nothing_without_the_others(net, adverts):
    """No word of what a hospital sends is a word of its numbers, nor are two sums' masks the same."""
    them = net(3, words=2000)
    first = up_to_masked(them, "abc", adverts)
    them = net(3, words=2000)
    second = up_to_masked(them, "abc", adverts)
    for name in "abc":
        sent = [answers[name] for answers in (first, second)]
        assert not np.any(sent[0] == them.numbers[name])
        assert not np.any(sent[0] == sent[1])
