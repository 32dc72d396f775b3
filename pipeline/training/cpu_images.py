"""Views on the CPU, by OpenCV: image by image, all steps while it is in the cache; torch goes through memory at each.

They are the views that torch makes, to some millionths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.float32]

_BILINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_LOG_255 = math.log(255)


def warped(images: Tensor, theta: Tensor, size_px: int) -> Tensor:
    """Return (n, C, size_px, size_px): what `grid_sample` makes of `affine_grid`, bilinear, mirrored at the edge.

    Args:
        images: (n, C, P, P) float32.
        theta: (n, 2, 3), places in the view to places in the image, both -1 to 1 from edge to edge.
        size_px: side of the views.
    """
    count, channels, side_px = images.shape[:3]
    matrices = _in_pixels(theta, side_px, size_px)
    planes = images.contiguous().numpy()
    out = np.empty((count, channels, size_px, size_px), np.float32)

    def each(i: int) -> None:
        for plane, target in zip(planes[i], out[i], strict=True):
            _warp(plane, matrices[i], target)

    _for_each(count, each)
    return torch.from_numpy(out)


def rgb_views(
    patches: Tensor,
    theta: Tensor,
    colours: tuple[Tensor, Tensor],
    blur: tuple[Tensor, Tensor],
    normalisation: tuple[Tensor, Tensor],
    *,
    size_px: int,
    radius_px: int,
) -> Tensor:
    """Return (n, 3, size_px, size_px) float32: resampled, of other colours, some of them blurred, normalised.

    Args:
        patches: (n, P, P, 3) uint8.
        theta: as of `warped`.
        colours: matrix (n, 3, 3) and offset (n, 3, 1): optical densities d become matrix @ d + offset.
        blur: standard deviation (n,) in pixels of a Gaussian, and whether (n,) an image is blurred by it.
        normalisation: mean and standard deviation, three values each, on the scale 0 to 1.
        size_px: side of the views.
        radius_px: the Gaussian is cut off there.
    """
    source, matrices = patches.numpy(), _in_pixels(theta, patches.shape[1], size_px)
    # On logarithms of grey values from 0 to 255: densities with the other sign and another zero.
    maps = torch.cat([colours[0], -colours[1] - _LOG_255 * colours[0].sum(dim=2, keepdim=True)], dim=2).numpy()
    sigma, chosen = (values.tolist() for values in blur)
    mean, std = (values.reshape(3).double().numpy() for values in normalisation)
    to_normal = np.column_stack([np.diag(1 / std), -mean / std])
    kernel_size = (2 * radius_px + 1,) * 2
    out = np.empty((len(source), size_px, size_px, 3), np.float32)

    def each(i: int) -> None:
        view = out[i]
        # One channel to OpenCV, whose bounds are quicker than numpy's and take one number there.
        values = view.reshape(size_px, -1)
        _warp(source[i].astype(np.float32), matrices[i], view)
        cv2.max(values, 1, dst=values)  # type: ignore[call-overload]
        cv2.log(view, view)
        cv2.transform(view, maps[i], dst=view)
        cv2.exp(view, view)
        cv2.threshold(values, 1, 0, cv2.THRESH_TRUNC, dst=values)
        if chosen[i]:
            cv2.GaussianBlur(view, kernel_size, sigma[i], dst=view, borderType=cv2.BORDER_REFLECT_101)
        cv2.transform(view, to_normal, dst=view)

    _for_each(len(source), each)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def _in_pixels(theta: Tensor, side_px: int, size_px: int) -> NDArray[np.float64]:
    """Return (n, 2, 3): pixel (x, y) of the view to pixel of the image, both counted from the centre of the first."""
    values = theta.numpy().astype(np.float64)
    linear, shift = values[:, :, :2], values[:, :, 2]
    first = linear @ np.full(2, 1 / size_px - 1)
    start = (first + shift + 1) * side_px / 2 - 0.5
    return np.concatenate([linear * (side_px / size_px), start[:, :, None]], axis=2)


def _warp(source: Pixels, matrix: NDArray[np.float64], out: Pixels) -> None:
    size = (out.shape[1], out.shape[0])
    cv2.warpAffine(source, matrix, size, dst=out, flags=_BILINEAR, borderMode=cv2.BORDER_REFLECT)


def _for_each(count: int, work: Callable[[int], None]) -> None:
    """Do the work for 0 to count - 1, by as many threads as torch uses."""
    threads = min(torch.get_num_threads(), max(1, count))
    if threads == 1:
        for number in range(count):
            work(number)
        return
    share = math.ceil(count / threads)

    def several(start: int) -> None:
        for number in range(start, min(start + share, count)):
            work(number)

    list(_pool(threads).map(several, range(0, count, share)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="views")
