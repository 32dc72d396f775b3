"""List the registration of each pair as a table: slide, verdict, first reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEAD = ("slide", "verdict", "first reason")
_NO_RESULT = "error"


def sentence(slide: str, verdict: str, reasons: Sequence[str], overlay: Path) -> str:
    """Return the line that register ends with: verdict, first reason, and the picture to look at."""
    reason = f", {reasons[0]}" if reasons else ""
    return f"register {slide}: {verdict}{reason}; look at {overlay}"


def table(registrations: Path, slides: Sequence[str], logs: Path | None = None) -> str:
    """Return the verdicts of these slides, a line each; of one without a verdict, the error in its log.

    Args:
        registrations: folder that holds SLIDE/qc.json.
        slides: their names, in order.
        logs: folder that holds SLIDE.log; None leaves errors untold.
    """
    rows = [_HEAD, *(_row(registrations, slide, logs) for slide in slides)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{slide:<{widths[0]}}  {verdict:<{widths[1]}}  {reason}".rstrip() for slide, verdict, reason in rows]
    return "\n".join(lines)


def _row(registrations: Path, slide: str, logs: Path | None) -> tuple[str, str, str]:
    try:
        found: Any = json.loads((registrations / slide / "qc.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return slide, _NO_RESULT, _last_error(logs / f"{slide}.log") if logs else ""
    known = found if isinstance(found, Mapping) else {}
    reasons = known.get("reasons")
    first = str(reasons[0]) if isinstance(reasons, list) and reasons else ""
    return slide, str(known.get("verdict", "")), " ".join(first.split())


def _last_error(log: Path) -> str:
    """Return the last stated error in a log; where there is none, the file that may say more."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "not registered: see the log of inspect"
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"see {log}"
