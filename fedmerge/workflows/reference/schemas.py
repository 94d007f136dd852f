"""JSON Schema of the files that people write, for editors: what is accepted, with defaults and words.

The schema follows the types and the registries; where a file has a short form (a method by its name), the
schema has it too. It can say less than FedMerge's own checks, never more: a file that FedMerge accepts fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from fedmerge.data import SOURCES, CohortSpec
from fedmerge.data.streams import KINDS, TAKES
from fedmerge.errors import unknown
from fedmerge.experiment.configuration.entries import EXTRA_OPTIONS
from fedmerge.federation.aggregators import AGGREGATORS
from fedmerge.merging import FUSION
from fedmerge.models import zoo
from fedmerge.registry import Registry
from fedmerge.testtime import TESTTIME
from fedmerge.trackers import TRACKERS
from fedmerge.workflows.reference.fields import ROOTS, sections
from fedmerge.workflows.reference.page import page, plain, rows

Schema = dict[str, Any]
FILES: dict[str, type[BaseModel]] = {
    "experiment": ROOTS["experiment"],
    "study": ROOTS["study"],
    "cohort": CohortSpec,
    "node": ROOTS["node.yaml"],
    "policy": ROOTS["policy.yaml"],
}
"""The files with a schema."""


class _Written(GenerateJsonSchema):
    """Schemas of what YAML can hold; arrays in memory are left out."""

    def is_instance_schema(self, schema: Any) -> JsonSchemaValue:
        return {"not": {}}


def schema(name: str) -> Schema:
    """Return the JSON Schema of a kind of file (``FILES``). Raises FedMergeError for an unknown name.

    Methods of plug-ins that are loaded are among the names; a name that is not known is accepted, because a
    plug-in may bring it.
    """
    if name not in FILES:
        raise unknown("kind of file", name, FILES)
    made = FILES[name].model_json_schema(schema_generator=_Written)
    definitions: dict[str, Schema] = made.setdefault("$defs", {})
    of: dict[str, Schema] = {**definitions, FILES[name].__name__: made}
    _add_words(of)
    for title, widen in _SHORT.items():
        if title in of:
            widen(of[title])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _add_words(of: dict[str, Schema]) -> None:
    """Put the words of the page of options beside each option."""
    titles = {heading: model.__name__ for heading, model in sections().items()}
    for (heading, option), (_, _, what) in rows(page()).items():
        field = of.get(titles.get(heading, ""), {}).get("properties", {}).get(option)
        if field is not None:
            field["description"] = plain(what)
    for each in of.values():
        if "description" in each:  # a docstring, written for those who read the code
            each["description"] = each["description"].split("\n", 1)[0]


def _entry(registry: Registry, names: Iterable[str], beside: Schema) -> Schema:
    """Return the schema of a method: its name, or a mapping with its options and the settings beside them."""
    known = [registry[name] for name in names]
    name: Schema = {"anyOf": [{"enum": [each.name for each in known]}, {"type": "string"}]}
    return {
        "anyOf": [
            {"enum": [each.name for each in known]},
            {"type": "string"},
            {
                "type": "object",
                "properties": {"method": name},
                "required": ["method"] if beside else [],
                "allOf": [
                    {
                        "if": {"properties": {"method": {"const": each.name}}, "required": ["method"]},
                        "then": {
                            "properties": {"method": True} | beside | _options(each.options),
                            "additionalProperties": False,
                        },
                    }
                    for each in known
                ],
            },
        ]
    }


def _options(options: type[BaseModel]) -> Schema:
    properties: Schema = options.model_json_schema(schema_generator=_Written).get("properties", {})
    return {name: each if "$ref" not in str(each) else True for name, each in properties.items()}


def _experiment(made: Schema) -> None:
    fields, beside = made["properties"], made["$defs"]["MethodConfig"]["properties"]
    for field, registry in (("fusion", FUSION), ("testtime", TESTTIME)):
        extra = {key: beside[key] for key in ("label", *EXTRA_OPTIONS[registry.group])}
        extra |= {"tune": True} if "tune" in extra else {}
        fields[field]["items"] = _entry(registry, registry.names(), extra)
    known: Schema = {"anyOf": [{"enum": zoo.names()}, {"type": "string"}]}
    made["$defs"]["ModelConfig"]["properties"]["name"] = known
    fields["model"] = {"anyOf": [*known["anyOf"], {"$ref": "#/$defs/ModelConfig"}]} | _words(fields["model"])
    fields["trackers"]["items"] = _named("tracker", TRACKERS.names())


def _words(field: Schema) -> Schema:
    return {"description": field["description"]} if "description" in field else {}


def _named(key: str, names: Iterable[str]) -> Schema:
    """Return the schema of a name, or of a mapping with the name under ``key``."""
    name: Schema = {"anyOf": [{"enum": [*names]}, {"type": "string"}]}
    whole = {"type": "object", "properties": {key: name}, "required": [key]}
    return {"anyOf": [*name["anyOf"], whole]}


def _replace(made: Schema, by: Schema) -> None:
    kept = _words(made)
    made.clear()
    made.update(kept | by)


def _training(made: Schema) -> None:
    made["required"] = [name for name in made.get("required", ()) if name != "fine_tune"]


def _cohort(made: Schema) -> None:
    made["required"] = [name for name in made["required"] if name != "name"]  # the file's
    _source(made)


def _stream(made: Schema) -> None:
    fields = made["properties"]
    plain_kinds: Schema = {"enum": [kind for kind in KINDS if kind not in TAKES]}
    forms = [
        {"type": "object", "properties": {kind: fields[takes]}, "required": [kind], "maxProperties": 1}
        for kind, takes in TAKES.items()
    ]
    _replace(made, {"anyOf": [plain_kinds, *forms, {"type": "object", "required": ["kind"]}]})


def _study(made: Schema) -> None:
    levels: Schema = {"type": "object", "additionalProperties": {"type": ["object", "null"]}}
    made["properties"]["axes"]["additionalProperties"] = {"anyOf": [{"type": "array"}, levels]}
    made["properties"]["trackers"]["items"] = _named("tracker", TRACKERS.names())


def _source(made: Schema) -> None:
    made["properties"]["source"]["examples"] = [source.form for source in SOURCES]


_SHORT: dict[str, Callable[[Schema], None]] = {
    "Experiment": _experiment,
    "BenchConfig": _study,
    "TrainingConfig": _training,
    "StreamSpec": _stream,
    "CohortSpec": _cohort,
    "SiteSpec": _source,
    "Aggregation": lambda made: _replace(made, _entry(AGGREGATORS, AGGREGATORS.names(), {})),
    "ServerOptimizerOptions": lambda made: _replace(
        made, _named("method", made["properties"]["method"]["enum"])
    ),
}
"""What a section may be besides what its type says, by the type's name."""
