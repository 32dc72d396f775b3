"""Read slide and patient from the name of a file, without the words for its stain."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.patients import patient_name

# Words that tell how a section was stained or imaged, never which one it is.
# fmt: off
_STAIN_WORDS = {
    "he", "hne", "hematoxylin", "haematoxylin", "eosin", "brightfield", "bf", "sparse", "dense", "mif",
    "mxif", "if", "multiplex", "multiplexed", "mplex", "codex", "cycif", "phenocycler", "immunofluorescence",
    "fluorescence", "fluor", "fl", "ihc", "mihc", "dab", "dapi", "comet", "vectra", "polaris", "unmixed",
    "component", "imc", "mibi", "stain", "stained", "registered", "ome",
}
# fmt: on
_H_AND_E = re.compile(r"(?<![A-Za-z0-9])H\s*[&+_.-]\s*E(?![A-Za-z0-9])", re.IGNORECASE)
_ENDING = re.compile(r"(\.ome)?\.[A-Za-z0-9]+$", re.IGNORECASE)


@dataclass(frozen=True)
class Patients:
    """Find the patient of a slide by its path.

    Attributes:
        pattern: its first group, or all of it, names the patient in a slide's path; None names none.
    """

    pattern: re.Pattern[str] | None = None

    def of(self, path: Path, place: Path) -> str | None:
        """Return the patient of a file by its path below a place; None where the pattern finds none."""
        relative = path.relative_to(place) if path.is_relative_to(place) else path
        found = self.pattern.search(relative.as_posix()) if self.pattern else None
        if found is None:
            return None
        return patient_name(found[1] if found.re.groups and found[1] else found[0]) or None


def words_of(path: Path) -> tuple[str, ...]:
    """Return the words of a file's name that are not of its stain, as written; its folder's where none is left."""
    stem = _ENDING.sub("", path.name)
    return _words(stem) or _words(path.parent.name) or tuple(re.findall(r"[A-Za-z0-9]+", stem)) or ("slide",)


def key_of(path: Path) -> str:
    """Return what two files of one section have in common: the words of their names in lower case."""
    return "-".join(words_of(path)).lower()


def unique_names(paths: Iterable[Path]) -> list[str]:
    """Return a name for the slide of each path: by its own name, its folder's too where that repeats, else numbered."""
    paths = list(paths)
    names = ["-".join(words_of(path)) for path in paths]
    counts = Counter(name.lower() for name in names)
    taken: set[str] = set()
    unique = []
    for path, own in zip(paths, names, strict=True):
        name = "-".join((*_words(path.parent.name), own)) if counts[own.lower()] > 1 else own
        number, first = 1, name
        while name.lower() in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name.lower())
        unique.append(name)
    return unique


def _words(text: str) -> tuple[str, ...]:
    tokens = re.findall(r"[A-Za-z0-9]+", _H_AND_E.sub(" ", text))
    return tuple(token for token in tokens if token.lower() not in _STAIN_WORDS)
