"""What all sections share: a key that nobody knows is a mistake."""

from __future__ import annotations

from pydantic import ConfigDict

CLOSED = ConfigDict(extra="forbid")
