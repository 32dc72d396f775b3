"""Valid inputs, and how they are made invalid: at random for text and bytes, by place for JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

WORDS = [
    b"", b"\0", b"\n", b"\r", b"\t", b'"', b"'", b"[", b"{", b"}", b"-", b"-1", b"0", b"1e999", b"NaN", b"null",
    b"99999999999999999999999", b"\xe2\x80\xa8", b"\xff", b"../../x", b"$(touch pwned)", b"9" * 5000, b"[" * 20000,
]  # fmt: skip

VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**40, 1e308, -0.5, "", "x", "../../x", "\0", [], [None], {}, {"a": 1}, [[[]]],
    [10**12], [10**12, 10**12], [1, 2, 3, 4, 5], "1e999",
]  # fmt: skip

SHEET = b"# a cohort\nslide\tpatient\tsparse\tdense\tsparse_mpp\na\tp1\ta.tif\ta.ome.tif\t0.5\nb\tp2\tb.tif\n"
CONFIGURATION = b"slides: s.tsv\ntile: {size_px: 64, mpp: 1.0}\nruns:\n  d: &d {epochs: 3, pairing: true}\n  e: *d\n"
MARKERS = b"channel,marker\nDAPI,nuclei\n1,CD3\n"
MATRIX = b"1,0,5\n0,1,7\n0,0,1\n"
SIDE = {"path": "a.tif", "reader": "openslide", "mpp": 0.5, "mpp_source": "file", "sha256": "0", "dtype": "uint8"}
SIDE |= {"kind": "brightfield"}
SIDE |= {"levels": [{"size_xy": [100, 90], "downsample": 1.0}], "channels": ["R", "G", "B"]}  # type: ignore[dict-item]
RECORD = {"schema": 1, "slide": "a", "patient": "p", "sparse": SIDE, "dense": SIDE, "transform": ""}


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """The bytes with a few pieces cut out, replaced or put in."""
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 1, 1, 4, 40, len(data)])))
        data = data[:start] + draw(st.one_of(st.sampled_from(WORDS), st.binary(max_size=8))) + data[stop:]
    return data


@st.composite
def changed(draw: st.DrawFn, valid: Any) -> bytes:
    """JSON with one or two of its values replaced or left out."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(value))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 4)):
            holder[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif isinstance(holder, dict):
            del holder[key]
    return json.dumps(value).replace('"1e999"', "1e999").encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
