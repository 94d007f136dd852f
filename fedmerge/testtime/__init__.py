"""Test-time methods: how an unseen site predicts unlabelled batches, one by one, with models it receives.

A test-time method is a :class:`Node`: ``observe(batch) -> (logits, trace)`` and ``reset()``. It never sees a
label. :class:`EntropyAdaptive` merges the models anew for each batch, :class:`StreamAdaptive` also
learns the site's scanner; :class:`Static` is any model left as it is, in the same form; ``baselines`` holds
what else adapts. ``TESTTIME`` knows the methods by name. ``Coefficients``, ``Norms``, ``Probe``,
``Guard`` and ``Prediction`` hold the options of the two nodes.
"""

from fedmerge.testtime import baselines
from fedmerge.testtime.contract import Node, Trace
from fedmerge.testtime.entropy_adaptive import EntropyAdaptive
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.methods import TESTTIME
from fedmerge.testtime.options import Coefficients, Norms, Prediction
from fedmerge.testtime.probe import Probe
from fedmerge.testtime.static import Static
from fedmerge.testtime.stream_adaptive import StreamAdaptive

__all__ = [
    "TESTTIME",
    "Coefficients",
    "EntropyAdaptive",
    "Guard",
    "Node",
    "Norms",
    "Prediction",
    "Probe",
    "Static",
    "StreamAdaptive",
    "Trace",
    "baselines",
]
