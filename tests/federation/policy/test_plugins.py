"""A node and plug-ins: only those that its own people listed, known by their code; nothing else is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.federation.plan.options import FederationOptions
from fedmerge.federation.policy.keeping import admit_plugins, check_proposal
from fedmerge.federation.policy.proposal import Proposal, plugins_of, proposal_hash
from fedmerge.federation.policy.rules import Policy
from fedmerge.models.zoo import build
from fedmerge.plugins import load_plugins, unload_plugins

EXAMPLES = Path(__file__).parents[3] / "docs" / "extending" / "examples"


@pytest.fixture
def foreign(plan, tmp_path):
    """A plan with a network and an aggregator of plug-ins, and a folder with copies of the two."""
    for name in ("network.py", "aggregator.py"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    load_plugins([str(tmp_path / "network.py"), str(tmp_path / "aggregator.py")])
    model = plan.model.model_copy(update={"name": "tiny-mlp", "options": {}})
    rules = FederationOptions.model_validate({"aggregate": "capped-mean"})
    return plan.model_copy(update={"model": model, "federation": rules}), tmp_path


def test_a_proposal_says_which_plug_ins_a_hospital_needs(foreign, plan):
    assert plugins_of(plan) == ()
    assert plugins_of(foreign[0]) == ("network.py", "aggregator.py")


def test_a_plan_that_does_not_say_its_plug_in_is_refused(foreign):
    asked = Proposal(plan=foreign[0], plugins=("aggregator.py",))
    with refused("network.py", "uses"):
        check_proposal(Policy(plugins=("aggregator.py", "network.py")), asked, asked.version, 1)
    named = Proposal(plan=foreign[0], plugins=plugins_of(foreign[0]))
    check_proposal(Policy(plugins=("/opt/network.py", "/opt/aggregator.py")), named, named.version, 1)


def test_a_node_refuses_by_name_what_it_does_not_allow_though_it_cannot_even_read_the_plan(foreign, asker):
    job = Proposal(plan=foreign[0], plugins=plugins_of(foreign[0])).job()
    unload_plugins()
    asker.start(plugins=["network.py"], approval="any")
    shutil.copy(EXAMPLES / "network.py", asker.folder / "network.py")
    admit_plugins(asker.folder)
    said = asker.ask("query", job)
    assert "plugins does not list aggregator.py" in said


def test_a_node_loads_what_its_policy_lists_relative_to_its_folder_and_follows_the_plan(foreign, asker):
    plan = foreign[0]
    job = Proposal(plan=plan, plugins=plugins_of(plan)).job()
    unload_plugins()
    for name in ("network.py", "aggregator.py"):
        shutil.copy(EXAMPLES / name, asker.folder / name)
    asker.start(plugins=["network.py", "aggregator.py"], approval="any")
    with pytest.raises(FedMergeError, match="tiny-mlp"):
        build(plan.model, seed=0)
    admit_plugins(asker.folder)
    assert not isinstance(asker.ask("query", job), str)
    assert build(plan.model, seed=0) is not None


def test_no_module_is_imported_because_a_plan_or_a_card_names_it(plan):
    evil = plan.model.model_copy(update={"name": "os:abort", "options": {}})
    with refused("os:abort", "not loaded"):
        build(evil, seed=0)
    asked = Proposal(plan=plan.model_copy(update={"model": evil}), plugins=("os",))
    with refused("plugins", "list", "os"):
        check_proposal(Policy(), asked, asked.version, 1)


def test_an_approval_is_for_the_code_as_it_was(foreign):
    plan, folder = foreign
    asked = Proposal(plan=plan, plugins=plugins_of(plan))
    before = proposal_hash(asked)
    assert proposal_hash(asked) == before
    path = folder / "network.py"
    path.write_text(path.read_text() + "\n# changed\n")
    load_plugins([str(path)])
    assert proposal_hash(asked) != before


def test_the_template_of_a_policy_explains_plug_ins():
    from fedmerge.federation.policy.rules import TEMPLATE

    assert yaml.safe_load(TEMPLATE)["plugins"] == []
