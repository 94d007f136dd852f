"""An audit that could look at nothing is no good news."""

import importlib.util
import json
from pathlib import Path

path = Path(__file__).parents[2] / "scripts" / "audit.py"
spec = importlib.util.spec_from_file_location("audit", path)
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

FINE = {"name": "a", "version": "1", "vulns": []}
WEAK = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
UNSEEN = {"name": "c", "skip_reason": "not found"}


def told(*packages):
    return audit.verdict(json.dumps({"dependencies": packages, "fixes": []}))


def test_what_was_found_and_what_was_not_looked_at_is_told():
    assert told(FINE, FINE, UNSEEN) == (0, "2 packages were looked at, 1 were not. No weakness is known.")
    status, sentence = told(FINE, WEAK, UNSEEN, UNSEEN, UNSEEN)
    assert (status, sentence.splitlines()[0]) == (1, "b 2: CVE-1 (mended in 2.1)")
    status, sentence = told(UNSEEN, UNSEEN)
    assert status == 2
    assert "0 packages were looked at" in sentence
