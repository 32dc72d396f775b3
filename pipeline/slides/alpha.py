"""Read the fourth sample of a colour image as alpha where the file says so, and lay the image on white."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage

from pipeline.slides.base import Pixels

# Values of the tag ExtraSamples (TIFF 6.0, section 18). 0, or no tag, says nothing of the sample: no alpha.
PREMULTIPLIED, STRAIGHT = 1, 2
_COLOURS = (2, 6)
LEFT_OUT = "fourth sample left out, for the tag ExtraSamples does not call it alpha"


def alpha_of(page: TiffPage) -> int | None:
    """Return `PREMULTIPLIED` or `STRAIGHT` for a colour image whose fourth and last sample is alpha, else None."""
    is_rgba = page.samplesperpixel == 4 and page.photometric in _COLOURS and np.dtype(page.dtype).kind == "u"
    extra = int(page.extrasamples[0]) if is_rgba and len(page.extrasamples) == 1 else 0
    return extra if extra in (PREMULTIPLIED, STRAIGHT) else None


def on_white(rgba: Pixels, alpha: int) -> Pixels:
    """Return the colours (height, width, n) of (height, width, n + 1), whose last sample is alpha, seen on white.

    Premultiplied colours lack the white only, C + (1 - a); straight ones give C a + (1 - a).
    """
    largest = np.iinfo(rgba.dtype).max
    wide: NDArray[np.uint64] = rgba.astype(np.uint16 if largest < 256 else np.uint64)
    colours, opacity = wide[..., :-1], wide[..., -1:]
    if alpha == PREMULTIPLIED:
        # A file may break its own rule, C <= a.
        seen = np.minimum(colours + (largest - opacity), largest)
    else:
        seen = (colours * opacity + largest * (largest - opacity) + largest // 2) // largest
    return np.asarray(seen.astype(rgba.dtype))
