"""Bench: a matrix of experiments, divided into jobs. Each job is done once and found again by its hash.

``config`` says what is varied and what is compared, ``plan`` turns that into jobs, ``work`` does one job,
``store`` keeps finished jobs, ``workers`` run them, ``engine`` hands them out, ``study`` reads the results
as one table.
"""
