"""The four papers' claims, each decided by rows of small studies: networks, cells, verdicts, pages.

``python -m benchmarks.studies.papers.study NAME`` computes, cell by cell, and resumes where it stopped;
``python -m benchmarks.studies.papers.pages`` writes docs/papers from the rows in benchmarks/results.
"""
