"""The state of a deployment, and the inspection of its hospitals' images, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedmerge.cli.columns import columns
from fedmerge.cli.progress import clock
from fedmerge.federation.deployment.ago import ago

BLOCKS = " ▁▂▃▄▅▆▇█"
SOON = 60  # days before a certificate ends
Told = dict[str, Any]


def state_text(status: Told) -> str:
    """Return the state in several lines; unprintable characters, which could move the cursor, are blanks."""
    parts = _server(status) if status["kind"] == "server" else _node(status)
    return "\n".join("".join(c if c.isprintable() else " " for c in part) for part in parts)


def _server(status: Told) -> list[str]:
    parts = [f"server {status['address']}: {_up(status)}", "", "hospitals"]
    rows = [
        [
            each["name"],
            "never came" if each["status"] == "registered" else each["status"],
            ago(each["ago"]),
            f"round {each['round']}" if each["round"] is not None else "",
            f"{each['failures']} failures" if each["failures"] else "",
        ]
        for each in status["hospitals"]
    ]
    parts += columns(rows) or ["  none was admitted yet"]
    if status["waiting"]:
        parts.append(f"  waiting for approval by: {', '.join(status['waiting'])}")
    parts += ["", "runs"]
    for run in status["runs"]:
        share = "" if run["progress"] is None else f", {100 * run['progress']:.0f} % of the rounds"
        share += f", about {clock(run['left'])} left" if run.get("left") else ""
        parts.append(f"  {run['run']}  {run['words']}{share}  {run['folder']}")
        parts += [f"      {run['reason']}"] if run["reason"] else []
        parts += [f"      goes on with: {run['again']}"] if run["again"] else []
    parts += [] if status["runs"] else ["  none yet"]
    for run in status["runs"][:1]:
        parts += ["", f"failures of hospitals in the latest run: {run['failed']}"]
        parts += [
            f"  {row['site']}, round {row['round']} ({row['phase']}): {row['reason']} ({row['then']})"
            for row in run["failures"][-5:]
        ]
    return parts + _endings(status)


def _node(status: Told) -> list[str]:
    parts = [f"{status['hospital']}, node of {status['address']}: {_up(status)}"]
    parts.append(f"last words of its programs: {status['last words'] or 'none'}")
    parts.append(f"last asked: {status['asked'] or 'never, or not written down'}")
    if status["waits"]:
        parts.append(f"an experiment waits for approval: fedmerge deployment requests {status['folder']}")
    for title, rows, last in (("jobs", status["jobs"], "group"), ("refused", status["refused"], "reason")):
        parts += ["", title] if rows else []
        parts += [f"  {_job(row, last)}" for row in rows[-10:]]
    return parts + _endings(status)


def _job(row: Told, last: str) -> str:
    """Return a job in a line. last: the field after those that every job has."""
    said = [str(row[key]) for key in ("at", "event", "run", "kind", last) if key in row]
    return " ".join(said) + (f" ({row['times']} times)" if row["times"] > 1 else "")


def _up(status: Told) -> str:
    return ("up" if status["up"] else "down") + (f" ({status['said']})" if status["said"] else "")


def _endings(status: Told) -> list[str]:
    soon = [each for each in status["expiries"] if each["days"] < SOON]
    parts = [
        f"  {each['what']} ends on {each['until']}, in {each['days']} days: {each['then']}" for each in soon
    ]
    return ["", "certificates that end soon", *parts] if parts else []


def inspection_text(found: Sequence[Told], checks: bool = False) -> str:
    """Return a block of lines for each hospital. checks: whether they were asked for."""
    parts: list[str] = []
    for each in found:
        parts.append(each["hospital"])
        if "reason" in each:
            parts += [f"  no answer: {each['reason']}", ""]
            continue
        shape = " x ".join(map(str, each["shape"]))
        parts.append(f"  images: {each['train']} train, {each['val']} val, {each['test']} test; {shape}")
        parts.append("  classes: " + ", ".join(f"{name} {n}" for name, n in each["classes"].items()))
        parts.append(f"  duplicates: {each['duplicates']}; images of one value: {each['flat']}")
        shares = each["intensities"]
        top = max((share for share in shares if share is not None), default=0) or 1
        drawn = "".join("?" if share is None else BLOCKS[round(8 * share / top)] for share in shares)
        parts.append(f"  intensities 0 to 255: {drawn or 'not told'}")
        parts += [f"  {line}" for line in _checks(each.get("checks"), checks)]
        parts.append("")
    text = "\n".join(parts).rstrip()
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _checks(found: Told | None, asked: bool) -> list[str]:
    """Return what a hospital told of its checks, in lines."""
    if found is None:
        return ["checks: not told"] if asked else []
    told = {name: "not told" if value is None else value for name, value in found.items()}
    middle = told["middle"]
    parts = [
        f"near duplicates: {told['near_duplicates']}; like a negative: {told['negatives']}; "
        f"middle against edge: {f'{middle:+d}' if isinstance(middle, int) else middle}"
    ]
    for title, name in (("brightness alone", "brightness"), ("sizes", "sizes"), ("left out", "left_out")):
        value = told[name]
        said = ", ".join(f"{key} {n}" for key, n in value.items()) if isinstance(value, dict) else value
        parts.append(f"{title}: {said or 'none'}")
    return parts
