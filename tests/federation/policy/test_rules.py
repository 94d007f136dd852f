"""policy.yaml: strict where nothing is written, its own explanation, all its faults at once."""

from typing import get_args

import pytest
import yaml
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation import FederationOptions
from fedmerge.federation.messages.replies import ReplyBody
from fedmerge.federation.messages.table import MESSAGES
from fedmerge.federation.plan.fault_injection import Fault
from fedmerge.federation.policy.keeping import check_proposal
from fedmerge.federation.policy.proposal import Proposal, SumsAsked
from fedmerge.federation.policy.rules import NUMBERS, Policy, policy_hash, read_policy, write_policy
from fedmerge.federation.privacy.accounting import epsilon_of
from fedmerge.models import ModelSpec
from fedmerge.training import TrainingOptions


def test_the_file_that_is_written_says_the_defaults_and_explains_every_field(tmp_path):
    write_policy(tmp_path)
    assert read_policy(tmp_path) == Policy()
    written = yaml.safe_load((tmp_path / "policy.yaml").read_text())
    left_out = set(Policy.model_fields) - set(written)
    assert left_out == {"local_noise"}
    assert "# local_noise:" in (tmp_path / "policy.yaml").read_text()


def test_without_a_file_the_policy_is_strict_and_a_file_that_is_there_stays(tmp_path):
    strict = read_policy(tmp_path)
    assert (strict.approval, strict.faults, strict.pretrained, strict.sums) == (
        "required",
        "never",
        False,
        False,
    )
    assert strict.plugins == ()
    before = policy_hash(tmp_path)
    (tmp_path / "policy.yaml").write_text("approval: any\n")
    write_policy(tmp_path)
    assert read_policy(tmp_path) == Policy(approval="any")
    assert policy_hash(tmp_path) != before


def test_all_faults_are_said_at_once(tmp_path):
    given = {
        "approval": "maybe",
        "minimum_images": 0,
        "number": [],
        "numbers": ["acuracy"],
        "limits": {"epoch": 3},
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(FedMergeError) as caught:
        read_policy(tmp_path)
    said = str(caught.value)
    for fact in ("approval", "minimum_images", "'number'", "acuracy", "accuracy", "limits.epoch"):
        assert fact in said


def test_the_numbers_of_the_policy_are_those_that_the_schema_lets_through():
    """Else a number that an answer needs would be taken out of it by the default."""
    kinds = {exchange.reply for exchange in MESSAGES.values()}
    answers = [kind for kind in kinds if issubclass(kind, ReplyBody)]
    fields = [(field.alias or name, field) for kind in answers for name, field in kind.model_fields.items()]
    texts = {name for name, field in fields if {type(each) for each in get_args(field.annotation)} == {str}}
    words = {name for name, field in fields if field.annotation is str or "Json" in str(field.metadata)}
    assert {name for name, _ in fields} - words - texts == set(NUMBERS)


ROUNDS = 2
NOISE = {"clip": 1.0, "noise": 4.0}
NOISED = FederationOptions.model_validate({"privacy": NOISE | {"kind": "local", "delta": 0.5}})
COST = epsilon_of([NOISE["noise"] / 2] * ROUNDS, 1e-5)
MASKED = FederationOptions(secure_aggregation=True, participation={"number": 3})
SHAPE = {"in_channels": 1, "n_classes": 3, "image_size": 8}


@pytest.mark.parametrize(
    ("rule", "what", "word"),
    [
        ({}, {"federation": FederationOptions(faults=(Fault(kind="nan"),))}, ("faults", "never")),
        (
            {},
            {"rounds": 0, "start": "independent", "model": ModelSpec(name="vgg11", pretrained=True, **SHAPE)},
            ("pretrained",),
        ),
        ({"networks": ["resnet18"]}, {}, ("networks",)),
        ({"own_model": False}, {}, ("own_model",)),
        ({"secure": "only"}, {"fine_tune": None}, ("secure", "only")),
        ({"local_noise": {"clip": 1.0, "noise": 1.0}}, {}, ("local_noise",)),
        (
            {"local_noise": NOISE | {"epsilon": COST - 1e-6}},
            {"federation": NOISED, "rounds": ROUNDS},
            ("local_noise.epsilon",),
        ),
        ({"secure_hospitals": 4}, {"federation": MASKED}, ("secure_hospitals", "4", "3", "hospitals")),
        ({"limits": {"rounds": 1}}, {}, ("limits.rounds",)),
        ({"limits": {"epochs": 2}}, {"local": TrainingOptions(epochs=3)}, ("limits.epochs",)),
        ({"limits": {"epochs": 2}}, {"fine_tune": TrainingOptions(epochs=3)}, ("limits.epochs",)),
        ({"limits": {"batch_size": 11}}, {}, ("limits.batch_size",)),
        ({"limits": {"threads": 1}}, {}, ("limits.threads",)),
    ],
)
def test_a_rule_refuses_what_breaks_it_and_its_opposite_lets_it_pass(plan, rule, what, word):
    asked = Proposal(plan=plan.model_copy(update=what))
    with refused(*word):
        check_proposal(Policy(**rule), asked, asked.version, threads=2)
    check_proposal(Policy(faults="allow", pretrained=True), asked, asked.version, threads=2)


def test_what_is_at_a_hospital_s_limit_passes(plan):
    for federation, rule in (
        (NOISED, {"local_noise": NOISE | {"epsilon": COST + 1e-6}}),
        (MASKED, {"secure_hospitals": 3}),
    ):
        asked = Proposal(plan=plan.model_copy(update={"federation": federation, "rounds": ROUNDS}))
        check_proposal(Policy(**rule), asked, asked.version, threads=2)


def test_sums_of_fewer_hospitals_than_secure_sums_take_are_no_rule():
    with refused("greater", "equal", "3", kind=ValueError):
        Policy(secure_hospitals=2)


def test_plug_ins_and_sums_are_what_the_policy_lists(plan):
    asked = Proposal(plan=plan, plugins=("mine", "theirs"), sums=SumsAsked(images=40, split="val"))
    with pytest.raises(FedMergeError) as caught:
        check_proposal(Policy(plugins=("mine",)), asked, asked.version, 1)
    assert len(caught.value.args) == 2
    assert "theirs" in str(caught.value)
    assert "mine" not in str(caught.value)
    check_proposal(Policy(plugins=("theirs", "mine"), sums=True), asked, asked.version, 1)


def test_pretrained_weights_that_come_with_the_server_s_model_are_not_fetched_here(plan):
    """With a shared start the hospital gets all weights from the server."""
    model = ModelSpec(name="vgg11", pretrained=True, **SHAPE)
    asked = Proposal(plan=plan.model_copy(update={"model": model}))
    check_proposal(Policy(), asked, asked.version, 1)
