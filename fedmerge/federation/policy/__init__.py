"""The hospital's policy: what its node takes part in, what may leave it, and the record of both.

``rules`` is a node's policy.yaml, ``proposal`` the experiment that a server announces, ``approvals`` the
decisions of people about proposals, ``derived`` the jobs that follow from an approved proposal, ``guard`` the
check of every message against all of these. ``audit`` is the log of a node or a server, ``suppression`` hides
small counts, ``installed`` identifies the installed code.
"""
