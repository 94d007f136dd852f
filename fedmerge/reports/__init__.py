"""Reports: pages that stand alone. ``page`` and ``tables`` are what they are made of.

``run_report`` is a run's page, ``leaderboard`` its table. ``study_report`` is a study's: ``leaderboards``
computes its numbers, ``study_summary`` says them in sentences, ``leaderboard_tables`` sets them in tables.
``rewrite`` writes the report of whatever lies in a folder, anew. ``figures`` are the pictures of all.
"""

from fedmerge.reports.study_report import write_study_report

__all__ = ["write_study_report"]
