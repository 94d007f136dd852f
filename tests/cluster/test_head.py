"""A head that is gone is noticed, one that is only away for a moment is not given up."""

import socket
import time

import pytest
from facts import refused

from fedmerge.cluster.config import BackendConfig
from fedmerge.cluster.head import Head, HeadLost


@pytest.fixture
def port():
    """A server that accepts connections until it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_head_that_answers_is_there_and_one_that_went_is_lost_after_the_seconds(port):
    address = f"127.0.0.1:{port.getsockname()[1]}"
    head = Head(address, every=0.0, lost=0.3)
    time.sleep(0.4)
    head.check()  # it answers: seen now
    port.close()
    head.check()  # gone for less than the seconds
    time.sleep(0.4)
    with refused(address, "0.3", "kept", kind=HeadLost):
        head.check()


def test_it_is_looked_at_now_and_then_only(port):
    head = Head(f"127.0.0.1:{port.getsockname()[1]}", every=60.0, lost=0.0)
    port.close()
    head.check()


def test_of_a_client_it_is_the_port_that_it_was_given():
    assert Head.of(BackendConfig(kind="ray", address="ray://head:10001")).address == "head:10001"
