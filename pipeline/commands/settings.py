"""`settings`: print the reference of the configuration: `config/README.md`, and the tables of `docs/stages`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.errors import StatedError
from pipeline.settings import RunSettings, Settings
from pipeline.settings.branches import Branch

_HEAD = """# The configuration

Every key of `config/config.yaml`, its values, default and meaning. Unknown keys are refused. A file given with
`--configfile` replaces this folder's `config.yaml`; it is not merged into it. There are no keys for threads, memory
or output folders: those belong to Snakemake's command line and profiles.

The sheet, `slides` (a TSV; `#` starts a comment line):

| column | meaning |
|---|---|
| `slide` | unique name, whatever its case: letters, digits, `_`, `-` |
| `patient` | patient ID, spelled identically on all slides of a patient; a split never parts a patient |
| `sparse` | path of the H&E slide: a file, or a folder of OME-Zarr; or its address elsewhere (docs/stages/stage.md) |
| `dense` | path of its multiplex partner, a file or a folder (docs/formats.md), or empty |
| `transform` | empty: register; `identity`: already registered; or the path of a transform (docs/transforms.md) |
| `sparse_mpp`, `dense_mpp` | um per pixel, where the file does not say or is wrong: the sheet has the last word. \
Of gene counts and cells `dense_mpp` is required: um per unit of their places, unless a folder states it |
| `markers` | path of a CSV `channel,marker` that names or renames the dense channels or the labels of a mask, \
or chooses columns of a table of cells |
| `dense_kind` | `fluorescence`, `brightfield`, `mask`, `counts`, `cells` (docs/markers.md); empty: RGB is \
brightfield, else fluorescence |
| `tissue` | path of a GeoJSON of annotations, see below; empty: tissue as found |
| `sparse_image`, `dense_image` | name or number (from 0) of the image, where a file or folder holds several that \
may be meant; inspect names them |
| `classes` | path of a table of classes for the class probes of evaluate (docs/markers.md); empty: none |

`slide`, `patient` and `sparse` are required. Paths are relative to the working directory.

The file in `tissue` is what QuPath exports as GeoJSON: polygons in level-0 pixels, each classified (or else named)
Tissue, Exclude (or Ignore*), Pen, Fold or Blur. With Tissue in it nothing else counts as tissue and nothing is looked
for; without, the others are taken out of the tissue that is found. What was found stands in
`results/tile/{slide}.geojson`; a copy of it is a file to start from. Of MRXS, SCN and other files whose scanned part
begins elsewhere QuPath counts from there, unless it is run with --no-crop: `tile.qupath_crop`.
"""


# What stands between these lines of a page is replaced; the section's name fills the first.
_KEYS_BEGIN = "<!-- keys of {}: written by `python -m pipeline settings --pages docs` -->"
_KEYS_END = "<!-- end of keys -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's argument."""
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of the configuration, for editors, instead"
    )
    parser.add_argument(
        "--pages", type=Path, metavar="DIR", help="bring the tables of keys in the pages of a folder up to date"
    )


def run(parsed: argparse.Namespace) -> None:
    """Write the reference to standard output, or the tables into the pages below a folder.

    Raises:
        StatedError: if there is no such folder, or a table's end is not marked.
    """
    if parsed.schema:
        sys.stdout.write(schema())
        return
    if parsed.pages is None:
        sys.stdout.write(reference())
        return
    if not parsed.pages.is_dir():
        raise StatedError(file=parsed.pages, expected="a folder of pages", found="none")
    for page in sorted(parsed.pages.rglob("*.md")):
        page.write_text(with_keys(page.read_text(encoding="utf-8"), file=page), encoding="utf-8")


def schema() -> str:
    """Return the JSON Schema of the configuration as text."""
    value = TypeAdapter(Settings).json_schema(mode="validation")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **value}, indent=1) + "\n"


def reference() -> str:
    """Return the reference as Markdown."""
    return "\n".join([_HEAD, *(f"{_title(name)}\n\n{_table(kind)}\n" for name, kind in _sections())])


def with_keys(text: str, *, file: Path) -> str:
    """Return the text of a page with every table of keys in it replaced by the one that the code gives.

    Args:
        text: the page; a comment line before and one behind each table say where it stands.
        file: what to call the page in an error.

    Raises:
        StatedError: if a table's end is not marked.
    """
    for name, kind in _sections():
        begin = _KEYS_BEGIN.format(name)
        before, found, rest = text.partition(begin)
        if found:
            _, end, after = rest.partition(_KEYS_END)
            if not end:
                raise StatedError(file=file, expected=f"the line {_KEYS_END} behind the keys of {name}", found="none")
            text = f"{before}{begin}\n\n{_table(kind)}\n\n{_KEYS_END}{after}"
    return text


def sections() -> tuple[str, ...]:
    """Return the names of the sections of the configuration, and of mappings within them that have their own table."""
    return tuple(name for name, _ in _sections())


def _sections() -> Iterator[tuple[str, Any]]:
    """Name and dataclass of every section, and of a branch in a run."""
    for section in fields(Settings):
        kind: Any = RunSettings if section.name == "runs" else section.default_factory
        if is_dataclass(kind):
            yield section.name, kind
            if kind is RunSettings:
                yield "runs.branches", Branch


def _title(name: str) -> str:
    more = {"runs": "one entry per training, by name", "runs.branches": "a branch that is a mapping"}
    return f"## `{name}`: {more[name]}" if name in more else f"## `{name}`"


def _table(kind: Any) -> str:
    schema = TypeAdapter(kind).json_schema()["properties"]
    rows = [_row(item, schema[item.name]) for item in fields(kind)]
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows])


def _row(item: Field[Any], schema: dict[str, Any]) -> str:
    key: Any = item.default
    if key.is_required():
        return f"| `{item.name}` | {_values(schema)} | required | {key.description} |"
    value = key.default_factory() if key.default_factory else key.default
    default = json.dumps(list(value) if isinstance(value, tuple) else value)
    return f"| `{item.name}` | {_values(schema)} | `{default}` | {key.description} |"


def _values(schema: dict[str, Any]) -> str:
    """Return the admitted values of a key in words."""
    for either in ("anyOf", "oneOf"):
        if either in schema:
            return " or ".join(_values(option) for option in schema[either])
    if "$ref" in schema:
        return "mapping"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        # A list of a fixed length names each of its entries.
        entry = schema["items"] if "items" in schema else schema["prefixItems"][0]
        return f"list of {_values(entry)}"
    if schema["type"] == "object":
        return f"name: {_values(schema['additionalProperties'])}"
    type_names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    limits = [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
    bounds = [f"{sign} {schema[limit]:g}" for limit, sign in limits if limit in schema]
    return " ".join([type_names[schema["type"]], *([", ".join(bounds)] if bounds else [])])
