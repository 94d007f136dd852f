"""Label sets as strata: streams and partitions of images with several findings."""

import numpy as np

from fedmerge.data import streams
from fedmerge.data.cohort.building import build_cohort
from fedmerge.data.cohort.spec import CohortSpec
from fedmerge.data.streams import StreamSpec
from fedmerge.tasks.label_sets import RARE, strata


def test_one_label_an_image_is_its_own_stratum():
    labels = np.array([3, 1, 3])
    assert strata(labels) is labels


def test_rare_sets_count_as_their_rarest_finding():
    """A 30 times, B 30, A and B 25, C 30; A and C thrice: C is rarer than A, so these count as C alone."""
    rows = [[1, 0, 0]] * 30 + [[0, 1, 0]] * 30 + [[1, 1, 0]] * 25 + [[0, 0, 1]] * 30 + [[1, 0, 1]] * 3
    codes = strata(np.array(rows, dtype=np.uint8))
    assert RARE == 20
    assert set(codes[115:]) == set(codes[85:115])
    assert len(set(codes)) == 4
    assert [len(set(part)) for part in np.split(codes, [30, 60, 85])] == [1, 1, 1, 1]


def test_images_without_a_finding_are_a_stratum_however_few():
    rows = [[1, 0]] * 30 + [[0, 0]] * 2
    assert len(set(strata(np.array(rows, dtype=np.uint8)))) == 2


def test_a_stream_has_runs_of_label_sets():
    sets = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.uint8)
    labels = sets[np.arange(120) % 3]
    order = streams.order(StreamSpec.model_validate("temporal"), labels, 20, 0, "a")
    seen = strata(labels)[order]
    assert sorted(order.tolist()) == list(range(120))
    assert (np.diff(seen) != 0).sum() == 2  # one set after the other


def test_hospitals_divide_label_sets():
    spec = CohortSpec.model_validate(
        {
            "name": "pairs",
            "task": "multilabel",
            "source": "digit-pairs",
            "sites": [{"name": "a", "share": 3}, {"name": "b"}, {"name": "u", "unseen": True}],
        }
    )
    cohort = build_cohort(spec, 0)
    assert cohort.task.name == "multilabel"
    assert sum(len(site.everything) for site in cohort.sites) == 1797
    a, b, _ = (site.everything.class_counts(10).double() / len(site.everything) for site in cohort.sites)
    assert float((a - b).abs().max()) < 0.05  # without skew, every finding is about as common in both
    assert len(cohort["a"].train) / len(cohort["b"].train) > 2.7
