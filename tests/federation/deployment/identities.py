"""A server, and what a hospital believes of it."""

from __future__ import annotations

from fedmerge.federation.deployment.node_folder import NodeFolder

NAME = "fusion.example.org"


def node_of(server, tmp_path, port=1):
    (tmp_path / "own.yaml").write_text("sites: []")
    where = f"127.0.0.1:{port}"
    return NodeFolder.make(tmp_path / "node", "north", tmp_path / "own.yaml", where, server.authority)
