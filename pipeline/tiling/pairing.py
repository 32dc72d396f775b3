"""Pair the two sides of a slide, and measure how far each pair of patches can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.json_file import read_json
from pipeline.registration.transform import Transform
from pipeline.registration.transform_file import read_transform
from pipeline.slides.kinds import kind_named
from pipeline.slides.record import SlideRecord
from pipeline.tiling.agreement import Agreement

# A patch with too few nuclei rests on its neighbours, or, where nuclei measure nothing, on the slide's transform alone.
UNMEASURED_QUALITY = 0.5
VERDICTS = ("pass", "warn", "fail")
# A pair needs the dense side nearly whole: a blank strip would teach the network the slide's edge.
SMALLEST_INSIDE = 0.99
# From this share of a patch on, a second layer of tissue may hide its partner. It does not where the shift is measured
# as surely as in the typical patch elsewhere.
LARGEST_LAYERED = 0.5


@dataclass(frozen=True)
class Pairing:
    """What pairs the two sides of a slide.

    Attributes:
        transform: from the sparse to the dense frame.
        verdict: `pass`, `warn` or `fail`; patches of a failed pair are not paired.
        nuclear_channel: index of the dense channel that shows nuclei; None where there is none: brightfield shows
            them by its hematoxylin, a mask not at all, nor a channel that was registered by its structures.
        shares_nuclei: whether both sides show the same nuclei; neighbouring sections do not.
    """

    transform: Transform
    verdict: str
    nuclear_channel: int | None
    shares_nuclei: bool = True


def read_pairing(record: SlideRecord, transform: Path, qc: Path) -> Pairing:
    """Return the pairing that the stage register found.

    Raises:
        StatedError: if its files are absent, or speak of another slide, of a channel that the dense slide lacks or of
            no verdict that there is.
    """
    expected = "the qc.json of this slide's registration"
    try:
        known = read_json(qc)
        verdict, channel = known["verdict"], known["channel"]
        by_nuclei = known.get("judged_by", "nuclei") == "nuclei"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StatedError(slide=record.slide, file=qc, expected=expected, found=repr(error)) from None
    # Of another slide's pair every patch would look like one, for its channels often have the same names.
    about = known.get("slide", record.slide)
    if about != record.slide or verdict not in VERDICTS:
        found = f"verdict {verdict!r} of slide {about!r}"
        raise StatedError(slide=record.slide, file=qc, expected=expected, found=found)
    shares_nuclei = known.get("mode") != "serial"
    index = None
    if record.dense and kind_named(record.dense.kind).nuclei == "channel":
        channels = record.dense.channels
        if channel not in channels:
            raise StatedError(slide=record.slide, file=qc, expected=expected, found=f"nuclear channel {channel}")
        index = channels.index(channel) if by_nuclei else None
    return Pairing(read_transform(transform), verdict, index, shares_nuclei)


def pair_quality(
    known: Agreement,
    confidence: NDArray[np.float32],
    inside: NDArray[np.float32],
    finite: NDArray[np.bool_],
    layered: NDArray[Any],
    *,
    max_residual_um: float,
) -> NDArray[np.float32]:
    """Return (N,) float32 in [0, 1]: weight of each pair, 0 where it must not be used.

    Args:
        known: what the patches and their neighbours show of the shift between the sides.
        confidence: of the patch's own measurement, in [0, 1].
        inside: fraction of the patch of which the dense slide holds imaged pixels.
        finite: whether all pixels of the dense side are numbers; training takes no others.
        layered: fraction of the patch that lies on dense places which another part of the tissue claims as well.
        max_residual_um: the largest shift allowed.
    """
    quality = np.where(known.clear, confidence, UNMEASURED_QUALITY)
    used = known.borne & ~(known.residual_um > max_residual_um) & finite & (inside >= SMALLEST_INSIDE)
    single = layered < LARGEST_LAYERED
    elsewhere = confidence[known.clear & single]
    if len(elsewhere):
        single |= known.clear & (confidence >= np.median(elsewhere))
    used &= single
    return np.where(used, quality, 0.0).astype(np.float32)
