"""What becomes one job, and what does not."""

from collections import Counter

import pytest
from facts import refused

from fedmerge.errors import FedMergeError
from fedmerge.experiment.configuration.config import TrainingConfig
from fedmerge.workflows.bench.plan import make_plan
from fedmerge.workflows.bench.variants import read_bench


@pytest.fixture
def planned(place, monkeypatch):
    monkeypatch.chdir(place)  # corners.yaml is named relative to here

    def plan(study, *changes):
        return make_plan(*read_bench(study, changes))

    return plan


def kinds(plan):
    return Counter(job.kind for job in plan.tasks.values())


def test_the_rounds_are_shared_by_what_differs_only_later(planned, study):
    """2 seeds; x 2 fine-tunings, as many pooled; x 4 methods each (alone, pooled, mean, adaptive), and the
    majority class, which is one for both fine-tunings."""
    assert kinds(planned(study)) == {"rounds": 2, "fine-tune": 4, "pooled": 4, "evaluate": 2 * 2 * 4 + 2}


def test_the_majority_class_is_always_there_stands_on_nothing_and_is_one_whatever_is_trained(planned, study):
    plan = planned(study, "references=[]")
    entries = [entry for entry in plan.entries if entry.columns["kind"] == "reference"]
    assert [(e.columns["method"], e.columns["training"], e.columns["seed"]) for e in entries] == [
        ("majority-class", level, seed) for level in ("slow", "fast") for seed in (0, 1)
    ]
    assert len({entry.task for entry in entries}) == 2
    assert all(plan.tasks[entry.task].needs == () for entry in entries)
    other = planned(study, "set.model.options.width=5", "set.training.lr=0.01", "set.batch_norm=average")
    assert {entry.task for entry in entries} < set(other.tasks)
    assert not {entry.task for entry in entries} & set(planned(study, "set.evaluation.images=5").tasks)


def test_a_job_fine_tunes_by_its_own_recipe(planned, study):
    changes = ["set.training.recipe=linear-probe", "set.training.fine_tune.recipe=finetune"]
    stages = [t.config["experiment"]["training"] for t in planned(study, *changes).tasks.values()]
    read = [TrainingConfig(**training) for training in stages if training.get("recipe") == "linear-probe"]
    assert {training.fine_tune.recipe for training in read} == {"linear-probe", "finetune"}  # rounds: any


def test_a_new_method_adds_deployments_alone(planned, study):
    before, after = planned(study), planned(study, "set.fusion=[mean, greedy]")
    new = [after.tasks[job] for job in after.tasks if job not in before.tasks]
    assert [job.kind for job in new] == ["evaluate"] * 4
    assert set(before.tasks) < set(after.tasks)


def test_labels_are_no_part_of_a_job(planned, study):
    named = planned(study, "set.fusion=[{method: mean, label: average}]", "title=other", "name=other")
    assert set(named.tasks) == set(planned(study).tasks)
    assert {entry.columns["method"] for entry in named.entries} >= {"average"}


def test_two_levels_that_mean_the_same_are_one_job_and_two_entries(planned, study):
    study["axes"]["training"]["quick"] = study["axes"]["training"]["fast"]
    plan = planned(study)
    assert kinds(plan) == kinds(
        planned(study | {"axes": {"training": {"slow": {}, "fast": {"training.fine_tune.lr": 0.001}}}})
    )
    assert Counter(e.columns["training"] for e in plan.entries) == {"slow": 10, "fast": 10, "quick": 10}


@pytest.mark.parametrize(
    "change",
    [
        "training.lr=0.06",
        "model.options.width=5",
        "cohort=digits-scanners",
        "batch_norm=average",
    ],
)
def test_what_changes_training_changes_every_job(planned, study, change):
    """All but the majority class, for which nothing is trained."""
    before, after = planned(study), planned(study, f"set.{change}")
    assert all(
        before.tasks[job].config.get("as") == "reference" for job in set(before.tasks) & set(after.tasks)
    )


def test_each_job_comes_after_what_it_needs(planned, study):
    plan = planned(study)
    seen: set[str] = set()
    for job in plan.tasks.values():
        assert set(job.needs) <= seen
        seen.add(job.name)


def test_every_site_is_unseen_in_turn(planned, study):
    """Three federations a seed and variant; the targets are the three sites."""
    plan = planned(study, "set.unseen=each")
    assert kinds(plan)["rounds"] == 2 * 3
    assert Counter(e.columns["site"] for e in plan.entries) == dict.fromkeys(("alpha", "beta", "delta"), 20)
    for entry in plan.entries:
        assert entry.columns["site"] not in plan.tasks[entry.task].config["members"]


def test_without_rounds_there_is_no_job_for_them(planned, study):
    plan = planned(study, "set.training.rounds=0")
    assert kinds(plan)["rounds"] == 0
    assert all(not job.needs for job in plan.tasks.values() if job.kind == "fine-tune")


def test_the_start_is_in_what_the_hospitals_trained_alone(planned, study):
    """Pooled training begins as it did: its job and its row are the same with either start."""
    shared = planned(study, "set.training.rounds=0", "set.training.start=shared")
    default = planned(study, "set.training.rounds=0")
    own = planned(study, "set.training.rounds=0", "set.training.start=independent")
    assert set(shared.tasks) == set(default.tasks)
    common = [shared.tasks[job] for job in shared.tasks if job in own.tasks]
    assert {(job.kind, job.config.get("as")) for job in common} == {
        ("pooled", None),
        ("evaluate", "pooled"),
        ("evaluate", "reference"),
    }
    assert kinds(own) == kinds(shared)


def test_the_images_to_fuse_with_are_in_the_jobs_that_use_them(planned, study, needy):
    study["base"]["fusion"] = ["mean", "needs-images"]
    study["base"]["fusion_data"] = {"from": "union", "images": 6}
    few, more = planned(study), planned(study, "set.fusion_data.images=9")
    new = [more.tasks[job] for job in more.tasks if job not in few.tasks]
    assert {job.config["method"]["method"] for job in new} == {"needs-images"}
    assert new[0].config["experiment"]["fusion_data"] == {"from": "union", "images": 9, "split": "val"}


def test_after_is_in_a_job_only_where_it_is_set(planned, study):
    study["base"]["fusion_data"] = {"from": "union"}
    study["base"]["fusion"] = ["mean"]
    plain = planned(study)
    assert set(plain.tasks) == set(planned(study, "set.fusion=[{method: mean, after: none}]").tasks)
    both = planned(study, "set.fusion=[mean, {method: mean, label: repaired, after: repair}]")
    new = [both.tasks[job].config for job in both.tasks if job not in plain.tasks]
    assert [config["method"] for config in new] == [{"method": "mean", "after": "repair"}] * 4
    assert all("fusion_data" in config["experiment"] for config in new)


def test_a_method_that_needs_the_start_stands_on_the_rounds_as_well(planned, study, needy):
    plan = planned(study, "set.fusion=[mean, needs-start]")
    of = {method: [] for method in ("mean", "needs-start")}
    for job in plan.tasks.values():
        if job.config.get("as") == "fusion":
            of[job.config["method"]["method"]].append([plan.tasks[need].kind for need in job.needs])
    assert of == {"mean": [["fine-tune"]] * 4, "needs-start": [["fine-tune", "rounds"]] * 4}
    without = planned(study, "set.fusion=[needs-start]", "set.training.rounds=0")
    assert all(len(job.needs) <= 1 for job in without.tasks.values())


def test_arrays_in_memory_are_refused(experiment):
    study = {"name": "s", "base": experiment}
    with refused("npz", "PATH"):
        make_plan(*read_bench(study))


def test_unseen_sites_one_by_one_and_mixed_stand_on_the_same_training(planned, study):
    """1 variant, 2 seeds, 2 unseen sites and the two mixed: 3 places x 5 methods (majority class,
    alone, pooled, mean, adaptive) x 2. Pooled training is for a place; the jobs of the two sites are those
    without the axis."""
    study["axes"], study["compare"] = {"evaluation.mixed": [False, True]}, "method"
    study["reference"], study["base"]["unseen"] = "mean", ["beta", "delta"]
    plan = planned(study)
    assert kinds(plan) == {"rounds": 2, "fine-tune": 2, "pooled": 6, "evaluate": 30}
    places = Counter(job.config["target"] for job in plan.tasks.values() if job.kind == "evaluate")
    assert places == {"beta": 10, "delta": 10, "mixed": 10}
    alone = planned(study | {"axes": {"training.lr": [0.05]}})
    assert set(alone.tasks) < set(plan.tasks)


def test_the_number_of_arriving_images_is_in_deployments_alone_and_only_where_it_is_set(planned, study):
    every, few = planned(study), planned(study, "set.evaluation.images=5")
    new = [few.tasks[job] for job in few.tasks if job not in every.tasks]
    assert kinds(few) == kinds(every)
    assert [job.kind for job in new] == ["evaluate"] * 18
    assert {job.config["experiment"]["evaluation"]["images"] for job in new} == {5}
    deployed = [job.config["experiment"]["evaluation"] for job in every.tasks.values()]
    assert not any("images" in deployment for deployment in deployed)


def test_the_oracle_has_no_job_of_its_own(planned, study):
    """Its rows are those of the hospitals alone, which are measured for it where they are not shown."""
    plain, both = planned(study), planned(study, "references=[alone, pooled, oracle]")
    assert set(both.tasks) == set(plain.tasks)
    oracle = [entry for entry in both.entries if entry.columns["kind"] == "oracle"]
    assert {entry.columns["method"] for entry in oracle} == {"oracle-best-source"}
    alone = {entry.task for entry in both.entries if entry.columns["kind"] == "alone"}
    assert {entry.task for entry in oracle} == alone
    only = planned(study, "references=[oracle]")
    assert alone < set(only.tasks)
    assert not [entry for entry in only.entries if entry.columns["kind"] == "alone"]


def test_what_is_tuned_is_in_the_job(planned, study):
    study["base"] |= {"unseen": "none"}

    def adapted(*values):
        tune = f"{{option: coefficients.temperature, values: {[*values]}}}"
        plan = planned(study, f"set.testtime=[{{method: entropy-adaptive, tune: {tune}}}]")
        return {entry.task for entry in plan.entries if entry.columns["kind"] == "test-time"}

    one, other = adapted(0.1, 1.0), adapted(0.1, 0.5)
    assert len(one) == len(other) == 12  # 2 seeds, 2 levels, 3 targets
    assert not one & other
    untuned = planned(study)
    assert not one & {entry.task for entry in untuned.entries}


def test_tuning_on_two_sources_is_refused(planned, study):
    with pytest.raises(FedMergeError) as caught:
        planned(study, "set.testtime=[{method: entropy-adaptive, tune: coefficients.temperature}]")
    for word in ("'entropy-adaptive-tuned' at delta", "2 sources", "merging one model tunes nothing"):
        assert word in str(caught.value)


def test_a_start_from_pooled_training_stands_on_that_alone(planned, study):
    study["references"] = []
    study["base"] |= {"testtime": [{"method": "tent", "start": "pooled"}]}
    plan = planned(study)
    found = [plan.tasks[e.task] for e in plan.entries if e.columns["method"] == "tent-from-pooled"]
    assert len(found) == 4
    for job in found:
        assert [plan.tasks[need].kind for need in job.needs] == ["pooled"]
        assert job.config["method"] == {"method": "tent", "start": "pooled"}


def test_calibrated_is_in_the_job_only_where_it_is_set(planned, study, calibrated):
    def adapted(*beside):
        plan = planned(study, f"set.testtime=[{{{', '.join(['method: divides', *beside])}}}]")
        return [plan.tasks[e.task] for e in plan.entries if e.columns["kind"] == "test-time"]

    plain, off, on = adapted(), adapted("calibrated: false"), adapted("calibrated: true")
    assert plain == off
    assert {job.name for job in plain}.isdisjoint(job.name for job in on)
    assert all(job.config["method"] == {"method": "divides"} for job in plain)
    assert all(job.config["method"] == {"method": "divides", "calibrated": True} for job in on)
    assert [job.needs for job in on] == [job.needs for job in plain]
