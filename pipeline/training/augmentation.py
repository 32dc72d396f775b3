"""Draw random views of patches, batched, on the device of the patches.

Each view costs one affine resampling; the H&E colour changes are one matrix per patch in optical density, where stains
add up (Beer and Lambert) and a change of stain strength is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from pipeline.training import cpu_images
from pipeline.training.draws import Draws

# Optical density of haematoxylin, eosin and the rest in R, G, B (Ruifrok and Johnston, 2001), one stain per row.
_STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))

_LARGEST_TILT = math.radians(10)
_STAIN_JITTER = 0.25
_CONTRAST_JITTER = 0.15
_SATURATION_JITTER = 0.3
_BRIGHTNESS_JITTER = 0.08
_GAIN_JITTER = 0.3
_OFFSET_JITTER = 0.3
_BLUR_SIGMA_PX = (0.3, 1.5)
_BLUR_RADIUS_PX = 4


@dataclass(frozen=True)
class Augmentation:
    """How strongly views differ from their patch.

    Attributes:
        size_px: side of a view.
        crop: smallest side of a view's window, as a fraction of `size_px` pixels of the patch.
        colour: strength of colour changes of a sparse view; 0 switches them off.
        blur: probability that a sparse view is blurred.
        channel_dropout: probability that a marker of a dense view is masked.
        dense_colour: strength of colour and intensity changes of a dense view; 0 switches them off.
    """

    size_px: int
    crop: float
    colour: float
    blur: float
    channel_dropout: float = 0.0
    dense_colour: float = 0.0


def by_opencv(images: Tensor) -> bool:
    """Return whether images are changed by OpenCV rather than by torch: on the CPU."""
    return images.device.type == "cpu"


def draw_windows(patch_px: int, augmentation: Augmentation, draws: Draws) -> Tensor:
    """Return (n, 3): half side, centre x and centre y of each view's window, in the units of `grid_sample` (-1 to 1).

    The window is magnified by up to 1 / crop and, where the patch is larger than the view, reduced as much.
    """
    base = augmentation.size_px / patch_px
    widest = min(1 / base, 1 / augmentation.crop)
    draw = draws.uniform(3)
    half = base * (augmentation.crop + (widest - augmentation.crop) * draw[:, 0])
    centre = (2 * draw[:, 1:] - 1) * (1 - half)[:, None]
    return torch.cat([half[:, None], centre], dim=1)


def draw_orientations(draws: Draws) -> Tensor:
    """Return (n, 2, 2): a quarter turn, a tilt of at most 10 degrees and perhaps a mirror."""
    draw = draws.uniform(3)
    angle = torch.floor(draw[:, 0] * 4) * (math.pi / 2) + (2 * draw[:, 1] - 1) * _LARGEST_TILT
    mirror = torch.where(draw[:, 2] < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([cosine * mirror, -sine], 1), torch.stack([sine * mirror, cosine], 1)], 1)


def resample(images: Tensor, windows: Tensor, orientations: Tensor, size_px: int, mode: str = "bilinear") -> Tensor:
    """Return (n, C, size_px, size_px): each image seen through its window and orientation, mirrored at the edge.

    `mode` is `bilinear` or `nearest`.
    """
    theta = theta_of(windows, orientations)
    if by_opencv(images) and mode == "bilinear":
        return cpu_images.warped(images, theta, size_px)
    grid = affine_grid(theta, [len(images), images.shape[1], size_px, size_px], align_corners=False)
    return grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)


def theta_of(windows: Tensor, orientations: Tensor) -> Tensor:
    """Return (n, 2, 3): places in the view to places in the image, as `affine_grid` takes them."""
    return torch.cat([orientations * windows[:, :1, None], windows[:, 1:, None]], dim=2)


def sparse_views_by_opencv(
    patches: Tensor,
    windows: Tensor,
    orientations: Tensor,
    augmentation: Augmentation,
    normalisation: tuple[Tensor, Tensor],
    draws: Draws,
) -> Tensor:
    """Return (n, 3, size_px, size_px).

    Uint8 patches (n, P, P, 3) after `resample`, `jitter_stain`, `blur_some`, normalised.

    The same numbers are drawn, and the views are the same to some millionths.
    """
    colours = draw_colour_matrix(augmentation.colour, draws)
    blur = draw_blur(augmentation.blur, draws)
    return cpu_images.rgb_views(
        patches,
        theta_of(windows, orientations),
        colours,
        blur,
        normalisation,
        size_px=augmentation.size_px,
        radius_px=_BLUR_RADIUS_PX,
    )


def jitter_stain(rgb: Tensor, strength: float, draws: Draws) -> Tensor:
    """Return H&E patches (n, 3, P, P), 0 to 1, with changed stain strengths, contrast, saturation and brightness."""
    matrix, offset = draw_colour_matrix(strength, draws)
    density = rgb.clamp(min=1 / 255).log().neg_()
    changed = torch.baddbmm(offset, matrix, density.flatten(2))
    return changed.neg_().exp_().clamp_(max=1).view_as(rgb)


def draw_colour_matrix(strength: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return (n, 3, 3) and (n, 3, 1): the map of optical densities, out = matrix @ in + offset."""
    device = draws.device
    draw = 2 * draws.uniform(6) - 1
    stains = torch.tensor(_STAINS, device=device)
    stains = stains / stains.norm(dim=1, keepdim=True)
    amount = torch.diag_embed(1 + strength * _STAIN_JITTER * draw[:, :3])
    restain = stains.T @ amount @ torch.linalg.inv(stains).T
    saturation = (1 + strength * _SATURATION_JITTER * draw[:, 3]).view(-1, 1, 1)
    grey = torch.full((3, 3), 1 / 3, device=device)
    saturate = saturation * torch.eye(3, device=device) + (1 - saturation) * grey
    contrast = (1 + strength * _CONTRAST_JITTER * draw[:, 4]).view(-1, 1, 1)
    offset = (strength * _BRIGHTNESS_JITTER * draw[:, 5]).view(-1, 1, 1).expand(-1, 3, 1)
    return contrast * (saturate @ restain), offset


def draw_blur(probability: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return (n,) standard deviations of 0.3 to 1.5 px, and (n,) bool, whether an image is blurred."""
    if probability <= 0:
        return torch.zeros(draws.count), torch.zeros(draws.count, dtype=torch.bool)
    draw = draws.uniform(2)
    low, high = _BLUR_SIGMA_PX
    return low + (high - low) * draw[:, 1], draw[:, 0] < probability


def blur_some(images: Tensor, probability: float, draws: Draws) -> Tensor:
    """Return images (n, C, P, P), each blurred with the given probability by a Gaussian of 0.3 to 1.5 px."""
    if probability <= 0:
        return images
    drawn, chosen = draw_blur(probability, draws)
    sigma = torch.where(chosen, drawn, 1e-3)
    distance = torch.arange(-_BLUR_RADIUS_PX, _BLUR_RADIUS_PX + 1, device=images.device)
    kernel = torch.softmax(-(distance**2) / (2 * sigma[:, None] ** 2), dim=1)
    count, channels, height, width = images.shape
    planes = pad(images, (_BLUR_RADIUS_PX,) * 4, mode="reflect").reshape(
        1, count * channels, height + 2 * _BLUR_RADIUS_PX, -1
    )
    kernels = kernel.repeat_interleave(channels, dim=0)[:, None, None, :]
    planes = conv2d(planes, kernels, groups=count * channels)
    planes = conv2d(planes, kernels.transpose(2, 3), groups=count * channels)
    return planes.view(count, channels, height, width)


def drop_channels(images: Tensor, present: Tensor, dropout: float, draws: Draws) -> Tensor:
    """Return images (n, C, P, P) whose absent (`present` (n, C) false) and dropped channels, never all, are 0."""
    return torch.where(_kept(present, draws.uniform(present.shape[1]), dropout), images, 0.0)


def jitter_intensity(normalised: Tensor, present: Tensor, strength: float, dropout: float, draws: Draws) -> Tensor:
    """Return dense patches (n, M, P, P) with changed gain and offset per marker and some markers dropped.

    Absent markers (`present` (n, M) false) and dropped ones, each with probability `dropout` but never all of a patch,
    are 0, the mean of a normalised marker.
    """
    markers = present.shape[1]
    gain = 1 + strength * _GAIN_JITTER * (2 * draws.uniform(markers) - 1)
    offset = strength * _OFFSET_JITTER * (2 * draws.uniform(markers) - 1)
    changed = normalised * gain[:, :, None, None] + offset[:, :, None, None]
    return torch.where(_kept(present, draws.uniform(markers), dropout), changed, 0.0)


def _kept(present: Tensor, draw: Tensor, dropout: float) -> Tensor:
    kept = present & (draw >= dropout)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)[:, :, None, None]
