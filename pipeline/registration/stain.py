"""Extract nuclear signal: hematoxylin of an H&E image, the nuclear channel of a multiplex image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.kinds.brightfield import RGB_FROM_HED

# A counterstain alone, as IHC shows it between its positive cells, has this sum over the three colours.
_PALE_DENSITY = 0.25

# Best first. DRAQ5 and SYTOX stain DNA as well; histone H3 marks the same nuclei, B7-H3 is a protein of membranes.
_NUCLEAR = (
    r"\bdapi\b",
    r"\bhoechst\b",
    r"\bdna\b",
    r"dapi",
    r"hoechst",
    r"draq",
    r"sytox",
    r"\bnuclei\b|\bnuclear\b|\bnucleus\b",
    r"histone|(?<!\bb7 )\bh3\b",
)


def hematoxylin(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return amount of hematoxylin by colour deconvolution (Ruifrok and Johnston 2001), in optical density.

    Args:
        rgb: uint8 (H, W, 3).

    Returns:
        float32 (H, W), 0 where there is none.
    """
    unmix = np.linalg.inv(RGB_FROM_HED / np.linalg.norm(RGB_FROM_HED, axis=1, keepdims=True))[:, 0]
    # One table per colour holds -log10 of the intensity times the weight: three look-ups instead of logarithms.
    density = -np.log10(np.maximum(np.arange(256), 1) / 255.0)
    tables = (density[:, None] * unmix).astype(np.float32)
    amount = tables[rgb[..., 0], 0] + tables[rgb[..., 1], 1] + tables[rgb[..., 2], 2]
    positive: NDArray[np.float32] = np.maximum(amount, 0)
    return positive


def absorbance(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the optical density of all stains together, summed over the three colours.

    Args:
        rgb: uint8 (H, W, 3).
    """
    density = (-np.log10(np.maximum(np.arange(256), 1) / 255.0)).astype(np.float32)
    total: NDArray[np.float32] = density[rgb].sum(axis=2)
    return total


def red_excess(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how much redder than blue the tissue is: erythrocytes, muscle and fibres, which are autofluorescent.

    Args:
        rgb: uint8 (H, W, 3).
    """
    difference = rgb[..., 0].astype(np.float32) - rgb[..., 2]
    excess: NDArray[np.float32] = np.maximum(difference, 0)
    return excess


def tissue_presence(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return where there is tissue, whatever its stain: total optical density, saturating at that of a pale stain.

    Args:
        rgb: uint8 (H, W, 3).

    Returns:
        float32 (H, W), 0 on bare glass, towards 1 in stained tissue.
    """
    present: NDArray[np.float32] = (1 - np.exp(-absorbance(rgb) / _PALE_DENSITY)).astype(np.float32)
    return present


def nuclear_channel(channels: Sequence[str], wanted: str | None) -> int:
    """Return index of the channel that shows nuclei.

    Args:
        channels: names in file order.
        wanted: the name that the user gave; None looks for the usual names, the first cycle of several.

    Raises:
        StatedError: if the wanted name is absent or stands twice, or no name is a known nuclear stain.
    """
    if wanted is not None:
        return channel_named(channels, wanted)
    found = _nuclear_by_name(channels)
    if found is not None:
        return found
    raise StatedError(
        expected="a nuclear channel (DAPI, Hoechst, DNA, …) or its name in register.nuclear_channel",
        found=_listed(channels),
    )


def shows_nuclei(channels: Sequence[str]) -> bool:
    """Return whether the name of any channel is one of the usual ones of nuclear stains."""
    return _nuclear_by_name(channels) is not None


def _nuclear_by_name(channels: Sequence[str]) -> int | None:
    for pattern in _NUCLEAR:
        for i, name in enumerate(channels):
            if re.search(pattern, _words(name)):
                return i
    return None


def channel_named(channels: Sequence[str], wanted: str) -> int:
    """Return the index of the channel of a name, in any case of letters if there is no exact one.

    Raises:
        StatedError: if it is absent or stands twice.
    """
    found = [i for i, name in enumerate(channels) if name == wanted] or [
        i for i, name in enumerate(channels) if name.lower() == wanted.lower()
    ]
    if len(found) != 1:
        raise StatedError(expected=f"one channel named {wanted!r}", found=_listed(channels))
    return found[0]


def _words(name: str) -> str:
    """Return lower case, with digits and signs as blanks, so that `DAPI-01` and `dna_2` hold the bare word."""
    return re.sub(r"[^a-z0-9]+|(?<=[a-z]{3})\d+", " ", name.lower())


def _listed(channels: Sequence[str]) -> Any:
    return f"channels {', '.join(channels) or 'none'}"
