"""Normalise patient names, so that one patient has one name in any spelling of keyboards and file systems."""

from __future__ import annotations

import re
import unicodedata

# Signs that print as nothing or as a blank, although Unicode counts them as letters or symbols.
_BLANK = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0"), " ")
# Small letters of Cyrillic and Greek that are drawn as Latin ones.
_LATIN = str.maketrans("авекмнорстухіαβεικνορτυχ", "abekmhopctyxiabeiknoptyx")
_NOTHING = dict.fromkeys(map(ord, "\u00ad\u180e\u200b\u200e\u200f\u2060\ufeff"))


def patient_name(text: str) -> str:
    """Return the name in its one spelling: composed (NFC), any run of white space as one space, none at the ends.

    White space is all that Unicode counts as such (no-break, thin, ideographic …) and what looks like it; signs of no
    width are left out.
    """
    return unicodedata.normalize("NFC", " ".join(text.translate(_BLANK).translate(_NOTHING).split()))


def look_alike(name: str) -> str:
    """Return what two names share that a reader takes for one.

    Case, width, kinds of dashes and of separators, letters of another alphabet drawn alike, quotes, and signs that
    print as nothing do not count, nor do the zeros that a spreadsheet adds or takes away: 1, 01 and 1.0; P1, P-01.
    """
    flat = unicodedata.normalize("NFKC", patient_name(name)).casefold()
    kinds = ((sign, unicodedata.category(sign)) for sign in flat)
    # Cf joins letters or turns the direction of writing, Cc controls terminals.
    shown = "".join(
        "-" if kind == "Pd" or sign == "\u2212" else sign for sign, kind in kinds if kind not in ("Cf", "Cc")
    )
    shown = re.sub(r"^(\d+)[.,]0+$", r"\1", shown.translate(_LATIN).strip("'\"`\u2019 "))
    joined = re.sub(r"[\s_./-]+", "-", shown).strip("-")
    # A separator counts between two numbers or two words only.
    joined = re.sub(r"(?<=[^\W\d])-(?=\d)|(?<=\d)-(?=[^\W\d])", "", joined)
    return re.sub(r"(?<!\d)0+(?=\d)", "", joined)
