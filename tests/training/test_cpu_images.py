"""What OpenCV makes of images on the CPU is what torch makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from pipeline.training import augmentation
from pipeline.training import views as views_module
from pipeline.training.augmentation import Augmentation, draw_orientations, draw_windows
from pipeline.training.cpu_images import rgb_views, warped
from pipeline.training.draws import Draws
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics, Normalisation
from pipeline.training.views import Batch, ViewMaker


def _images(channels: int = 3, count: int = 5) -> Tensor:
    return torch.rand(count, channels, 40, 40, generator=torch.Generator().manual_seed(channels))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
@pytest.mark.parametrize("size_px", [40, 24])
def test_windows_are_seen_as_grid_sample_sees_them(channels: int, size_px: int, threads: int) -> None:
    draws = Draws(torch.Generator().manual_seed(1), 5)
    windows = draw_windows(40, Augmentation(size_px, 0.7, 1.0, 0.0), draws)
    theta = torch.cat([draw_orientations(draws) * windows[:, :1, None], windows[:, 1:, None]], dim=2)
    images = _images(channels)
    grid = affine_grid(theta, [5, channels, size_px, size_px], align_corners=False)
    expected = grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    torch.testing.assert_close(warped(images, theta, size_px), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("blur", [0.0, 0.6])
def test_views_are_those_of_torch(blur: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = torch.randint(0, 256, (9, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    sparse[0, :5] = 0
    colour = ColourStatistics((0.7, 0.5, 0.6), (0.2, 0.25, 0.15))
    dense = torch.rand(9, 2, 40, 40, generator=torch.Generator().manual_seed(4)) * 500
    markers = tuple(MarkerStatistics(name, 200.0, 0.7, 0.4, 9) for name in "ab")
    maker = ViewMaker(
        ("sparse", "sparse", "dense"),
        Augmentation(32, 0.7, 1.5, blur),
        shared_geometry=True,
        normalisation=Normalisation(colour, markers, torch.device("cpu")),
    )

    def views() -> list[Tensor]:
        batch = Batch(sparse, dense.clone(), torch.ones(9, 2, dtype=torch.bool))
        return maker(batch, Draws(torch.Generator().manual_seed(5), 9))

    found = views()
    monkeypatch.setattr(augmentation, "by_opencv", lambda images: False)
    monkeypatch.setattr(views_module, "by_opencv", lambda images: False)
    for view, expected in zip(found, views(), strict=True):
        # A random picture of pixels is as steep as a picture can be.
        torch.testing.assert_close(view, expected, atol=2e-3, rtol=0)


def test_chosen_images_are_blurred_and_no_others(threads: int) -> None:
    patches = torch.randint(0, 256, (3, 24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    whole = torch.eye(2, 3).expand(3, 2, 3)
    unchanged = torch.eye(3).expand(3, 3, 3), torch.zeros(3, 3, 1)
    plain = torch.zeros(3), torch.ones(3)
    blur = torch.tensor([0.9, 0.9, 1.4]), torch.tensor([True, False, True])
    found = rgb_views(patches, whole, unchanged, blur, plain, size_px=24, radius_px=4)
    images = patches.permute(0, 3, 1, 2).float().clamp(min=1) / 255
    torch.testing.assert_close(found[1], images[1], atol=1e-5, rtol=0)
    for number in (0, 2):
        kernel = torch.exp(-(torch.arange(-4, 5) ** 2) / (2 * blur[0][number] ** 2))
        kernel = kernel / kernel.sum()
        planes = pad(images[number : number + 1], (4,) * 4, mode="reflect").transpose(0, 1)
        expected = conv2d(conv2d(planes, kernel.view(1, 1, 1, 9)), kernel.view(1, 1, 9, 1))[:, 0]
        torch.testing.assert_close(found[number], expected, atol=1e-5, rtol=0)
