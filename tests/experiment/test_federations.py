from dataclasses import replace

from facts import refused

from fedmerge.experiment.configuration.federations import Federation, federations
from fedmerge.experiment.configuration.reading import read_experiment


def of(cohort, experiment, **changes):
    return federations(cohort, read_experiment(experiment | changes)[0])


def test_the_cohort_says_who_is_unseen(cohort, experiment):
    assert of(cohort, experiment) == [Federation("federation", ("alpha", "beta", "gamma"), ("delta",))]


def test_names_override_the_cohort(cohort, experiment):
    (federation,) = of(cohort, experiment, unseen=["beta", "alpha"])
    assert federation.members == ("gamma", "delta")
    assert federation.targets == ("beta", "alpha")


def test_each_leaves_one_out_in_turn(cohort, experiment):
    groups = of(cohort, experiment, unseen="each")
    assert [group.targets for group in groups] == [("alpha",), ("beta",), ("gamma",), ("delta",)]
    assert all(
        set(group.members) | set(group.targets) == {"alpha", "beta", "gamma", "delta"} for group in groups
    )


def test_without_rounds_each_trains_every_hospital_once(cohort, experiment):
    training = experiment["training"] | {"rounds": 0}
    (group,) = of(cohort, experiment, unseen="each", training=training)
    assert group.members == group.targets == ("alpha", "beta", "gamma", "delta")


def test_none_is_unseen_and_all_train(cohort, experiment):
    (group,) = of(cohort, experiment, unseen="none")
    assert group.members == group.targets == ("alpha", "beta", "gamma", "delta")


def test_mixed_unseen_sites_are_one_target(cohort, experiment):
    mixed = {"evaluation": experiment["evaluation"] | {"mixed": True}}
    (federation,) = of(cohort, experiment, unseen=["beta", "alpha"], **mixed)
    assert federation == Federation("federation", ("gamma", "delta"), ("mixed",))
    for unseen, words in [
        ("each", ("unseen", "models")),
        ("none", ("unseen", "none")),
        ("cohort", ("delta", "unseen")),
    ]:
        with refused(*words):
            of(cohort, experiment, unseen=unseen, **mixed)
    sites = (replace(cohort.sites[0], name="mixed"), *cohort.sites[1:])
    with refused("site", "name", "rename"):
        of(replace(cohort, sites=sites), experiment, unseen=["beta", "delta"], **mixed)


def test_unknown_and_missing_unseen_sites_are_sentences(cohort, experiment, cohort_spec):
    with refused("delte", "delta"):
        of(cohort, experiment, unseen=["delte"])
    with refused("leave", "train"):
        of(cohort, experiment, unseen=["alpha", "beta", "gamma", "delta"])
