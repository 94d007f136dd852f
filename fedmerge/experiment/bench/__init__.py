"""Bench: a matrix of experiments as jobs that are done once, found again by hash, and counted together.

``config`` says what is varied and what is compared, ``plan`` turns that into jobs, ``work`` does one job,
``store`` keeps what is done, ``workers`` are who does it, ``engine`` hands out the jobs, ``study`` is what
is left: one table.
"""
