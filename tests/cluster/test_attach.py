import os
import signal
import time

import pytest

from fedmerge.cluster.attach import _at_most
from fedmerge.errors import FedMergeError


def test_what_takes_too_long_ends_with_a_sentence():
    began = time.monotonic()
    with pytest.raises(FedMergeError) as late, _at_most(0.2, "head:6379"):
        time.sleep(30)
    assert time.monotonic() - began < 20
    assert "head:6379" in str(late.value)
    assert "0.2 s" in str(late.value)


def test_what_is_in_time_is_left_alone():
    with _at_most(30, None):
        pass
    with pytest.raises(KeyboardInterrupt), _at_most(30, None):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
