"""The range of what an encoder or a probe was fitted on: distances against an independent formula, files, old ones."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from drawn_store import write_store
from drawn_training import draw_pairs, train_tiny
from safetensors import safe_open

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.training.feature_range import RANGE_NAME, fitted_range, outside_share, read_range


def drawn(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features: some directions of large variance, a mean of their own."""
    mixing = np.random.default_rng(width).normal(size=(width, width)) * np.linspace(0.5, 2, width)
    values = np.random.default_rng(seed).normal(size=(count, width)) @ mixing + 5 + shift
    return values.astype(np.float32)


def test_where_all_directions_are_kept_the_distance_is_that_of_mahalanobis() -> None:
    features, others = drawn(4000, 6, 1), drawn(50, 6, 2, shift=1.0)
    exact = features.astype(np.float64)
    scaled, new = (values / exact.std(axis=0) for values in (exact - exact.mean(axis=0), others - exact.mean(axis=0)))
    # The correlation matrix and a hundredth of its mean variance, which is 1.
    covariance = scaled.T @ scaled / len(scaled) + 0.01 * np.eye(6)
    expected = np.sqrt(np.einsum("nd,nd->n", new @ np.linalg.inv(covariance), new))
    # float32 on disk: 2 ** -24 of each term, and terms of both signs that nearly cancel in small variances.
    np.testing.assert_allclose(fitted_range(features, ("A",)).distance(others), expected, rtol=1e-3)


@pytest.mark.parametrize("width", [8, 200])
def test_one_in_a_hundred_held_out_patches_is_outside_and_all_of_another_tissue_are(width: int) -> None:
    held_out = drawn(3000, width, 2)
    fitted = fitted_range(drawn(3000, width, 1), ("A", "B", "A"))
    fitted = fitted.limited([fitted.distance(held_out)], "held-out patches")
    assert fitted.patients == ("A", "B")
    # Of 3000 at a rate of 0.01, four binomial standard deviations.
    assert outside_share(fitted.distance(held_out)) == pytest.approx(0.01, abs=1 / 3000)
    assert outside_share(fitted.distance(drawn(3000, width, 3))) == pytest.approx(0.01, abs=0.01)
    spread = held_out.std(axis=0).mean()
    assert outside_share(fitted.distance(drawn(100, width, 4, shift=20 * spread))) == 1.0
    assert outside_share(fitted.distance(10 * drawn(100, width, 4))) == 1.0


def test_a_feature_that_is_constant_in_the_fit_and_wakes_up_is_outside_and_a_wide_one_hides_nothing() -> None:
    features = drawn(1000, 8, 1)
    features[:, 3], features[:, 4] = 0, features[:, 4] * 1e6
    new = drawn(100, 8, 2)
    new[:, 3], new[:, 4] = 0, new[:, 4] * 1e6
    fitted = fitted_range(features, ("A",))
    fitted = fitted.limited([fitted.distance(new)], "held-out patches")
    awake = new.copy()
    awake[:, 3] = 50
    assert outside_share(fitted.distance(awake)) == 1.0
    assert outside_share(fitted.distance(new + np.float32(200))) == 1.0


def test_equal_features_give_a_range_that_only_they_are_in() -> None:
    fitted = fitted_range(np.ones((9, 4), np.float32), ("A",))
    fitted = fitted.limited([fitted.distance(np.ones((3, 4), np.float32))], "held-out patches")
    assert outside_share(fitted.distance(np.ones((5, 4), np.float32))) == 0
    assert outside_share(fitted.distance(np.full((5, 4), 9, np.float32))) == 1


def test_the_file_is_small_holds_all_and_is_the_same_each_time(tmp_path: Path) -> None:
    features = drawn(600, 1024, 1)
    fitted = fitted_range(features, ("A", "Ä ß"), "e0")
    data = fitted.to_bytes()
    assert data == fitted_range(features, ("A", "Ä ß"), "e0").to_bytes()
    # 32 directions, mean, scale and spreads in float32, and a header.
    assert len(data) < 1024 * (32 + 2) * 4 + 4096
    (tmp_path / RANGE_NAME).write_bytes(data)
    again = read_range(tmp_path, "e0")
    assert again is not None
    assert (again.patients, again.patches) == (("A", "Ä ß"), 600)
    np.testing.assert_array_equal(again.distance(features), fitted.distance(features))
    with pytest.raises(StatedError, match="expected the range of the encoder e1, found that of e0"):
        read_range(tmp_path, "e1")
    with safe_open(tmp_path / RANGE_NAME, "numpy") as file:
        assert json.loads(file.metadata()["more_from_less"])["schema"] == 1
    (tmp_path / RANGE_NAME).write_bytes(data.replace(b'schema\\": 1', b'schema\\": 9'))
    with pytest.raises(StatedError, match="expected schema 1, found schema 9"):
        read_range(tmp_path, "e0")
    for broken in (b"", data[:100], data[:-9], b"x" * len(data)):
        (tmp_path / RANGE_NAME).write_bytes(broken)
        with pytest.raises(StatedError, match=RANGE_NAME):
            read_range(tmp_path, "e0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    return train_tiny(folder).parents[1]


def _embed(trained: Path, slide: str, encoder: Path, out: Path) -> None:
    argv = ["--store", str(trained / "tile" / f"{slide}.zarr"), "--encoder", str(encoder), "--out", str(out)]
    assert main(["embed", *argv]) == 0


def test_embed_tells_what_share_of_a_slide_is_unlike_the_training(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder = trained / "run" / "encoder"
    sparse, _ = draw_pairs(20, 1, 9)
    # Green tissue on black.
    write_store(trained / "tile" / "odd.zarr", sparse=255 - sparse[..., [1, 2, 0]], slide="odd", patient="other")
    shares = {}
    for slide in ("test", "odd"):
        _embed(trained, slide, encoder, tmp_path / f"{slide}.h5")
        with h5py.File(tmp_path / f"{slide}.h5") as file:
            shares[slide] = float((file["distance"][...] > 1).mean())
        said = capfd.readouterr().err
        assert f"embed {slide}: {shares[slide]:.0%} of 20 patches lie outside the range of features that the" in said
        assert "(patients p0, p1; 1% of parts of slides left out do)" in said
    assert shares["test"] < 0.3
    assert shares["odd"] == 1.0


def test_an_encoder_of_an_older_version_embeds_and_says_that_its_range_is_unknown(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "old" / name).write_bytes((trained / "run" / "encoder" / name).read_bytes())
    _embed(trained, "test", tmp_path / "old", tmp_path / "test.h5")
    assert "so whether this slide is like them is unknown" in capfd.readouterr().err
    with h5py.File(tmp_path / "test.h5") as file:
        assert "distance" not in file


def test_the_same_training_keeps_the_same_range(trained: Path, tmp_path: Path) -> None:
    again = train_tiny(tmp_path)
    assert (again / RANGE_NAME).read_bytes() == (trained / "run" / "encoder" / RANGE_NAME).read_bytes()
