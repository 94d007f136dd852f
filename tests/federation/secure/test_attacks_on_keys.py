"""A hostile server with hospitals that are none, and with keys that were swapped or are old."""

from __future__ import annotations

import pytest
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation.hospital.secure.rules import SecureRules
from fedmerge.federation.messages.secure import Offered
from fedmerge.federation.privacy.identity import Identity
from fedmerge.federation.privacy.secure_keys import make_advert
from fedmerge.federation.privacy.secure_sum import new_secret, public_of
from fedmerge.federation.server.requests import Reply
from fedmerge.federation.server.secure_round import check_offer
from tests.federation.secure.steps import LABEL, masked, share


def test_a_hospital_that_nobody_pinned(deployed, adverts, tmp_path):
    """The server makes d up, with a key and signatures of its own."""
    them = deployed(3)
    invented = make_advert(Identity.fresh(), LABEL, "d", public_of(new_secret()), public_of(new_secret()))
    lists = [*adverts(them.offer()), invented.model_dump()]
    with refused("d", "SHA256", "a", "pinned"):
        them.put("a", "shares", label=LABEL, adverts=lists)
    assert them.hospitals["a"].peers.asked() == {"d": invented.identity}


def test_a_peer_with_another_key(deployed, adverts):
    them = deployed(3)
    for rules in (SecureRules(), SecureRules(peers="first-use")):
        lists = adverts(them.offer())
        other = make_advert(Identity.fresh(), LABEL, "c", public_of(new_secret()), public_of(new_secret()))
        them.hospitals["a"].peers.rules = rules
        with refused("c", "key", "pinned"):
            them.put("a", "shares", label=LABEL, adverts=[*lists[:2], other.model_dump()])


def test_first_use_pins_whom_it_meets_and_listed_does_not(deployed, adverts):
    them = deployed(3, pinned=False)
    lists = adverts(them.offer())
    with refused("not pinned"):
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
    with refused("hospitals", "secure", field):
        them.put("a", "shares", label=LABEL, adverts=lists)


def test_fewer_than_a_hospital_asks_for(net, adverts):
    them = net(4)
    with refused("3", "hospitals", "2"):
        them.put("a", "shares", label=LABEL, adverts=adverts(them.offer("ab")))
    them.hospitals["a"].rules = SecureRules(hospitals=5)
    with refused("5", "hospitals", "4"):
        them.put("a", "shares", label=LABEL, adverts=adverts(them.offer()))


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
    with refused("a", "among", "keys"):
        them.put("a", "shares", label=LABEL, adverts=[signed.model_dump(), *lists[1:]])


def test_keys_of_an_earlier_round(net, adverts):
    them = net(3)
    old = adverts(them.offer(label="run train 0"))
    new = adverts(them.offer())
    with refused("run train 0", "run train 1", "keys"):
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
    with refused("c", "a", "shares"):
        masked(them, "a", shares, "abc")


@pytest.mark.parametrize("which", ["masking", "sharing"])
def test_a_key_of_small_order_signed_by_its_hospital(net, adverts, which):
    """With such a key, anybody knows what two hospitals agree on."""
    them = net(3)
    lists = adverts(them.offer())
    keys = {"masking": public_of(new_secret()), "sharing": public_of(new_secret())} | {which: bytes(32)}
    lists[2] = make_advert(them.hospitals["c"]._identity, LABEL, "c", **keys).model_dump()
    with refused("small", "order"):
        them.put("a", "shares", label=LABEL, adverts=lists)
    offered = Reply(them.members["c"], Offered(**lists[2]))
    assert "of small order" in check_offer(LABEL, {})(offered)


def test_another_order_of_the_list_changes_nothing(net, adverts):
    them = net(4)
    lists = adverts(them.offer())
    first = them.put("a", "shares", label=LABEL, adverts=lists)
    again = them.put("a", "shares", label=LABEL, adverts=lists[::-1])
    assert first == again
