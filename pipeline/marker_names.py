"""Give each marker one name across panels: spellings, usual aliases, and the panel of a cohort's slides.

Standard library only: the configuration, which the Snakefile reads, is checked with it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.errors import StatedError

_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa", "λ": "lambda"}

# By spelling, the first of each line standing for the others: names of one protein (HGNC symbol, CD number, chain that
# its antibodies bind), as panels of CODEX, CyCIF, Orion, Phenocycler and Vectra write them.
_KNOWN = (
    ("cd3", "cd3e", "cd3epsilon"),
    ("cd8", "cd8a", "cd8alpha"),
    ("cd20", "ms4a1"),
    ("cd31", "pecam1"),
    ("cd45", "ptprc"),
    ("asma", "alphasma", "sma", "acta2", "smoothmuscleactin", "alphasmoothmuscleactin"),
    ("ecadherin", "ecad", "cdh1"),
    ("her2", "erbb2"),
    ("ki67", "mki67"),
    ("panck", "pancytokeratin", "pancytokeratins", "pankeratin", "ckpan", "cytokeratinpan"),
    ("pd1", "pdcd1", "cd279"),
    ("pdl1", "cd274"),
    ("vimentin", "vim"),
)
_REPRESENTATIVE = {name: names[0] for names in _KNOWN for name in names}
# The nuclear stain of every cycle; that of the first is often written without its number.
_NUCLEAR = re.compile(r"(?:dapi|hoechst(?:33342|33258)?|dna)0*(\d*)")

UNUSED = -1
# By slide, names of channels that count as absent from it.
LeftOut = Mapping[str, Sequence[str]]
NOTHING_LEFT_OUT: LeftOut = MappingProxyType({})


def spelling(name: str) -> str:
    """Return the name in lower case, letters and digits only, Greek letters written out.

    `Pan-CK` and `panck` are one.
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(_GREEK.get(letter, letter) for letter in plain if letter.isalnum())


def is_nuclear(name: str) -> bool:
    """Return whether a channel is, by its name, the nuclear stain of some cycle."""
    return bool(_NUCLEAR.fullmatch(spelling(name)))


@dataclass(frozen=True)
class Aliases:
    """Which names mean the same marker.

    Attributes:
        own: for a marker, further names that mean it.
        known: whether the usual names of a marker are one as well.
    """

    own: Mapping[str, Sequence[str]]
    known: bool

    def key(self, name: str) -> str:
        """Return what all names of a marker have in common."""
        spelt = spelling(name)
        for marker, names in self.own.items():
            if spelt in map(spelling, (marker, *names)):
                return f"={spelling(marker)}"
        if not self.known:
            return spelt
        nuclear = _NUCLEAR.fullmatch(spelt)
        if nuclear:
            return f"dna{nuclear[1] if nuclear[1] not in ('', '1') else ''}"
        return _REPRESENTATIVE.get(spelt, spelt)

    def title(self, name: str) -> str:
        """Return how a marker of this name is called: as the aliases that were given do, else as it is."""
        spelt = spelling(name)
        named = [marker for marker, names in self.own.items() if spelt in map(spelling, (marker, *names))]
        return named[0] if named else name


@dataclass(frozen=True)
class Panel:
    """The markers of a cohort whose slides have different ones.

    Attributes:
        markers: each once, as the first slide that has it writes it.
        indices: for every slide, the index into `markers` of each of its channels; `UNUSED` for those left out.
    """

    markers: tuple[str, ...]
    indices: Mapping[str, tuple[int, ...]]

    def absent(self) -> dict[str, tuple[str, ...]]:
        """Return for each marker that some slide lacks those slides."""
        lacking = {
            marker: tuple(slide for slide, indices in self.indices.items() if index not in indices)
            for index, marker in enumerate(self.markers)
        }
        return {marker: slides for marker, slides in lacking.items() if slides}


def panel_of(
    channels: Mapping[str, Sequence[str]],
    aliases: Aliases,
    chosen: Sequence[str] = (),
    left_out: LeftOut = NOTHING_LEFT_OUT,
) -> Panel:
    """Return the panel that slides make up.

    Args:
        channels: names of each slide's dense channels, slides in sheet order.
        aliases: which names mean the same.
        chosen: the markers to take, in this order; empty takes all, in order of appearance.
        left_out: channels that count as absent from their slide; a marker that is left out of every slide is not
            taken, chosen or not.

    Raises:
        StatedError: if two channels of a slide are the same marker, a chosen marker occurs in no slide or is chosen
            twice.
    """
    keys = {slide: _keys(slide, names, aliases) for slide, names in channels.items()}
    titles: dict[str, str] = {}
    for slide, names in channels.items():
        for key, name in zip(keys[slide], names, strict=True):
            titles.setdefault(key, aliases.title(name))
    nowhere = left_out_everywhere(channels, aliases, left_out)
    taken = [key for key in ([aliases.key(name) for name in chosen] or titles) if key not in nowhere]
    unknown = [name for name in chosen if aliases.key(name) not in titles]
    if unknown or len(set(taken)) < len(taken):
        raise StatedError(
            expected=f"in the markers of a run each once, of {', '.join(titles.values()) or 'slides that have none'}",
            found=f"{', '.join(unknown)} in no slide" if unknown else f"one twice in {', '.join(chosen)}",
        )
    index_of = {key: index for index, key in enumerate(taken)}
    indices = {
        slide: tuple(
            UNUSED if name in left_out.get(slide, ()) else index_of.get(key, UNUSED)
            for key, name in zip(found, channels[slide], strict=True)
        )
        for slide, found in keys.items()
    }
    return Panel(tuple(titles[key] for key in taken), indices)


def left_out_everywhere(channels: Mapping[str, Sequence[str]], aliases: Aliases, left_out: LeftOut) -> frozenset[str]:
    """Return the keys of markers of which no slide keeps a channel."""
    kept = {
        aliases.key(name) for slide, names in channels.items() for name in names if name not in left_out.get(slide, ())
    }
    return frozenset({aliases.key(name) for names in left_out.values() for name in names} - kept)


def check_overlap(panel: Panel, channels: Mapping[str, Sequence[str]]) -> None:
    """Refuse a panel whose slides cannot be learned from together.

    Raises:
        StatedError: if a slide has no marker of the panel, or the slides fall into groups that share none.
    """
    for slide, indices in panel.indices.items():
        if not any(index != UNUSED for index in indices):
            raise StatedError(
                slide=slide,
                expected=f"at least one of the markers {', '.join(panel.markers)}",
                found=f"{', '.join(channels[slide])} (panel.aliases can say what means the same)",
            )
    slides = list(panel.indices)
    joined, seen = set(slides[:1]), {index for slide in slides[:1] for index in panel.indices[slide]} - {UNUSED}
    while more := [slide for slide in slides if slide not in joined and seen & set(panel.indices[slide])]:
        joined.update(more)
        seen |= {index for slide in more for index in panel.indices[slide]} - {UNUSED}
    apart = [slide for slide in slides if slide not in joined]
    if apart:
        raise StatedError(
            slide=apart[0],
            expected=f"a marker in common with slide {slides[0]} ({', '.join(channels[slides[0]])})",
            found=f"{', '.join(channels[apart[0]])} (panel.aliases can say what means the same)",
        )


def _keys(slide: str, names: Sequence[str], aliases: Aliases) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for name in names:
        key = aliases.key(name)
        if key in first:
            raise StatedError(
                slide=slide,
                expected="channels that are different markers",
                found=f"{first[key]!r} and {name!r}, which mean the same (a markers CSV can rename one, "
                "panel.known_aliases: false compares spelling alone)",
            )
        first[key] = name
    return tuple(first)


def respelt(channels: Sequence[str], aliases: Aliases) -> Iterator[tuple[str, ...]]:
    """Return names that differ and mean one marker, a group at a time."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(channels):
        groups.setdefault(aliases.key(name), []).append(name)
    return (tuple(names) for names in groups.values() if len(names) > 1)
