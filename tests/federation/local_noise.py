"""The local privacy of the tests: a clip of 0.5 and noise of 4."""

from fedmerge.federation.plan.privacy import LocalPrivacy

LOCAL = {"kind": "local", "clip": 0.5, "noise": 4.0}
OPTIONS = LocalPrivacy(**LOCAL)
