"""What a batch system or a closed terminal sends ends a command as Ctrl-C does, with its own exit code."""

import os
import signal
import time

import pytest

from fedmerge.cli import ending


@pytest.fixture(autouse=True)
def default(monkeypatch):
    """The signals do what they do in a program that was just started; none was received."""
    monkeypatch.setattr(ending, "_received", [])
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ending.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers_after(*numbers):
    """Send signals to this process in a block that ends in order; return what each would do next."""
    found = {}
    try:
        with ending.ends_in_order():
            try:
                for number in numbers:
                    os.kill(os.getpid(), number)
                time.sleep(30)
            finally:
                found = {each: signal.getsignal(each) for each in ending.SIGNALS}
    except KeyboardInterrupt:
        return found
    raise AssertionError("it was not interrupted")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_interrupts_and_a_second_would_end_the_process(number, code):
    assert set(handlers_after(number).values()) == {signal.SIG_DFL}
    assert ending.exit_code() == code


def test_without_a_signal_it_was_ctrl_c_and_all_is_as_before():
    with ending.ends_in_order():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert ending.exit_code() == 130


def test_what_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert handlers_after(signal.SIGHUP, signal.SIGTERM)[signal.SIGHUP] is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert ending.exit_code() == 143
