"""The views of the published code of More From Less, with everything in it that its authors may not have meant.

Read from its repository (Apache-2.0, TensorFlow), and written anew. The pixels are 0 to 255 throughout, and every
branch is drawn on its own. What its steps really do:

1. Mirrors along x and y, each with probability 1/2.
2. A window of 0.75 to 1 of the patch, width and height drawn apart, stretched to the whole.
3. With probability 0.3, every value that is exactly 0 becomes noise of 0 to 256: next to nothing in H&E, the whole
   background of a mask or of fluorescence.
4. With probability 0.4, a turn of 0 to 180 degrees about the middle, nearest pixel, black beyond the edge.
5. "Solarize", with probability 0.3: values from a threshold of 0.01 to 0.6 on are inverted, and as values are 0 to 255
   that is the whole picture.
6. Colour: brightness by up to 0.4 of 255 steps, which nobody sees; contrast by 0.6 to 1.4 about each channel's mean; of
   RGB saturation by 0.6 to 1.4 and hue by up to a tenth of the circle. Then what lies outside 0 to 255 is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pipeline.settings.branches import Branch, branch_graph
from pipeline.training.components import WHOLE_PANEL, Components
from pipeline.training.dense_kinds import dense_kind as kind_of
from pipeline.training.draws import Draws
from pipeline.training.normalisation import Normalisation
from pipeline.training.views import Batch, ChannelChoice

# A shape to as many rows of numbers in [0, 1) as there are patches: (n, *shape).
Uniform = Callable[..., Tensor]

_SMALLEST_WINDOW = 0.75
_BACKGROUND, _TURNED, _INVERTED = 0.3, 0.4, 0.3
_THRESHOLDS = (0.01, 0.6)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.4, 0.4, 0.4, 0.1


class PublishedViewMaker:
    """Makes the views of a branch graph as the published code does; called like `ViewMaker`.

    Args:
        branches: a modality each, or what more is to be said of the branch.
        size_px: side of a view, which shows the whole patch.
        normalisation: of both modalities. The published code feeds its networks 0 to 255; an encoder here always
            carries its normalisation, so that whoever embeds need not know how it was trained.
        dense_kind: `fluorescence`, `brightfield` or `mask`.
        components: the dense encoders that see a part of the panel, and which.
    """

    def __init__(
        self,
        branches: Sequence[str | Branch],
        size_px: int,
        *,
        normalisation: Normalisation,
        dense_kind: str = "fluorescence",
        components: Components = WHOLE_PANEL,
    ) -> None:
        self._branches = branch_graph(branches)
        self._channels = ChannelChoice(components, normalisation.device)
        self._size_px = size_px
        self._normalisation = normalisation
        self._kind = kind_of(dense_kind)

    def __call__(self, batch: Batch, draws: Draws) -> list[Tensor]:
        """Return one (n, C, size_px, size_px) float32 view per branch."""
        views = []
        for branch in self._branches:
            if branch.modality == "sparse":
                rgb = batch.sparse.permute(0, 3, 1, 2).to(torch.float32)
                view = published_view(rgb, draws.uniform, self._size_px)
                views.append(self._normalisation.sparse(view.div_(255)))
                continue
            if batch.dense is None or batch.present is None:
                raise ValueError("a dense branch needs a batch with a dense side")
            dense, present = (self._channels.of(branch.encoder, values) for values in (batch.dense, batch.present))
            seen = published_view(self._kind.to_published_scale(dense), draws.uniform, self._size_px)
            view = self._kind.normalise_published(seen, self._normalisation, self._channels.indices(branch.encoder))
            views.append(view.mul_(present[:, :, None, None]))
        return views


def published_view(images: Tensor, uniform: Uniform, size_px: int) -> Tensor:
    """Return (n, C, size_px, size_px) views of images (n, C, P, P), both on the scale 0 to 255.

    Args:
        images: the patches; three channels are taken for RGB.
        uniform: draws the random numbers.
        size_px: side of the views.
    """
    view = stretched(images, uniform(6), size_px)
    view = noisy_background(view, uniform(1), uniform)
    view = turned(view, uniform(2))
    view = inverted(view, uniform(2))
    return recoloured(view, uniform(4))


def stretched(images: Tensor, draw: Tensor, size_px: int) -> Tensor:
    """Apply steps 1 and 2; `draw` (n, 6): mirrors, width and height, place."""
    sides = _SMALLEST_WINDOW + (1 - _SMALLEST_WINDOW) * draw[:, 2:4]
    centre = (2 * draw[:, 4:6] - 1) * (1 - sides)
    sign = torch.where(draw[:, :2] < 0.5, -1.0, 1.0)
    theta = torch.cat([torch.diag_embed(sides * sign), centre[:, :, None]], dim=2)
    grid = affine_grid(theta, [len(images), images.shape[1], size_px, size_px], align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def noisy_background(images: Tensor, draw: Tensor, uniform: Uniform) -> Tensor:
    """Apply step 3; `draw` (n, 1) says which images, `uniform` gives the noise of each value."""
    chosen = (draw < _BACKGROUND)[:, :, None, None]
    return torch.where(chosen & (images == 0), 256 * uniform(*images.shape[1:]), images)


def turned(images: Tensor, draw: Tensor) -> Tensor:
    """Apply step 4; `draw` (n, 2): whether, and the angle."""
    angle = torch.where(draw[:, 0] < _TURNED, math.pi * draw[:, 1], 0.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    zero = torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def inverted(images: Tensor, draw: Tensor) -> Tensor:
    """Apply step 5; `draw` (n, 2): whether, and the threshold."""
    low, high = _THRESHOLDS
    threshold = (low + (high - low) * draw[:, 1])[:, None, None, None]
    chosen = (draw[:, 0] < _INVERTED)[:, None, None, None]
    return torch.where(chosen & (images >= threshold), 255 - images, images)


def recoloured(images: Tensor, draw: Tensor) -> Tensor:
    """Apply step 6; `draw` (n, 4): brightness, contrast, saturation, hue."""
    brightness, contrast, saturation, hue = ((2 * draw - 1)[:, index, None, None, None] for index in range(4))
    images = images + _BRIGHTNESS * brightness
    mean = images.mean(dim=(2, 3), keepdim=True)
    images = (images - mean) * (1 + _CONTRAST * contrast) + mean
    if images.shape[1] == 3:
        images = _with_hue(images, 1 + _SATURATION * saturation, _HUE * hue)
    return images.clamp(0, 255)


def _with_hue(rgb: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Return RGB (n, 3, P, P) with multiplied saturation and a hue turned by parts of the circle, computed in HSV."""
    value, largest = rgb.max(dim=1, keepdim=True)
    chroma = value - rgb.amin(dim=1, keepdim=True)
    red, green, blue = (rgb[:, index : index + 1] for index in range(3))
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.stack([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4])
    angle = sector.gather(0, largest[None])[0] + 6 * hue
    share = torch.where(value > 0, chroma / torch.where(value > 0, value, 1.0), 0.0)
    share = (share * saturation).clamp(0, 1)
    offsets = torch.tensor([5.0, 3.0, 1.0], device=rgb.device)[:, None, None]
    place = torch.remainder(angle + offsets, 6)
    return value - value * share * torch.minimum(place, 4 - place).clamp(0, 1)
