"""`settings`: the reference of the configuration, as Markdown; `config/README.md` is this verb's output."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import Field, fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter

from pipeline.settings import RunSettings, Settings

_HEAD = """# The configuration

Every key of `config/config.yaml`, its values, default and meaning. Unknown keys are refused. A file given with
`--configfile` replaces this folder's `config.yaml`; it is not merged into it. There are no keys for threads, memory
or output folders: those belong to Snakemake's command line and profiles.

The sheet, `slides` (a TSV; `#` starts a comment line):

| column | meaning |
|---|---|
| `slide` | unique name: letters, digits, `_`, `-` |
| `patient` | whom the slide comes from; a split never parts a patient |
| `sparse` | path of the H&E slide |
| `dense` | path of its multiplex partner, or empty |
| `transform` | empty: register; `identity`: already registered; or the path of a transform (docs/transforms.md) |
| `sparse_mpp`, `dense_mpp` | um per pixel where the file does not say; must agree with the file where it does |
| `markers` | path of a CSV `channel,marker` that names or renames the dense channels, or the labels of a mask |
| `dense_kind` | `fluorescence`, `brightfield`, `mask` (docs/markers.md); empty: RGB is brightfield, else fluorescence |
| `tissue` | path of a GeoJSON of annotations, see below; empty: tissue as found |

`slide`, `patient` and `sparse` are required. Paths are relative to the working directory.

The file in `tissue` is what QuPath exports as GeoJSON: polygons in level-0 pixels, each classified (or else named)
Tissue, Exclude (or Ignore*), Pen, Fold or Blur. With Tissue in it nothing else counts as tissue and nothing is looked
for; without, the others are taken out of the tissue that is found. What was found stands in
`results/tile/{slide}.geojson`; a copy of it is a file to start from.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments."""


def run(parsed: argparse.Namespace) -> None:
    """Writes the reference to standard output."""
    sys.stdout.write(reference())


def reference() -> str:
    """The reference as Markdown."""
    parts = [_HEAD]
    for section in fields(Settings):
        kind: Any = RunSettings if section.name == "runs" else section.default_factory
        if is_dataclass(kind):
            parts.append(_section(section.name, kind))
    return "\n".join(parts)


def _section(name: str, kind: Any) -> str:
    title = "## `runs`: one entry per training, by name" if name == "runs" else f"## `{name}`"
    schema = TypeAdapter(kind).json_schema()["properties"]
    rows = [_row(item, schema[item.name]) for item in fields(kind)]
    return "\n".join([title, "", "| key | values | default | meaning |", "|---|---|---|---|", *rows, ""])


def _row(item: Field[Any], schema: dict[str, Any]) -> str:
    key: Any = item.default
    value = key.default_factory() if key.default_factory else key.default
    default = json.dumps(list(value) if isinstance(value, tuple) else value)
    return f"| `{item.name}` | {_values(schema)} | `{default}` | {key.description} |"


def _values(schema: dict[str, Any]) -> str:
    """The admitted values of a key in words."""
    if "anyOf" in schema:
        return " or ".join(_values(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        return f"list of {_values(schema['items'])}"
    if schema["type"] == "object":
        return f"name: {_values(schema['additionalProperties'])}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    limits = [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
    bounds = [f"{sign} {schema[limit]:g}" for limit, sign in limits if limit in schema]
    return " ".join([words[schema["type"]], *([", ".join(bounds)] if bounds else [])])
