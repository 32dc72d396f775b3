"""Name and hash an encoder's folder for the workflow, without torch."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path

from pipeline.provenance import file_digest

CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
# Enough to tell the encoders of one cohort apart, short enough for a folder's name.
_HASH_LENGTH = 8


def results_name(folder: Path) -> str:
    """Return the name of an encoder's results: its run and the first digits of its hash, `distilled-1a2b3c4d`.

    Two encoders whose folders have the same name thus never share a place. A folder that names neither run nor hash has
    its own name, whatever way leads to it; embed says what is wrong with it.
    """
    own_name = folder.resolve().name
    try:
        known = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["more_from_less"]
        run, sha256 = known["run"], known["weights_sha256"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return own_name
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        return own_name
    is_name = isinstance(run, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", run)
    return f"{run if is_name else own_name}-{sha256[:_HASH_LENGTH]}"


@cache
def encoder_digest(folder: Path) -> str:
    """Return the hash of an encoder's description and weights: of their bytes, for a time or a size may stay the same.

    It is computed once per plan, about a second for each GB of weights.
    """
    digest = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        path = folder / name
        digest.update(f"{name}\0{file_digest(path) if path.is_file() else ''}\n".encode())
    return digest.hexdigest()
