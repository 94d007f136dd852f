"""The report is one file that stands alone, says every number, and trusts no text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd

from fedmerge.study.report import write_report
from fedmerge.study.scoreboard import by_site, score_groups


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


def test_nothing_is_fetched_and_nothing_runs(page):
    """Attributes that load something hold data only; there is no script, no import, no url()."""
    loading = {"src", "srcset", "href", "poster", "data", "action"}
    for tag, attributes in Page(page).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not any(name.startswith("on") for name in attributes)
        for name in loading & set(attributes):
            assert str(attributes[name]).startswith("data:image/")
    assert not re.search(r"@import|url\(|https?://", page)


def test_every_image_has_words_with_numbers(page):
    images = [attributes for tag, attributes in Page(page).tags if tag == "img"]
    assert len(images) == 7  # scores, map, samples, classes, rounds, and one for each of two streams
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
    assert "<script" not in page
    assert all(tag != "script" for tag, _ in Page(page).tags)
    assert evil in Page(page).text


def test_failures_stand_above_the_table(make_result, page):
    failures = pd.DataFrame([{"seed": 0, "where": "round 2 (train)", "site": "south", "reason": "no memory"}])
    failed = write_report(make_result(failures=failures)).read_text(encoding="utf-8")
    assert 0 < failed.index("no memory") < failed.index('class="scores"')
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
    lines = {line.method: line for group in score_groups(make_result()) for line in group.lines}
    marked = {method for method, line in lines.items() if any(cell.best for cell in line.cells)}
    assert marked == {"entropy-adaptive"}
    assert [cell.best for cell in lines["entropy-adaptive"].cells] == [True] * 6 + [False]


def test_interval_in_the_table(make_result):
    """greedy: 78 % and 80 %, sd 1.414, half-width 12.706 x 1.414 / sqrt(2) = 12.7; with one seed, none."""
    result = make_result(seeds=(0, 1))
    result.table["accuracy"] += 0.02 * result.table["seed"] * (result.table["method"] == "greedy")
    cells = {line.method: line.cells[0].text for group in score_groups(result) for line in group.lines}
    assert cells["greedy"] == "79.0 ± 12.7"
    assert cells["mean"] == "75.0 ± 0.0"


def test_several_unseen_hospitals_have_a_table_of_their_own(tables):
    table = tables({"mean": 0.7}, sites=("a", "b"))
    table["accuracy"] += 0.1 * (table["site"] == "b")
    sites, lines = by_site(table)
    assert sites == ["a", "b"]
    assert [cell.text for cell in lines[0].cells] == ["70.0", "80.0"]
    assert by_site(tables()) == ([], [])


def test_same_result_same_page(make_result, page):
    assert write_report(make_result()).read_text(encoding="utf-8") == page
