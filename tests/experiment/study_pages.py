"""A study of in-model merging, the page of a study, and the text that stands on it."""

from __future__ import annotations

import re

from fedmerge.reports import write_study_report

INMERGE = {
    "accuracy": {"plain": 0.7, "inmerge": 0.72},
    "compare": "training",
    "reference": "plain",
    "axes": {"training": ("plain", "inmerge")},
    "methods": {"mean": "fusion"},
}


def page_of(study) -> str:
    return write_study_report(study).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return re.sub(r"<[^>]+>", "", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL))
