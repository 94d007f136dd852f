"""The report of a run is one file that stands alone, says every number, and trusts no text."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from fedmerge.data import CohortSpec, streams
from fedmerge.experiment.folder.reopen import without_images
from fedmerge.reports.leaderboard import STREAMS, by_site, score_table
from fedmerge.reports.run_report import write_report


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_method_with_its_numbers(make_result):
    result = make_result(seeds=(0, 1))
    text = Page(write_report(result).read_text(encoding="utf-8")).text
    for method, row in result.summary().iterrows():
        assert str(method) in text
        for share in (row["iid"], row["temporal"], row["balanced_accuracy"]):
            assert f"{100 * share:.1f}" in text
        assert f"{row['auroc']:.3f}" in text
        assert f"{row['ece']:.3f}" in text


def test_nothing_is_fetched_and_only_the_own_script_runs(page):
    """Attributes that load something hold data only; there is one script, and the policy names its hash."""
    loading = {"src", "srcset", "href", "poster", "data", "action"}
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    )
    assert [tag for tag, _ in Page(page).tags].count("script") == 1
    for tag, attributes in Page(page).tags:
        assert tag not in ("link", "iframe", "object", "embed")
        assert not any(name.startswith("on") for name in attributes)
        for name in loading & set(attributes):
            assert str(attributes[name]).startswith("data:image/")
    assert not re.search(r"@import|url\(|https?://", page)


def test_every_image_has_words_with_numbers(page):
    images = [attributes for tag, attributes in Page(page).tags if tag == "img"]
    assert len(images) == 8  # scores, cost, map, samples, classes, rounds, and one for each of two streams
    for attributes in images:
        assert len(attributes["alt"] or "") > 40
        assert re.search(r"\d", attributes["alt"] or "")


def test_text_of_others_is_escaped(make_result):
    evil = '<script>alert("x")</script>'
    result = make_result()
    sites = tuple(replace(s, name=evil, source=evil) if s.unseen else s for s in result.cohort.sites)
    result = replace(
        result,
        cohort=replace(result.cohort, sites=sites, title=evil),
        table=result.table.replace({"site": {"coast": evil}}),
        failures=pd.DataFrame([{"seed": 0, "where": evil, "site": evil, "reason": evil}]),
        provenance={evil: {evil: evil}, "command": evil},
    )
    page = write_report(result).read_text(encoding="utf-8")
    assert page.count("<script") == [tag for tag, _ in Page(page).tags].count("script") == 1
    assert evil in Page(page).text


def test_failures_stand_above_the_table(make_result, page):
    failures = pd.DataFrame([{"seed": 0, "where": "round 2 (train)", "site": "south", "reason": "no memory"}])
    failed = write_report(make_result(failures=failures)).read_text(encoding="utf-8")
    assert 0 < failed.index("no memory") < failed.index('id="scores"')
    assert 'id="failures"' not in page


def test_question_answer_decisions_rules_and_provenance(page):
    text = Page(page).text
    for part in (
        "Tiny run", "one seed: no interval", "gains 6.0 points on mean merging", "left out",
        "fedmerge run tiny.yaml", "torch 2.15", "macro mean of one-vs-rest AUROC", "rounds: 3",
    ):  # fmt: skip
        assert part in text


def test_the_runs_own_configuration_is_shown(make_result):
    result = make_result()
    (result.folder / "config.yaml").write_text("name: as-written\n")
    assert "name: as-written" in write_report(result).read_text(encoding="utf-8")


def test_a_run_with_little_to_show(make_result, tables):
    """No test-time method, no decisions, one stream, no provenance: the page is still written."""
    empty = pd.DataFrame()
    result = make_result(
        table=tables({"alone:north": 0.6, "mean": 0.7}, streams=["iid"]), coefficients=empty, decisions=empty,
        failures=empty, history=empty, provenance={},
    )  # fmt: skip
    text = Page(write_report(result).read_text(encoding="utf-8")).text
    assert "70.0" in text
    assert "batch by batch" not in text


def test_best_is_marked_among_fused_and_adapted_only(make_result):
    """pooled is best of all but a reference: the best of the others is marked in all but its cost."""
    lines = {line.method: line for group in score_table(make_result()).groups for line in group.lines}
    marked = {method for method, line in lines.items() if any(cell.best for cell in line.cells)}
    assert marked == {"entropy-adaptive"}
    assert [cell.best for cell in lines["entropy-adaptive"].cells] == [True] * 6 + [False]


def test_interval_in_the_table(make_result):
    """greedy: 78 % and 80 %, sd 1.414, half-width 12.706 x 1.414 / sqrt(2) = 12.7; with one seed, none."""
    result = make_result(seeds=(0, 1))
    result.table["accuracy"] += 0.02 * result.table["seed"] * (result.table["method"] == "greedy")
    cells = {line.method: line.cells[0].text for group in score_table(result).groups for line in group.lines}
    assert cells["greedy"] == "79.0 ± 12.7"
    assert cells["mean"] == "75.0 ± 0.0"


def test_several_unseen_hospitals_have_a_table_of_their_own(tables):
    table = tables({"mean": 0.7}, sites=("a", "b"))
    table["accuracy"] += 0.1 * (table["site"] == "b")
    shown = by_site(table)
    assert shown.names == ["a", "b"]
    assert [cell.text for cell in shown.groups[0].lines[0].cells] == ["70.0", "80.0"]
    assert by_site(tables()) is None


@pytest.mark.pictures
def test_same_result_same_page(make_result, page):
    assert write_report(make_result()).read_text(encoding="utf-8") == page


def test_differences_with_intervals_where_seeds_or_hospitals_give_them(make_result, tables, page):
    """Drawn for two seeds and for two hospitals, with the rule of the interval; not for one of each."""
    assert 'id="differences"' not in page
    for result in (make_result(seeds=(0, 1)), make_result(table=tables(sites=("a", "b")))):
        text = write_report(result).read_text(encoding="utf-8")
        assert 'id="differences"' in text
        assert "95 % interval" in text


def test_reliability_of_the_fused_and_adapted_models(make_result, bins, page):
    assert 'id="reliability"' not in page
    frame = bins({"mean": "fusion", "pooled": "pooled"})
    text = write_report(make_result(reliability=frame)).read_text(encoding="utf-8")
    (described,) = re.findall(r'id="reliability".*?alt="(.*?)"', text, re.DOTALL)
    assert "mean" in described
    assert "pooled" not in described


@pytest.mark.pictures
def test_images_under_scanner_shift_do_not_move_the_scores(make_result, page):
    """The same run with rows of severity 3 and accuracy 0 beside: every number stays."""
    result = make_result()
    clean = result.table.assign(shift="none", severity=0)
    shifted = clean.assign(shift="blur", severity=3, accuracy=0.0, balanced_accuracy=0.0)
    both = write_report(replace(result, table=pd.concat([clean, shifted]))).read_text(encoding="utf-8")
    assert both == page


@pytest.mark.pictures
def test_without_images_every_number_stays_and_the_pictures_are_said_to_be_left_out(make_result, page):
    result = make_result()
    spec = CohortSpec.model_validate(
        {"name": "tiny", "title": "Tiny cohort", "source": "npz:gone.npz"}
        | {"sites": [{"name": s.name, "unseen": s.unseen} for s in result.cohort.sites]}
    )
    text = write_report(replace(result, cohort=without_images(spec))).read_text(encoding="utf-8")
    assert "are not on this machine" in text
    assert 'id="samples"' not in text
    assert [c for _, c in Page(text).tags if "data-value" in c] == [
        c for _, c in Page(page).tags if "data-value" in c
    ]


def test_cells_carry_the_numbers_that_a_column_is_sorted_by(page):
    """entropy-adaptive: 81 % accuracy, AUROC 0.89, 1 pass; ECE 0.3 - 0.81 / 4 = 0.0975, sorted upwards."""
    row = re.search(r'<th scope="row">entropy-adaptive.*?</tr>', page, re.DOTALL).group(0)
    values = [float(value) for value in re.findall(r'data-value="(.*?)"', row)]
    assert values == pytest.approx([0.81, 0.81, 0.81, 0.76, 0.89, 0.0975, 1.0])
    assert re.findall(r'data-first="(\w+)">(?:AUROC|ECE)', page) == ["descending", "ascending"]


def test_every_kind_of_stream_has_its_words():
    assert set(STREAMS) == set(streams.KINDS)
