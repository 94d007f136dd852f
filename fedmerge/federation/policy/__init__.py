"""The hospital decides: what its node takes part in, what leaves it, and the record of both.

``rules`` is a node's policy.yaml, ``proposal`` what a server says that it is going to ask, ``approvals`` what
a person decided about it, ``derived`` the jobs that an approved proposal leads to, ``guard`` what stands
before a hospital and holds every message against all of these. ``audit`` is the log of a node or a server,
``suppression`` hides small counts, ``installed`` says which code runs here.
"""
