"""What all sections share: a key that nobody knows is a mistake, and so is a number that is none or has no end."""

from __future__ import annotations

from pydantic import ConfigDict

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
