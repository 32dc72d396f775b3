"""Read channel names from the pages of a TIFF without OME-XML: the tag PageName, or the description."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tifffile import TiffFrame, TiffPage

_PAGE_NAME, _DESCRIPTION = 285, 270
# A description that names a channel is a few words, no XML, JSON, or `key=value` of ImageJ and others.
_LONGEST_NAME = 80
_NO_NAME = re.compile(r"[<>{}=|]")
# Bio-Formats puts the place in the stack in front of ImageJ's labels.
_PLACE_IN_STACK = re.compile(r"^(?:\s*[cztCZT]:\s*\d+(?:/\d+)?)+\s*-\s*")


def page_names(pages: Sequence[TiffPage | TiffFrame]) -> tuple[str, ...]:
    """Return the name of each page, all different and by the same tag; empty where the pages have no such names."""
    whole = [page.aspage() for page in pages]
    for tag in (_PAGE_NAME, _DESCRIPTION):
        names = tuple(one_line(str(page.tags.valueof(tag) or "").strip("\0")) for page in whole)
        if len(set(names)) == len(names) > 1 and all(_is_name(name) for name in names):
            return names
    return ()


def label_name(label: str) -> str:
    """Return the channel's name of a label of ImageJ: `c:1/4 - DAPI` is DAPI."""
    return _PLACE_IN_STACK.sub("", label)


def one_line(name: str) -> str:
    """Return the name with single spaces, as a table can hold it."""
    return " ".join(name.split())


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_NAME and not _NO_NAME.search(text)
