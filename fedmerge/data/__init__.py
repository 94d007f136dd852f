"""The hospitals' images: their sources, their division among hospitals, scanner shifts, and test streams.

A cohort is read from ``sites/*.yaml`` (``read_cohort``) and built with a seed (``build_cohort``). Everything
is uint8 images and int64 labels on the CPU; nothing here knows about networks.
"""

from fedmerge.data import streams
from fedmerge.data.cohort.building import build_cohort
from fedmerge.data.cohort.cohort import Cohort, Site
from fedmerge.data.cohort.fusion import FusionData
from fedmerge.data.cohort.spec import CohortSpec, Minimum, SiteSpec, cohort_names, read_cohort
from fedmerge.data.images.images import Split, concat
from fedmerge.data.partition import partition
from fedmerge.data.scanner import Appearance
from fedmerge.data.sources.source_kinds import SOURCES, SourceRequest
from fedmerge.data.sources.sources import Arrays, load_source
from fedmerge.data.streams import StreamSpec

__all__ = [
    "SOURCES",
    "Appearance",
    "Arrays",
    "Cohort",
    "CohortSpec",
    "FusionData",
    "Minimum",
    "Site",
    "SiteSpec",
    "SourceRequest",
    "Split",
    "StreamSpec",
    "build_cohort",
    "cohort_names",
    "concat",
    "load_source",
    "partition",
    "read_cohort",
    "streams",
]
