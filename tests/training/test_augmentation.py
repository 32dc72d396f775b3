"""Views: geometry and colour do what they say, from a seed, and keep the two sides of a pair together."""

from __future__ import annotations

import pytest
import torch

from pipeline.training import augmentation
from pipeline.training.augmentation import (
    Augmentation,
    blur_some,
    draw_colour_matrix,
    draw_orientations,
    draw_windows,
    jitter_intensity,
    jitter_stain,
    resample,
)
from pipeline.training.draws import Draws
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics, Normalisation
from pipeline.training.views import Batch, ViewMaker, window_numbers

STILL = Augmentation(size_px=32, crop=1.0, colour=0.0, blur=0.0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _draws(count: int, seed: int = 0) -> Draws:
    return Draws(_generator(seed), count)


def _images(count: int = 6, channels: int = 3, size_px: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, size_px, size_px, generator=_generator(7))


def _identity(count: int) -> torch.Tensor:
    return torch.eye(2).expand(count, 2, 2)


def test_the_full_window_upright_is_the_patch_itself() -> None:
    images = _images()
    windows = draw_windows(32, STILL, _draws(6))
    torch.testing.assert_close(windows, torch.tensor([[1.0, 0, 0]]).expand(6, 3))
    torch.testing.assert_close(resample(images, windows, _identity(6), 32), images, atol=1e-5, rtol=0)


def test_a_quarter_turn_and_a_mirror_move_pixels_as_torch_does() -> None:
    images = _images(1)
    whole = torch.tensor([[1.0, 0, 0]])
    turned = resample(images, whole, torch.tensor([[[0.0, -1], [1, 0]]]), 32)
    options = [torch.rot90(images, k, (2, 3)) for k in (1, 3)]
    assert min((turned - option).abs().max().item() for option in options) < 1e-4
    mirrored = resample(images, whole, torch.tensor([[[-1.0, 0], [0, 1]]]), 32)
    torch.testing.assert_close(mirrored, images.flip(3), atol=1e-4, rtol=0)


def test_a_smaller_view_is_cut_out_pixel_by_pixel() -> None:
    images = _images(1)
    view = resample(images, torch.tensor([[0.5, -0.5, 0.5]]), _identity(1), 16)
    torch.testing.assert_close(view, images[:, :, 16:, :16], atol=1e-5, rtol=0)


def test_windows_stay_on_the_patch_and_cover_the_range_of_scales() -> None:
    windows = draw_windows(64, Augmentation(32, 0.75, 1, 0), _draws(4000))
    assert (windows[:, :1] + windows[:, 1:].abs()).max() <= 1 + 1e-6
    assert windows[:, 0].min() == pytest.approx(0.5 * 0.75, abs=0.01)
    assert windows[:, 0].max() == pytest.approx(0.5 / 0.75, abs=0.01)


def test_orientations_are_rotations_near_quarter_turns_and_half_of_them_mirrored() -> None:
    drawn = draw_orientations(_draws(4000))
    torch.testing.assert_close(drawn @ drawn.mT, _identity(4000), atol=1e-5, rtol=0)
    assert (torch.linalg.det(drawn) < 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    tilt = torch.atan2(drawn[:, 1, 1], -drawn[:, 0, 1])
    off = torch.remainder(tilt + torch.pi / 4, torch.pi / 2) - torch.pi / 4
    assert off.abs().max().item() <= torch.deg2rad(torch.tensor(10.01)).item()


def test_views_repeat_with_the_seed_and_change_with_it() -> None:
    rgb = _images()
    strong = [jitter_stain(rgb, 1.0, _draws(len(rgb), seed)) for seed in (1, 1, 2)]
    assert torch.equal(strong[0], strong[1])
    assert not torch.equal(strong[0], strong[2])


def test_without_strength_colours_stay_and_white_stays_white_under_a_change_of_stain() -> None:
    rgb = _images().clamp(min=0.05)
    torch.testing.assert_close(jitter_stain(rgb, 0.0, _draws(len(rgb))), rgb, atol=1e-4, rtol=0)
    matrix, offset = draw_colour_matrix(1.0, _draws(50))
    white = torch.zeros(50, 3, 1)
    torch.testing.assert_close(matrix @ white + offset, offset)
    assert offset.abs().max() <= 0.08 + 1e-6


def test_a_change_of_stain_strengthens_a_pure_stain_without_turning_its_hue(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SATURATION_JITTER", "_CONTRAST_JITTER"):
        monkeypatch.setattr(augmentation, name, 0.0)
    haematoxylin = torch.tensor([0.650, 0.704, 0.286])
    haematoxylin = haematoxylin / haematoxylin.norm()
    matrix, _ = draw_colour_matrix(1.0, _draws(200))
    out = matrix @ haematoxylin
    torch.testing.assert_close(out / out.norm(dim=1, keepdim=True), haematoxylin.expand(200, 3), atol=1e-4, rtol=0)
    assert out.norm(dim=1).std() > 0.1


def test_blur_keeps_the_mean_and_takes_detail_from_the_chosen_share() -> None:
    images = _images(200)
    assert blur_some(images, 0.0, _draws(200)) is images
    blurred = blur_some(images, 0.5, _draws(200))
    torch.testing.assert_close(blurred.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)), atol=0.02, rtol=0)
    softened = blurred.std(dim=(1, 2, 3)) < 0.98 * images.std(dim=(1, 2, 3))
    assert 0.3 < softened.float().mean().item() < 0.7


def test_absent_markers_stay_zero_and_a_present_one_is_never_all_that_is_dropped() -> None:
    dense = torch.ones(500, 3, 4, 4)
    present = torch.tensor([[True, True, False]]).expand(500, 3)
    for dropout, least, most in ((0.0, 0, 0), (0.1, 0.05, 0.15), (0.6, 0.2, 0.45)):
        view = jitter_intensity(dense, present, 1.0, dropout, _draws(500))
        assert (view[:, 2] == 0).all()
        assert (view[:, :2].abs().amax(dim=(1, 2, 3)) > 0).all()
        # Where both would be dropped, both stay: 0.6 - 0.36.
        assert least <= (view[:, 0] == 0).all(dim=(1, 2)).float().mean().item() <= most


def test_a_sparse_and_a_dense_branch_share_their_window_and_two_sparse_ones_do_not() -> None:
    assert window_numbers(["sparse", "sparse", "dense"], shared_geometry=True) == (0, 1, 0)
    assert window_numbers(["sparse", "dense"], shared_geometry=False) == (0, 1)


def test_shared_windows_show_both_sides_the_same_place() -> None:
    count = 40
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(count, 1, 64, 64)
    rgb = (ramp.expand(count, 3, 64, 64).permute(0, 2, 3, 1) * 255).to(torch.uint8)
    plain = MarkerStatistics("x", 1.0, 0.0, 1.0, count)
    normalisation = Normalisation(ColourStatistics((0.0,) * 3, (1.0,) * 3), (plain,), torch.device("cpu"))

    def gap(shared: bool) -> float:
        weak = Augmentation(32, 0.9, 0.0, 0.0)
        maker = ViewMaker(["sparse", "dense"], weak, shared_geometry=shared, normalisation=normalisation)
        batch = Batch(rgb, torch.expm1(ramp), torch.ones(count, 1, dtype=torch.bool))
        sparse, dense = maker(batch, _draws(count, 3))
        return (sparse.mean(dim=(1, 2, 3)) - dense.mean(dim=(1, 2, 3))).abs().mean().item()

    assert gap(shared=True) < 0.01
    assert gap(shared=False) > 0.05


def test_the_colours_of_both_sides_are_changed_each_by_a_strength_of_its_own() -> None:
    count = 20
    rgb = torch.full((count, 32, 32, 3), 120, dtype=torch.uint8)
    plain = MarkerStatistics("x", 1.0, 0.0, 1.0, count)
    normalisation = Normalisation(ColourStatistics((0.0,) * 3, (1.0,) * 3), (plain,), torch.device("cpu"))

    def spread(colour: float, dense_colour: float) -> tuple[bool, bool]:
        strengths = Augmentation(32, 0.9, colour, 0.0, dense_colour=dense_colour)
        maker = ViewMaker(["sparse", "dense"], strengths, shared_geometry=True, normalisation=normalisation)
        batch = Batch(rgb, torch.ones(count, 1, 32, 32), torch.ones(count, 1, dtype=torch.bool))
        sparse, dense = (view.mean(dim=(2, 3))[:, 0].std().item() > 0.01 for view in maker(batch, _draws(count)))
        return sparse, dense

    assert spread(1.0, 0.0) == (True, False)
    assert spread(0.0, 1.0) == (False, True)
