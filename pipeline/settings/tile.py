"""The section `tile` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.limits import LARGEST_PATCH_PX
from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class TileSettings:
    """Settings of the stage tile."""

    size_px: int = Field(default=256, ge=16, le=LARGEST_PATCH_PX, description="side of a patch in pixels")
    mpp: Annotated[float, Field(gt=0, le=50)] | Literal["native"] = Field(
        default="native", description="um per pixel of the patches; native takes the sparse slide's level 0"
    )
    min_tissue: float = Field(
        default=0.5, ge=0, le=1, description="smallest fraction of tissue in a patch that is kept"
    )
    drop: tuple[Literal["pen", "fold", "blur"], ...] = Field(
        default=("pen", "fold"),
        description="what is looked for and does not count as tissue; pen and fold are cautious: violet ink, thin ink "
        "on tissue and folds of pale tissue stay (annotate those in the sheet's column `tissue`); blur, what is out of "
        "focus by 2 um or more, reads the tissue once more at 1 um/px, which takes longer than copying it",
    )
    qupath_crop: bool = Field(
        default=True,
        description="whether GeoJSON, read and written, counts from the corner of the scanned part "
        "(openslide.bounds-x, -y of MRXS, SCN and others), as in QuPath; false: from the corner of the whole image, as "
        "in QuPath with --no-crop",
    )
    max_residual_um: float = Field(
        default=8.0,
        gt=0,
        description="pairs whose measured shift is larger are kept in the store but not used as pairs",
    )
    grid: Literal["auto", "lattice", "exact"] = Field(
        default="auto",
        description="lattice: the squares are whole JPEG tiles of the slide, an error where they cannot be; exact: "
        "decoded and, where need be, resampled, at any size and mpp; auto: lattice where it fits, otherwise exact",
    )
    codec: Literal["auto", "zstd", "jpeg"] = Field(
        default="auto",
        description="how sparse patches are stored; auto: the scanner's own JPEG bytes where a patch of the lattice is "
        "one tile, otherwise zstd; zstd: always decoded; jpeg: always decoded and encoded again, smaller than zstd "
        "but with a loss",
    )
    jpeg_quality: int = Field(default=90, ge=50, le=100, description="quality of codec jpeg")
    jpeg_subsampling: Literal["444", "420"] = Field(
        default="444", description="of codec jpeg; 444: full resolution of colours, 420: half of it, and smaller"
    )
    verify: bool = Field(
        default=False,
        description="whether JPEG tiles that are copied are also decoded, to find broken ones that do not look broken; "
        "takes many times as long as copying. Tiles that are decoded anyway are always checked",
    )
    max_corrupt: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="largest fraction of patches whose pixels cannot be decoded; they are left out, and more are an "
        "error",
    )
