"""The published augmentation, step by step: against colorsys, numpy and what its description says."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_store import write_store
from drawn_training import TINY, draw_pairs, write_cohort
from torch import Tensor

from pipeline.cli import main
from pipeline.training.draws import Draws
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics, Normalisation
from pipeline.training.published_views import (
    PublishedViewMaker,
    inverted,
    noisy_background,
    published_view,
    recoloured,
    stretched,
    turned,
)
from pipeline.training.views import Batch

MIDDLE = 0.5  # of a symmetrical range: no change


def _images(count: int = 4, channels: int = 3) -> Tensor:
    return 1 + 254 * torch.rand(count, channels, 32, 32, generator=torch.Generator().manual_seed(5))


def _uniform(seed: int, count: int):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(count, *shape, generator=generator)


def test_the_whole_window_is_the_patch_and_mirrors_are_mirrors() -> None:
    images = _images(3)
    draw = torch.tensor([[0.9, 0.9], [0.1, 0.9], [0.9, 0.1]])
    draw = torch.cat([draw, torch.ones(3, 2), torch.full((3, 2), MIDDLE)], 1)
    view = stretched(images, draw, 32)
    expected = torch.stack([images[0], images[1].flip(2), images[2].flip(1)])
    torch.testing.assert_close(view, expected, atol=1e-2, rtol=0)


def test_a_window_is_stretched_apart_in_width_and_height() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    images = torch.stack([x, y, x])[None]
    # Width 0.75 of the patch, at its right edge; height whole.
    view = stretched(images, torch.tensor([[0.9, 0.9, 0.0, 1.0, 1.0, MIDDLE]]), 32)[0]
    np.testing.assert_allclose(view[0, 5], np.minimum(7.5 + (np.arange(32) + 0.5) * 0.75, 31), atol=1e-3)
    torch.testing.assert_close(view[1, :, 7], torch.arange(32.0), atol=1e-3, rtol=0)


def test_only_zeros_become_noise_and_only_where_drawn() -> None:
    images = _images(2)
    images[:, :, :16] = 0
    view = noisy_background(images, torch.tensor([[0.29], [0.31]]), _uniform(1, 2))
    torch.testing.assert_close(view[1], images[1])
    torch.testing.assert_close(view[0, :, 16:], images[0, :, 16:])
    noise = view[0, :, :16].numpy().ravel()
    assert noise.min() >= 0
    assert noise.max() < 256
    assert abs(noise.mean() - 128) < 10


def test_turns_are_to_the_nearest_pixel_with_black_corners() -> None:
    images = _images(3)
    view = turned(images, torch.tensor([[0.41, 0.3], [0.39, 0.5], [0.39, 0.25]]))
    torch.testing.assert_close(view[0], images[0], rtol=0, atol=0)
    options = [torch.rot90(images[1], k, (1, 2)) for k in (1, 3)]
    assert any(torch.equal(view[1], option) for option in options)
    corners = view[2][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.abs().max() == 0
    assert set(view[2].unique().tolist()) <= {0.0, *images[2].unique().tolist()}


def test_solarize_inverts_the_whole_picture() -> None:
    images = _images(2)
    images[0, 0, 0, 0] = 0.005
    view = inverted(images, torch.tensor([[0.29, 0.0], [0.31, 0.0]]))
    torch.testing.assert_close(view[1], images[1])
    expected = 255 - images[0]
    expected[0, 0, 0] = 0.005
    torch.testing.assert_close(view[0], expected)


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, 0.5), (0.0, 0.5), (1.0, 0.2), (0.7, 1.0)])
def test_hue_and_saturation_are_those_of_colorsys(saturation: float, hue: float) -> None:
    images = _images(1)
    view = recoloured(images, torch.tensor([[MIDDLE, MIDDLE, saturation, hue]]))
    for y, x in ((0, 0), (3, 17), (31, 8), (12, 12)):
        h, s, v = colorsys.rgb_to_hsv(*(images[0, :, y, x] / 255).tolist())
        s = min(1.0, s * (1 + 0.4 * (2 * saturation - 1)))
        expected = colorsys.hsv_to_rgb((h + 0.1 * (2 * hue - 1)) % 1, s, v)
        np.testing.assert_allclose(view[0, :, y, x] / 255, expected, atol=1e-5)


def test_contrast_keeps_the_mean_and_brightness_is_not_to_be_seen() -> None:
    images = 100 + _images(1, channels=1) / 10
    view = recoloured(images, torch.tensor([[1.0, 1.0, 0.3, 0.3]]))
    np.testing.assert_allclose(view, (images - images.mean()) * 1.4 + images.mean() + 0.4, atol=1e-3)
    extreme = recoloured(_images(1), torch.tensor([[MIDDLE, 1.0, MIDDLE, MIDDLE]]))
    assert 0 <= extreme.min() < extreme.max() <= 255


def test_a_view_is_its_steps_in_the_published_order() -> None:
    images = _images(16)
    images[:, :, :8] = 0
    seed = _uniform(3, 16)
    view = stretched(images, seed(6), 32)
    view = noisy_background(view, seed(1), seed)
    view = recoloured(inverted(turned(view, seed(2)), seed(2)), seed(4))
    torch.testing.assert_close(published_view(images, _uniform(3, 16), 32), view, rtol=0, atol=0)


def test_every_branch_is_drawn_on_its_own_and_a_seed_fixes_them() -> None:
    normalisation = Normalisation(
        ColourStatistics((0.5,) * 3, (0.2,) * 3), (MarkerStatistics("mask", 50.0, 0.5, 0.7, 1),), torch.device("cpu")
    )
    maker = PublishedViewMaker(("sparse", "sparse", "dense"), 32, normalisation=normalisation)
    sparse = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def views(seed: int) -> list[Tensor]:
        present = torch.ones(8, 1, dtype=torch.bool)
        present[3] = False
        batch = Batch(sparse, sparse[..., :1].permute(0, 3, 1, 2).float(), present)
        return maker(batch, Draws(torch.Generator().manual_seed(seed), 8))

    first, second, dense = views(1)
    assert first.shape == second.shape == (8, 3, 32, 32)
    assert dense.shape == (8, 1, 32, 32)
    assert not torch.allclose(first, second)
    assert dense[3].abs().max() == 0
    assert dense[2].std() > 0
    for one, other in zip(views(1), (first, second, dense), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def _train(folder: Path, stores: Path, split: Path) -> int:
    settings = json.dumps({**TINY, "epochs": 1, "augmentation": "mfl"})
    argv = ["train", "--run", "mfl", "--stores", str(stores), "--split", str(split), "--settings", settings]
    argv += ["--out-encoder", str(folder / "e"), "--out-metrics", str(folder / "m"), "--out-curve", str(folder / "c")]
    return main(argv)


def test_training_takes_it_for_dense_sides_of_8_bits_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores, split = write_cohort(tmp_path, panels=(("mask",), ("mask",)))
    assert _train(tmp_path, stores, split) == 1
    assert "uint8, for augmentation mfl, found uint16" in capsys.readouterr().err
    for seed, slide in enumerate(("s0", "s1", "test")):
        sparse, dense = draw_pairs(20, 1, seed)
        small = np.clip(dense / 4, 0, 255).astype(np.uint8)
        write_store(tmp_path / "small" / f"{slide}.zarr", sparse=sparse, dense=small, slide=slide, markers=("mask",))
    assert _train(tmp_path, tmp_path / "small", split) == 0
