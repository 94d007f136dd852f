"""``fedmerge methods``: what there is to choose from, and everything about one of it."""

from __future__ import annotations

from typing import Annotated

import typer

from fedmerge.cli.app import Json, Plugins, app, out, print_json, say


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with everything there is to say.")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List methods (fusion, test-time, aggregators), their needs, networks and analyses; or explain one."""
    import fedmerge
    from fedmerge.cli.tables import entry_text, method_record, method_text, methods_table, other_doors
    from fedmerge.errors import unknown
    from fedmerge.models import zoo
    from fedmerge.plugins import load_plugins

    load_plugins(plugins or [])
    if name is not None and name.startswith("torchvision:"):
        zoo.check_network(name, {})
        say(out, f"{name}: a network of torchvision's (model); no options")
        return
    known = fedmerge.methods()
    further = [*zoo.NETWORKS, *fedmerge.ANALYSES]
    chosen = [
        method for method in (known if name is None else [*known, *further]) if name in (None, method.name)
    ]
    doors = other_doors()
    held = [(kind, known[name]) for kind, known in doors.items() if name is not None and name in known]
    if held and not chosen and not as_json:
        say(out, "\n\n".join(entry_text(kind.removesuffix("s"), entry) for kind, entry in held))
        return
    if not chosen:
        raise unknown("method or network", str(name), {method.name for method in [*known, *further]})
    if as_json:
        print_json([method_record(method) for method in chosen])
    elif name is not None:
        # A fusion method and an aggregator may have one name.
        say(out, "\n\n".join(method_text(method) for method in chosen))
    else:
        out.print(methods_table(chosen))
        say(out, f"networks: {', '.join(zoo.names())}, torchvision:NAME, MODULE:FACTORY")
        say(out, f"analyses: {', '.join(fedmerge.ANALYSES.names())}")
        for kind, registry in doors.items():
            if registry.names():
                say(out, f"{kind}: {', '.join(registry.names())}")
        say(out, "options and formulas of one method or network: fedmerge methods NAME")
