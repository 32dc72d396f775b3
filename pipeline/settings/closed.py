"""Share the rule of all sections: unknown keys, NaN and infinity are refused."""

from __future__ import annotations

from pydantic import ConfigDict

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
