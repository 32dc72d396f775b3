"""Normalise patient names, so that one patient has one name in any spelling of keyboards and file systems."""

from __future__ import annotations

import unicodedata

# Signs that print as nothing or as a blank, although Unicode counts them as letters or symbols.
_BLANK = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0"), " ")
_NOTHING = dict.fromkeys(map(ord, "\u00ad\u180e\u200b\u200e\u200f\u2060\ufeff"))


def patient_name(text: str) -> str:
    """Return the name in its one spelling: composed (NFC), any run of white space as one space, none at the ends.

    White space is all that Unicode counts as such (no-break, thin, ideographic …) and what looks like it; signs of no
    width are left out.
    """
    return unicodedata.normalize("NFC", " ".join(text.translate(_BLANK).translate(_NOTHING).split()))


def look_alike(name: str) -> str:
    """Return what two names share that a reader takes for one.

    Case, width, kinds of dashes and signs that print as nothing do not count.
    """
    flat = unicodedata.normalize("NFKC", patient_name(name)).casefold()
    kinds = ((sign, unicodedata.category(sign)) for sign in flat)
    # Cf joins letters or turns the direction of writing, Cc controls terminals.
    return "".join(
        "-" if kind == "Pd" or sign == "\u2212" else sign for sign, kind in kinds if kind not in ("Cf", "Cc")
    )
