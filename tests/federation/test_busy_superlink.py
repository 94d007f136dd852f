"""A SuperLink that fails for a moment does not end a run; one that fails for long, or refuses, does."""

import httpx
import pytest
from flwr.supercore.retry import make_simple_http_retry_invoker

from fedmerge.federation.grids.busy import be_patient


class Grid:
    """As much of Flower's Grid as has its rule for retries, which never waits here."""

    def __init__(self):
        self._retry_invoker = make_simple_http_retry_invoker()
        self._retry_invoker.wait_function = lambda seconds: None


def answering(*codes):
    """A call that ends with these HTTP codes, one after the other; the last for ever."""
    left = list(codes)

    def call():
        code = left.pop(0) if len(left) > 1 else left[0]
        request = httpx.Request("POST", "https://127.0.0.1/v1/runtime/pull-messages")
        return httpx.Response(code, request=request).raise_for_status().status_code

    return call


def test_flower_alone_gives_up_at_once():
    with pytest.raises(httpx.HTTPStatusError):
        Grid()._retry_invoker.invoke(answering(500, 200))


def test_a_call_that_failed_is_made_again_until_it_is_answered():
    grid = Grid()
    be_patient(grid)
    for _ in range(2):
        assert grid._retry_invoker.invoke(answering(500, 500, 503, 500, 200)) == 200


def test_it_ends_with_the_superlink_s_error_when_patience_does():
    grid = Grid()
    be_patient(grid, 0.0)
    with pytest.raises(httpx.HTTPStatusError, match="500"):
        grid._retry_invoker.invoke(answering(500))


def test_what_is_refused_is_not_asked_again():
    grid = Grid()
    be_patient(grid)
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        grid._retry_invoker.invoke(answering(400, 200))


def test_patience_begins_anew_with_each_answer(monkeypatch):
    """100 seconds of failing before an answer and 100 after it are not 200 seconds of failing."""
    now = [0.0]
    monkeypatch.setattr("fedmerge.federation.grids.busy.time.monotonic", lambda: now[0])
    grid = Grid()
    grid._retry_invoker.wait_function = lambda seconds: now.__setitem__(0, now[0] + 50.0)
    be_patient(grid, 120.0)
    for _ in range(2):
        assert grid._retry_invoker.invoke(answering(500, 500, 200)) == 200
    with pytest.raises(httpx.HTTPStatusError):
        grid._retry_invoker.invoke(answering(500, 500, 500, 500, 500, 200))


def test_a_grid_without_retries_stays_as_it_is():
    be_patient(object())
