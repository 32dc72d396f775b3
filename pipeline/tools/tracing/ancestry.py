"""Follow the ancestry of a result through its provenance, from hash to file, back to the slides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import StatedError
from pipeline.provenance import SOURCE_ROOT, code_digest
from pipeline.tools.tracing.inputs import Input, inputs_of
from pipeline.tools.tracing.reading import read_provenance, spokesman

_SHORT = 12


@dataclass
class Ancestry:
    """The lines of a trace, and how many inputs no longer are what they were."""

    lines: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    # Slides are named by several results, and reading one through takes minutes.
    digests: dict[tuple[str, Path], str] = field(default_factory=dict)


def trace(result: Path) -> Ancestry:
    """Return the ancestry of a result, one line per fact, each generation indented below the one it led to.

    A repeated ancestor is listed once.

    Raises:
        StatedError: if `result` carries no provenance; ancestors without one are only marked.
    """
    found = Ancestry()
    speaker = spokesman(result)
    provenance = read_provenance(speaker)
    found.lines.append(f"{result}" + (f" (by {speaker.name})" if speaker != result else ""))
    _follow(speaker, provenance, found, 1, {_key(speaker)})
    return found


def _follow(result: Path, provenance: Mapping[str, Any], found: Ancestry, depth: int, shown: set[str]) -> None:
    indent = "  " * depth
    found.lines += [f"{indent}{line}" for line in _making(provenance)]
    settings = provenance.get("settings")
    made_with = settings if isinstance(settings, dict) else {}
    for item in inputs_of(str(provenance["stage"]), result, _hashes(provenance), made_with):
        state = _state(item, found.digests)
        if state not in ("unchanged", "not looked for"):
            found.changed.append(item.name)
        place = f" {_near(item.path)}" if item.path is not None else ""
        found.lines.append(f"{indent}<- {item.name} {item.wanted[:_SHORT]}{place}: {state}")
        if item.leaf or item.path is None or not item.path.exists():
            continue
        _follow_input(item.path, found, depth + 2, shown)


def _follow_input(path: Path, found: Ancestry, depth: int, shown: set[str]) -> None:
    speaker = spokesman(path)
    if _key(speaker) in shown:
        found.lines.append(f"{'  ' * depth}(told above)")
        return
    shown.add(_key(speaker))
    try:
        provenance = read_provenance(speaker)
    except StatedError as error:
        found.lines.append(f"{'  ' * depth}no provenance: {error.found}")
        return
    _follow(speaker, provenance, found, depth, shown)


def _key(path: Path) -> str:
    return str(path.absolute())


def _hashes(provenance: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(wanted) for name, wanted in provenance["inputs"].items()}


def _near(path: Path) -> Path:
    """Return the path as seen from the working directory, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _state(item: Input, digests: dict[tuple[str, Path], str]) -> str:
    if item.path is None:
        return "not looked for"
    if not item.path.exists():
        return "MISSING"
    try:
        digest = digests.setdefault((item.digest.__qualname__, item.path.absolute()), "")
        if not digest:
            digest = digests[item.digest.__qualname__, item.path.absolute()] = item.digest(item.path)
    except OSError as error:
        return f"MISSING ({error.strerror})"
    except StatedError as error:
        return f"CHANGED (broken: {error.found})"
    return "unchanged" if digest == item.wanted else f"CHANGED, now {digest[:_SHORT]}"


def _making(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Return stage, code, versions and settings."""
    stage, code = str(provenance["stage"]), str(provenance.get("code", ""))
    now = code_digest(stage) if _is_stage(stage) else code
    changed = "" if now == code else f" (this checkout's is {now})"
    yield f"stage {stage}, code {code}{changed}"
    versions = provenance.get("versions")
    if isinstance(versions, dict):
        yield f"versions {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}"
    yield f"settings {json.dumps(provenance.get('settings'), sort_keys=True, ensure_ascii=False)}"


def _is_stage(stage: str) -> bool:
    return stage.isidentifier() and (SOURCE_ROOT / "pipeline" / "stages" / f"{stage}.py").is_file()
