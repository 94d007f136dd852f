"""A hospital's answers to a fusion: sums over its images, under its rules.

``answer`` computes them, ``rules`` limit them, ``ledger`` and ``session`` count what was asked, ``noise`` and
``masks`` hide a single hospital's part.
"""
