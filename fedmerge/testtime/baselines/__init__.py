"""Other methods that adapt at test time, for comparison: one file a method, each a node.

Most start from the mean-merged model; given one model alone, pooled training for instance, from that.
"""

from fedmerge.testtime.baselines.adamerging import AdaMerging
from fedmerge.testtime.baselines.alpha_bn import AlphaBn
from fedmerge.testtime.baselines.bn_adapt import BnAdapt
from fedmerge.testtime.baselines.contrast import Contrast
from fedmerge.testtime.baselines.dawin import DaWin
from fedmerge.testtime.baselines.entropy_weighted import EntropyWeighted
from fedmerge.testtime.baselines.js_coefficients import JensenShannon
from fedmerge.testtime.baselines.lame import Lame
from fedmerge.testtime.baselines.memo import Memo
from fedmerge.testtime.baselines.note import Note
from fedmerge.testtime.baselines.rotta import Rotta
from fedmerge.testtime.baselines.shot import Shot
from fedmerge.testtime.baselines.stream_norms import StreamNorms
from fedmerge.testtime.baselines.t3a import T3A
from fedmerge.testtime.baselines.tent import Tent

__all__ = [
    "T3A",
    "AdaMerging",
    "AlphaBn",
    "BnAdapt",
    "Contrast",
    "DaWin",
    "EntropyWeighted",
    "JensenShannon",
    "Lame",
    "Memo",
    "Note",
    "Rotta",
    "Shot",
    "StreamNorms",
    "Tent",
]
