"""Reports: pages that stand alone. ``page`` and ``tables`` are what they are made of, ``study`` is a study's.

``standings`` computes a study's numbers, ``verdict`` says them in sentences, ``boards`` sets them in tables;
``again`` writes the report of whatever lies in a folder.
"""

from fedmerge.study.reports.study import write_study_report

__all__ = ["write_study_report"]
