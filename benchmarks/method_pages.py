"""A page for each method of the registries, for the site: written when it is built, never kept."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import yaml
from pydantic.fields import FieldInfo

import fedmerge
from benchmarks.pages import markdown
from benchmarks.studies.standing import cost_text, standing_text
from fedmerge.experiment.formatting import listing
from fedmerge.registry import Method, Needs
from fedmerge.tasks import TASKS
from fedmerge.workflows.reference.fields import may_be

GROUPS = {"fusion": "Fusion", "test-time": "At the unseen hospital", "aggregation": "Aggregators of rounds"}
ABOUT = {"fusion": "fusion.md", "test-time": "test-time.md", "aggregation": "federation.md"}
WHERE = {"fusion": "fusion", "test-time": "testtime"}
"""The section of an experiment that lists the methods of a group; aggregators stand under federation."""
ARXIV, LINKED = re.compile(r"arXiv (\d{4}\.\d{4,5})"), r"[arXiv \1](https://arxiv.org/abs/\1)"


def method_pages() -> Iterator[tuple[str, str]]:
    """Yield a page for each method, and their index, as (name, Markdown)."""
    known = fedmerge.methods()
    for method in known:
        yield page_name(method), method_page(method)
    lines = ["# Every method", "", "Written from the registries: `fedmerge methods` lists the same.", ""]
    for group in dict.fromkeys(method.group for method in known):
        rows = [
            [f"[`{method.name}`]({page_name(method)}.md)", method.summary, needs_in_short(method)]
            for method in known
            if method.group == group
        ]
        lines += [
            f"## {GROUPS.get(group, group)}",
            "",
            markdown(["method", "what it does", "needs"], rows, words=3),
            "",
        ]
    yield "index", "\n".join(lines)


def page_name(method: Method) -> str:
    """Return the name of a method's page: fusion methods and aggregators may share a name."""
    return f"{method.group}-{method.name}".lower()


def needs_in_short(method: Method) -> str:
    """Return what a method needs, in the registry's words."""
    return ", ".join(method.needs.names()) or "the models"


def method_page(method: Method) -> str:
    """Return a method's page: equation, source, needs, options, cost, and where it stood in studies."""
    parts = [
        f"# {method.title}: `{method.name}`",
        method.summary,
        f"{GROUPS.get(method.group, method.group)}: [what this is]({'../../' + ABOUT[method.group]})."
        if method.group in ABOUT
        else "",
        "## Equation and source",
        f"Paper: {ARXIV.sub(LINKED, method.paper)}." if method.paper else "No paper.",
        f"```text\n{inspect.getdoc(method.call) or ''}\n```",
        "## Needs",
        _needs(method),
        "## Options",
        _options(method),
        f"```yaml\n{as_entry(method)}```",
        "## Cost",
        cost_text(method.group, method.name) or _cost(method),
        "## Where it stood in our studies",
        standing_text(method.group, method.name),
        f"`fedmerge methods {method.name}` prints needs, options and equation on the terminal.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_entry(method: Method) -> str:
    """Return the YAML that asks for a method with its options at their defaults, where YAML can say them."""
    plain = {
        name: field.default for name, field in method.options.model_fields.items() if _plain(field.default)
    }
    entry: object = {"method": method.name, **plain} if plain else method.name
    section = WHERE.get(method.group)
    asked = {section: [entry]} if section else {"federation": {"aggregate": entry}}
    return yaml.safe_dump(asked, sort_keys=False, default_flow_style=False)


def _plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _needs(method: Method) -> str:
    said = {
        name.strip(): words.strip()
        for name, words in re.findall(r"^ *(\w+): (.*)\.$", inspect.getdoc(Needs) or "", re.MULTILINE)
    }
    lines = [f"- {said[name]}" for name, value in vars(method.needs).items() if value] or [
        "Nothing but the models."
    ]
    reasons: dict[str, list[str]] = {}
    for task in TASKS:
        if why := method.misfit(task):
            reasons.setdefault(why, []).append(task)
    unfit = [
        f"Not for the [tasks](../../tasks.md) {listing(named)}: {why}." for why, named in reasons.items()
    ]
    return "\n".join(lines) + ("\n\n" + " ".join(unfit) if unfit else "")


def _options(method: Method) -> str:
    rows = []
    for name, field in method.options.model_fields.items():
        group = field.default if is_dataclass(field.default) else None
        if group is None:
            rows.append([f"`{name}`", may_be(field.annotation, field.metadata), _default(field)])
            continue
        types = get_type_hints(type(group), include_extras=True)
        for part in fields(group):
            rows.append(
                [f"`{name}.{part.name}`", may_be(types[part.name]), _shown(getattr(group, part.name))]
            )
    return markdown(["option", "may be", "default"], rows, words=3) if rows else "No options."


def _cost(method: Method) -> str:
    """Say what is known of a method's cost where no study has counted passes."""
    if method.group == "test-time":
        return "For every batch; the text above says how many passes."
    if method.group == "aggregation":
        return "Once a round, at the server; a hospital's training is the same."
    if "ensemble" in method.name:
        return "A pass of every model for each image. Nothing is merged."
    return "Once, at the server. Then one network: a forward pass for each image, as a hospital alone."


def _default(field: FieldInfo) -> str:
    """Return a default as Python writes it, as `fedmerge methods` does."""
    return "needed" if field.is_required() else _shown(field.default)


def _shown(value: object) -> str:
    return f"`{value!r}`".replace("|", "\\|")
