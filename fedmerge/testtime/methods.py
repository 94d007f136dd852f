"""The registry of test-time methods."""

from __future__ import annotations

from fedmerge.registry import Registry

TESTTIME = Registry("test-time", "test-time method", "fedmerge.testtime", ("observe", "reset"))
