"""Describe the mistakes in a configuration: the key, what was found and what to write."""

from __future__ import annotations

import reprlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin, get_type_hints

import yaml

# What YAML's parser says, and what most likely stands behind it.
_YAML_REMEDIES = {
    "'\\t'": "indent with spaces, not tabs",
    "mapping values are not allowed": "indent keys of one section alike, and put a value that has a colon in quotes",
    "unknown escape character": "within double quotes \\ begins an escape: use / or single quotes",
    "undefined alias": "what * names is marked by & further up",
    "<stream end>": "a bracket is not closed",
    "end of stream": "a quote is not closed",
}
# What others call the keys.
_OTHER_NAMES = {
    "learning_rate": "lr",
    "loss": "objective",
    "patch_size": "size_px",
    "patch_px": "size_px",
    "model": "encoder",
    "backbone": "encoder",
}
_NO_VALUE = "has no value: give one or take the line out"


def mistakes(kind: Any, values: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each mistake once, with all keys that it was made at.

    Args:
        kind: class of the settings that were refused.
        values: as they were written.
        errors: pydantic's.
    """
    problems: dict[tuple[str, ...], list[str]] = {}
    for item in errors:
        keys = _written(values, item)
        problem = _problem(kind, keys, item)
        known = problems.setdefault(keys, [])
        if problem not in known:
            known.append(problem)
    # What several runs have from one mapping (`<<: *training`) is one mistake.
    keys_of: dict[str, list[str]] = defaultdict(list)
    for keys, known in problems.items():
        keys_of[", or ".join(known)].append(".".join(keys) or "(top)")
    return [f"{', '.join(where)}: {problem}" for problem, where in keys_of.items()]


def yaml_mistake(error: Exception) -> str:
    """Return what a YAML parser refused, where, and what to do about it."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    remedy = next((words for sign, words in _YAML_REMEDIES.items() if sign in str(error.problem)), "")
    return f"in line {mark.line + 1}, column {mark.column + 1}: {error.problem}{f': {remedy}' if remedy else ''}"


def no_mapping(value: Any) -> str:
    """Return what a file holds whose top level is not keys with values."""
    if value is None:
        return "an empty file"
    if isinstance(value, str):
        return f"the text {_short(value)}: a key ends with a colon and a space"
    return f"a {type(value).__name__}"


def _written(values: Any, item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys to where an error lies; pydantic adds the members of a union, which nobody has written."""
    keys: list[str] = []
    for part in item["loc"]:
        if _has(values, part):
            values = values[part]
            keys.append(str(part))
    if item["type"] == "missing":
        keys.append(str(item["loc"][-1]))
    return tuple(keys)


def _has(values: Any, part: Any) -> bool:
    if isinstance(values, Mapping):
        return part in values
    return isinstance(values, (list, tuple)) and isinstance(part, int) and part < len(values)


def _problem(kind: Any, keys: Sequence[str], item: Mapping[str, Any]) -> str:
    """Return what is wrong by one of pydantic's errors, with what to write where that can be told."""
    value, said, what = item["input"], item["msg"].removeprefix("Value error, "), item["type"]
    if what == "unexpected_keyword_argument":
        return _unknown(kind, keys)
    if what == "invalid_key" or item["loc"][-1:] == ("[key]",):
        return _bad_key(value, said)
    if value is None:
        return _NO_VALUE
    if what in ("dataclass_type", "dict_type"):
        inner = _keys_of(kind, keys)
        example = f", such as {{{inner[0]}: …}}" if inner else ""
        return f"needs keys of its own{example}{_shown(value)}"
    if what in ("tuple_type", "list_type") and isinstance(value, (str, int, float)):
        return f"needs a list: write [{value}]"
    if what == "string_type" and isinstance(value, (int, float)):
        return f'needs text: write "{value}"'
    return f"{said.removeprefix('Input ')}{_shown(value)}"


def _unknown(kind: Any, keys: Sequence[str]) -> str:
    """Return what to write in place of an unknown key: one that looks like it, the section that has it, or any."""
    *section, key = keys
    here = _keys_of(kind, section)
    near = get_close_matches(_OTHER_NAMES.get(key.lower(), key.lower()), here, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    there = [".".join((*path, key)) for path, names in _sections(kind) if key in names]
    if there:
        return f"unknown key; did you mean {' or '.join(there)}?"
    return f"unknown key; known are {', '.join(here)}" if here else "unknown key"


def _bad_key(value: Any, said: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return f"{said}{_shown(value)}"
    if isinstance(value, str):
        return f"a name is made of letters, digits, _ and -, and does not begin with - (found {value!r})"
    return f'a name is text: write "{value}" (and of numbers 0.5, not 0,5)'


def _sections(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield every section below a class, with the names of its keys."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield (*path, name), [item.name for item in fields(hint)]
        elif get_origin(hint) is dict and is_dataclass(get_args(hint)[1]):
            yield (*path, name, "NAME"), [item.name for item in fields(get_args(hint)[1])]


def _keys_of(kind: Any, section: Sequence[str]) -> list[str]:
    """Return the keys of a section, which is named by the path to it."""
    for part in section:
        hint = get_type_hints(kind).get(part) if is_dataclass(kind) else None
        # The name of a run leads from the mapping of runs to a run.
        kind = get_args(kind)[1] if hint is None and get_origin(kind) is dict else hint
    return [item.name for item in fields(kind)] if is_dataclass(kind) else []


def _shown(value: Any) -> str:
    """Return the value that was refused, unless it is a whole section."""
    return "" if is_dataclass(value) or isinstance(value, Mapping) else f" (value {_short(value)})"


def _short(value: Any) -> str:
    return f"{reprlib.repr(value):.60}"
