"""Importance of neurons: how much each channel of each layer contributes to the logit of the true class.

``importance`` is the door; ``conductance``, ``deeplift`` and ``ablation`` are the rules behind it.
"""

from fedmerge.merging.attribution.importance import Kind, Normalisation, importance, normalise

__all__ = ["Kind", "Normalisation", "importance", "normalise"]
