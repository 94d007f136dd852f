"""Reports: pages that stand alone. ``page`` and ``tables`` make them.

``run_report`` writes a run's page, ``leaderboard`` its table. ``study_report`` writes a study's page:
``leaderboards`` computes its numbers, ``study_summary`` says them in sentences, ``leaderboard_tables`` sets
them in tables. ``figures`` draws the figures of both.
"""

from fedmerge.reports.study_report import write_study_report

__all__ = ["write_study_report"]
