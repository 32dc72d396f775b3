"""Define the doctor's findings, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Weight = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        weight: `problem` where a run will fail, `warning` where it may disappoint, otherwise `ok`.
        subject: what was looked at.
        text: what was found.
    """

    weight: Weight
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.weight:<8} {self.subject}: {' '.join(self.text.split())}"


def ok(subject: str, text: str) -> Finding:
    """Return a finding that lets a run go on."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str) -> Finding:
    """Return a finding that somebody should know of before a long run."""
    return Finding("warning", subject, text)


def problem(subject: str, text: str) -> Finding:
    """Return a finding that makes a run fail."""
    return Finding("problem", subject, text)
