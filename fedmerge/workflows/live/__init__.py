"""A page of a run or a study while it is at work, read from its folder alone."""

from fedmerge.workflows.live.status import live_status

__all__ = ["live_status"]
