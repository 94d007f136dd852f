"""Why merging worked or failed: what weights and answers of models say, as tables and sentences.

An analysis is one function ``(subject, *, options) -> Finding``, registered with ``@ANALYSES.method(...)``.
To add one, write a file like ``drift`` and import it here, or in a plug-in.
"""

from fedmerge.analysis.diagnosis import drift  # isort: skip  # the order of the files is that of the page
from fedmerge.analysis.diagnosis import heads  # isort: skip
from fedmerge.analysis.diagnosis import barriers  # isort: skip
from fedmerge.analysis.diagnosis import landscape  # isort: skip
from fedmerge.analysis.diagnosis import features  # isort: skip
from fedmerge.analysis.diagnosis import neurons  # isort: skip
from fedmerge.analysis.diagnosis import tasks  # isort: skip
from fedmerge.analysis.diagnosis import templates  # isort: skip
from fedmerge.analysis.diagnosis import magnification  # isort: skip
from fedmerge.analysis.diagnosis import bounds  # isort: skip
from fedmerge.analysis.diagnosis import filters  # isort: skip
from fedmerge.analysis.diagnosis import settings  # isort: skip
from fedmerge.analysis.diagnosis import dynamics  # isort: skip
from fedmerge.analysis.diagnosis.contract import ANALYSES, Finding, Subject
from fedmerge.analysis.diagnosis.diagnosing import diagnose
from fedmerge.analysis.diagnosis.why import why

__all__ = [
    "ANALYSES",
    "Finding",
    "Subject",
    "barriers",
    "bounds",
    "diagnose",
    "drift",
    "dynamics",
    "features",
    "filters",
    "heads",
    "landscape",
    "magnification",
    "neurons",
    "settings",
    "tasks",
    "templates",
    "why",
]
