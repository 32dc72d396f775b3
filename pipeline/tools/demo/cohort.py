"""List the synthetic slides of the demo."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import StatedError

NUCLEAR_MARKER = "Hoechst"
PANEL = (NUCLEAR_MARKER, "CD3", "CD20", "CD68", "PanCK", "aSMA", "Ki67", "FOXP3")

_LEVEL_MULTIPLE_PX = 32


@dataclass(frozen=True)
class DensePlan:
    """The multiplex partner of a slide, and where it lies.

    Attributes:
        panel: channel names in file order.
        mpp: um per level-0 pixel.
        rotation_deg: turn from the sparse to the dense frame, clockwise as seen on the screen (y points down).
        mirrored: whether x is mirrored before the turn.
        scale: um in the dense frame per um in the sparse frame: sections shrink and swell.
        deformation_um: largest displacement of the smooth deformation.
    """

    panel: tuple[str, ...]
    mpp: float
    rotation_deg: float
    mirrored: bool
    scale: float
    deformation_um: float


@dataclass(frozen=True)
class SlidePlan:
    """One slide of the cohort.

    Attributes:
        name: unique; the only seed of everything random in the slide.
        patient: patient ID; slides of a patient share the tint of their stain.
        mpp: um per level-0 pixel of the H&E.
        field_um: width and height of the H&E image; its tissue fills most of it.
        hematoxylin: strength of the stain, 1 is ordinary.
        eosin: strength of the stain, 1 is ordinary.
        dense: the multiplex partner, or None.
    """

    name: str
    patient: str
    mpp: float
    field_um: tuple[float, float]
    hematoxylin: float
    eosin: float
    dense: DensePlan | None

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of level 0: multiples of 32, so that every level of the pyramid is an exact half."""
        width_um, height_um = self.field_um
        return whole_size_px(width_um, self.mpp), whole_size_px(height_um, self.mpp)


def whole_size_px(extent_um: float, mpp: float) -> int:
    """Return the smallest multiple of 32 pixels that covers an extent."""
    return _LEVEL_MULTIPLE_PX * math.ceil(round(extent_um / mpp, 6) / _LEVEL_MULTIPLE_PX)


_FIELD_UM = (2112.0, 1728.0)
_WITHOUT_FOXP3 = tuple(marker for marker in PANEL if marker != "FOXP3")

COHORT = (
    SlidePlan("demo-1", "p1", 0.5, _FIELD_UM, 1.00, 1.00, DensePlan(PANEL, 0.65, 17.0, False, 1.000, 15.0)),
    SlidePlan("demo-2", "p1", 0.5, _FIELD_UM, 0.92, 1.10, None),
    SlidePlan("demo-3", "p2", 0.5, _FIELD_UM, 1.15, 0.90, DensePlan(_WITHOUT_FOXP3, 0.65, -38.0, True, 1.004, 18.0)),
    SlidePlan("demo-4", "p3", 0.5, _FIELD_UM, 0.88, 1.05, DensePlan(PANEL, 0.60, 171.0, False, 0.995, 12.0)),
    SlidePlan("demo-5", "p3", 0.46, _FIELD_UM, 1.05, 0.95, None),
    SlidePlan("demo-6", "p4", 0.5, _FIELD_UM, 1.08, 1.12, DensePlan(PANEL, 0.70, 96.0, False, 1.002, 16.0)),
)


def plan_of(name: str) -> SlidePlan:
    """Return the plan of one slide.

    Raises:
        StatedError: if the cohort has no slide of that name.
    """
    for plan in COHORT:
        if plan.name == name:
            return plan
    names = ", ".join(plan.name for plan in COHORT)
    raise StatedError(file="--slide", expected=f"one of {names}", found=name)
