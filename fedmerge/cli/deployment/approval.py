"""Commands for a hospital's decisions: requests, approvals, the policy in force, and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from fedmerge.cli.app import Json, out, print_json, say
from fedmerge.cli.deployment.group import Folder, Node, deployment

Hash = Annotated[str, typer.Argument(help="The hash of a request, or at least 8 letters of its beginning.")]
By = Annotated[str, typer.Option("--by", help="Who decides; it stands in the log.")]


@deployment.command()
def requests(node: Node, as_json: Json = False) -> None:
    """List the experiments that a server asked for, in plain words, and the decision about each."""
    from fedmerge.federation.deployment.node_folder import NodeFolder
    from fedmerge.federation.policy.approvals import Approvals
    from fedmerge.federation.policy.keeping import admit_plugins
    from fedmerge.federation.policy.proposal import in_words

    admit_plugins(NodeFolder(node).path)
    approvals = Approvals(NodeFolder(node).path)
    decisions = approvals.decisions()
    found: list[dict[str, Any]] = []
    for name in approvals.hashes():
        proposal, seen = approvals.read(name)
        decision = decisions.get(name)
        row: dict[str, Any] = {"hash": name, "seen": seen, "decided": "waits", "by": None, "words": {}}
        if decision is not None:
            row |= {"decided": "approved" if decision.approved else "refused", "by": decision.by}
            row |= {"until": decision.until and decision.until.isoformat(), "runs": decision.runs}
            row |= {"reason": decision.reason}
        found.append(row | {"words": in_words(proposal), "proposal": proposal.model_dump(mode="json")})
    found.sort(key=lambda row: row["seen"])
    if as_json:
        print_json(found)
        return
    if not found:
        say(out, "no server has asked for an experiment yet")
    for row in found:
        by = f" by {row['by']}" if row["by"] else ""
        say(
            out, f"{row['hash']}\n  {'first seen':<12} {row['seen']}\n  {'decision':<12} {row['decided']}{by}"
        )
        for what, words in row["words"].items():
            say(out, f"  {what:<12} {words}")


@deployment.command()
def approve(
    node: Node,
    request: Hash,
    by: By,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last day; without, until it is refused."),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="In how many runs; a resumed one is another.")
    ] = None,
) -> None:
    """Approve an experiment: this one, with this code, and no other."""
    _decide(node, request, by, approved=True, until=until.date() if until else None, runs=runs)


@deployment.command()
def refuse(
    node: Node,
    request: Hash,
    by: By,
    reason: Annotated[str, typer.Option(help="Why; the server is told.")] = "",
) -> None:
    """Refuse an experiment, also an approved one: from the next message on the node answers nothing."""
    _decide(node, request, by, approved=False, reason=reason)


@deployment.command()
def policy(node: Node, as_json: Json = False) -> None:
    """Print the policy that is in force, with every field."""
    import yaml

    from fedmerge.federation.deployment.node_folder import NodeFolder
    from fedmerge.federation.policy.rules import policy_hash, read_policy

    folder = NodeFolder(node).path
    effective = read_policy(folder).model_dump(mode="json")
    if as_json:
        print_json(effective | {"hash": policy_hash(folder)})
        return
    say(out, yaml.safe_dump(effective, sort_keys=False).rstrip())
    say(out, f"# policy.yaml: SHA-256 {policy_hash(folder)}")


@deployment.command()
def audit(
    folder: Folder,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every line; nothing else is printed.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(help="With --verify: a hash that was noted down; it must still be in the log."),
    ] = None,
    show_head: Annotated[
        bool,
        typer.Option("--head-only", help="Print the hash of the last entry, to be noted down elsewhere."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the audit log of a node or a server, one line per entry; it is checked before it is printed."""
    from fedmerge.errors import FedMergeError
    from fedmerge.federation.policy import audit as log

    if head is not None and not verify:
        raise FedMergeError("--head goes with --verify: give both, or --head-only to see the hash.")
    entries = log.verify(folder, head)
    last = entries[-1]["hash"] if entries else "none"
    if show_head:
        say(out, last)
    elif verify:
        noted = ", the noted one among them" if head is not None else ""
        say(out, f"{len(entries)} entries, all as they were written{noted}; the last is {last}")
    elif as_json:
        print_json(entries)
    else:
        for entry in entries:
            say(out, log.in_a_line(entry))


def _decide(node: Any, request: str, by: str, *, approved: bool, **limits: Any) -> None:
    from fedmerge.errors import FedMergeError
    from fedmerge.federation.deployment.node_folder import NodeFolder
    from fedmerge.federation.policy.approvals import Approvals, Decision
    from fedmerge.federation.policy.keeping import admit_plugins

    if not by.strip():
        raise FedMergeError("--by is empty: say who decides.")
    admit_plugins(NodeFolder(node).path)
    approvals = Approvals(NodeFolder(node).path)
    name = approvals.find(request)
    proposal, _ = approvals.read(name)
    approvals.decide(name, Decision(approved, by.strip(), **limits))
    say(out, f"{'approved' if approved else 'refused'}: {proposal.experiment}, {name}")
