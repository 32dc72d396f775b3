"""Seeds that depend on what they are for, so that no draw shifts another and nothing needs to be remembered."""

from __future__ import annotations

import hashlib


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2**63) that is fixed by `parts`, for example (run seed, "order", epoch)."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
