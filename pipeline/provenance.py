"""Record where a result comes from, and move it to its final name.

Results name their inputs by hash, the settings, the code and the versions; nothing in them depends on the
clock, so equal inputs give equal bytes. They are written under a temporary name and renamed when whole.
"""

from __future__ import annotations

import ast
import ctypes
import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
from pipeline.errors import StatedError

SCHEMA_VERSION = 1
# AT_FDCWD and RENAME_EXCHANGE of Linux.
_HERE, _EXCHANGE = -100, 2
# A full disk, a used-up quota, a file beyond what the file system or a limit of the process allows.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What Snakemake leaves in a folder that a rule made.
_TIMESTAMP = ".snakemake_timestamp"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SOURCE_ROOT = Path(pipeline.__file__).parents[1]

# Doors and bookkeeping: what they decide reaches a stage as a parameter, so their code is no reason to rerun it.
_NOT_RESULTS = {
    "pipeline",
    "pipeline.errors",
    "pipeline.settings",
    "pipeline.provenance",
    "pipeline.progress",
    "pipeline.cli",
}


def file_digest(path: Path) -> str:
    """Return SHA-256 (hex) of a file, or of a folder's relative paths and contents in sorted order."""
    if path.is_dir():
        digest = hashlib.sha256()
        for item in sorted(path.rglob("*")):
            if item.is_file() and item.name != _TIMESTAMP:
                digest.update(f"{item.relative_to(path).as_posix()}\0{file_digest(item)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def code_digest(stage: str) -> str:
    """Hash of the code that a stage runs: its module and all of ours that it imports, comments and docstrings aside.

    A file that lies beside a module and is named in it, such as a template, counts as code of the module. Every Python
    gives the same hash.
    """
    digest = hashlib.sha256()
    pending, seen = [f"pipeline.commands.{stage}"], set(_NOT_RESULTS)
    while pending:
        name = pending.pop()
        path = _source_of(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        code = _code_of(path)
        digest.update(f"{name}\n{code.text}\n".encode())
        for beside in _named_beside(code, path):
            digest.update(f"{beside.name}\n{file_digest(beside)}\n".encode())
        pending += sorted((name for name in code.imports if name.startswith("pipeline")), reverse=True)
    return digest.hexdigest()[:16]


def record(stage: str, settings: object, inputs: Mapping[str, str], packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the provenance of one result, ready for JSON.

    Args:
        stage: name of the stage.
        settings: the settings dataclass, or a mapping, that it ran with.
        inputs: hash by name of everything read.
        packages: distributions whose version can change the result.
    """
    return {
        "schema": SCHEMA_VERSION,
        "stage": stage,
        "settings": asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings,
        "code": code_digest(stage),
        "inputs": dict(inputs),
        "versions": {name: metadata.version(name) for name in packages} | {"more-from-less": pipeline.__version__},
    }


@contextmanager
def finished(path: Path) -> Iterator[Path]:
    """Return a temporary path beside `path` to write a file or folder to.

    Takes the final name only if the block succeeds.

    An earlier result under the final name is replaced, a folder of other files never. What a process that was killed on
    this machine left of the same result is removed. Snakemake makes the parent; by hand we do.

    Raises:
        StatedError: if the final name is not a name or is that of a folder that holds no earlier result, or the disk
            has no room for the result.
    """
    if path.name in ("", ".."):
        raise StatedError(file=path, expected="a name for the result", found="none")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = _partial(path, "new")
    _remove(temporary)
    try:
        yield temporary
        _put(temporary, path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        # Few writers say which file they were at.
        raise StatedError(file=path, expected="room for the result", found=os.strerror(error.errno)) from None
    finally:
        _remove(temporary)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON under its final name in one step."""
    with finished(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _partial(path: Path, kind: str) -> Path:
    """Return a name beside `path` that no other process takes, on whatever machine it runs."""
    return path.with_name(f".{path.name}.{kind}.{socket.gethostname()}.{os.getpid()}.partial")


def _put(temporary: Path, path: Path) -> None:
    """Give a whole result its final name."""
    if not path.is_dir() or path.is_symlink():
        temporary.replace(path)
        return
    _refuse_foreign(temporary, path)
    # Removing a large folder takes time; a process killed meanwhile would leave half of it under a name that is
    # trusted. So the two change places, or where the file system cannot do that, the old one goes aside first.
    if _exchange(temporary, path):
        return
    aside = _partial(path, "old")
    path.rename(aside)
    try:
        temporary.replace(path)
    except OSError:
        aside.rename(path)
        raise
    _remove(aside)


def _refuse_foreign(new: Path, folder: Path) -> None:
    """Refuse to replace a folder that shares no name with the new one: two results of the same kind share some."""
    if not new.is_dir():
        raise StatedError(file=folder, expected="a name for a file", found="a folder")
    there = {item.name for item in folder.iterdir()} - {_TIMESTAMP}
    if there and there.isdisjoint(item.name for item in new.iterdir()):
        found = f"a folder of other files, such as {min(there)}"
        raise StatedError(file=folder, expected="a new name or an earlier result to replace", found=found)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, where system and file system can (renameat2 of Linux, not on NFS)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return done == 0


def _sweep(path: Path) -> None:
    """Remove what dead processes of this machine left of a result; of other machines' processes nothing is known."""
    begin, end = f".{path.name}.", f".{socket.gethostname()}.%.partial".split("%")
    for item in list(path.parent.iterdir()):
        parts = item.name.removeprefix(begin).split(".", 1)
        if not item.name.startswith(begin) or parts[0] not in ("new", "old") or not item.name.endswith(end[1]):
            continue
        process = item.name.removeprefix(f"{begin}{parts[0]}{end[0]}").removesuffix(end[1])
        if process.isdecimal() and not _is_alive(int(process)):
            _remove(item)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _source_of(module: str) -> Path | None:
    base = SOURCE_ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@dataclass(frozen=True)
class _Code:
    """A module: its syntax tree as text, the modules it may import, and the texts in it; docstrings left out."""

    text: str
    imports: frozenset[str]
    texts: frozenset[str]


# Stages share most modules, and a plan needs the hashes of all stages: each module is read, parsed and walked once.
@cache
def _code_of(path: Path) -> _Code:
    imports: set[str] = set()
    texts: set[str] = set()
    text = _as_text(ast.parse(path.read_text(encoding="utf-8")), imports, texts)
    return _Code(text, frozenset(imports), frozenset(texts))


def _named_beside(code: _Code, module: Path) -> list[Path]:
    """Return files in the folder of a module whose names stand in it as they are."""
    return sorted(item for item in module.parent.iterdir() if item.name in code.texts and item.is_file())


def _as_text(node: object, imports: set[str], texts: set[str]) -> str:
    """Return a syntax tree as text, without docstrings and what is empty; adds to the modules and texts met.

    Each Python knows more fields, which `ast.dump` would name.
    """
    if isinstance(node, ast.AST):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        elif isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        values = ((name, getattr(node, name, None)) for name in node._fields)
        there = ((name, value) for name, value in values if value is not None and value != [])
        fields = [f"{name}={_as_text(value, imports, texts)}" for name, value in there]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join([_as_text(item, imports, texts) for item in node])}]"
    return repr(node)
