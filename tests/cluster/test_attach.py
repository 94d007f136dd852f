import os
import signal
import time
from contextlib import nullcontext

import pytest

from fedmerge.cluster.attach import _at_most
from fedmerge.errors import FedMergeError


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["terminal", "background"])
def interrupts(request):
    """What Ctrl-C does: as from a terminal, or nothing, as in a background job of a shell."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    assert signal.getsignal(signal.SIGINT) is request.param
    signal.signal(signal.SIGINT, before)


def test_what_takes_too_long_ends_with_a_sentence(interrupts):
    began = time.monotonic()
    with pytest.raises(FedMergeError) as late, _at_most(0.2, "head:6379"):
        time.sleep(30)
    assert time.monotonic() - began < 20
    assert "head:6379" in str(late.value)
    assert "0.2 s" in str(late.value)


def test_what_is_in_time_is_left_alone(interrupts):
    with _at_most(30, None):
        pass
    ignored = interrupts is signal.SIG_IGN
    with nullcontext() if ignored else pytest.raises(KeyboardInterrupt), _at_most(30, None):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1 if ignored else 30)
