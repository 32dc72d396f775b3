"""The terms of VICReg against formulas written out another way, against each other and against what they are for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.settings import RunSettings
from pipeline.training.losses import covariance_term, objective_of, variance_term, vicreg, vicreg_mfl


def _embeddings(branches: int, count: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return [
        shared * 0.4 + 0.7 * torch.randn(count, width, generator=generator, dtype=torch.float64)
        for _ in range(branches)
    ]


def _by_numpy(z: np.ndarray, correction: int, epsilon: float) -> tuple[float, float]:
    matrix = np.cov(z, rowvar=False, ddof=correction)
    off_diagonal = matrix[~np.eye(len(matrix), dtype=bool)]
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(matrix) + epsilon))
    return float(hinge.mean()), float((off_diagonal**2).sum() / len(matrix))


@settings(max_examples=30, deadline=None)
@given(count=st.integers(3, 40), width=st.integers(2, 40), seed=st.integers(0, 99), correction=st.sampled_from([0, 1]))
def test_terms_equal_the_covariance_matrix_of_numpy_whatever_the_shape(
    count: int, width: int, seed: int, correction: int
) -> None:
    (z,) = _embeddings(1, count, width, seed)
    variance, covariance = _by_numpy(z.numpy(), correction, 1e-4)
    assert variance_term(z, correction, 1e-4).item() == pytest.approx(variance, rel=1e-9)
    assert covariance_term(z, correction).item() == pytest.approx(covariance, rel=1e-9)


def test_the_gram_form_has_the_gradient_of_the_direct_form_in_float32() -> None:
    z = torch.randn(24, 96, generator=torch.Generator().manual_seed(1)).requires_grad_()
    covariance_term(z, 1).backward()
    direct = z.detach().clone().requires_grad_()
    matrix = torch.cov(direct.T)
    ((matrix - torch.diag(torch.diag(matrix))).square().sum() / 96).backward()
    assert z.grad is not None
    assert direct.grad is not None
    torch.testing.assert_close(z.grad, direct.grad, rtol=1e-4, atol=1e-6)


def test_two_branches_in_the_convention_of_vicreg_equal_its_published_code() -> None:
    a, b = _embeddings(2, 16, 10)
    expected = 25 * float(((a - b) ** 2).mean())
    for z in (a, b):
        variance, covariance = _by_numpy(z.numpy(), 1, 1e-4)
        expected += 25 * variance / 2 + covariance
    assert sum(vicreg([a, b]).values()).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("branches", [2, 3])
def test_the_convention_of_more_from_less_sums_ordered_pairs_and_each_branch_once(branches: int) -> None:
    views = [z.numpy() for z in _embeddings(branches, 16, 10)]
    expected = sum(25 * ((a - b) ** 2).mean() for a in views for b in views if a is not b)
    for z in views:
        variance, covariance = _by_numpy(z, 0, 1e-5)
        expected += 25 * variance + covariance
    found = sum(vicreg_mfl([torch.from_numpy(z) for z in views]).values()).item()
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_three_branches_are_the_sum_of_the_three_pairs() -> None:
    views = _embeddings(3, 16, 10)
    pairs = sum(sum(vicreg([a, b]).values()).item() for a, b in combinations(views, 2))
    assert sum(vicreg(views).values()).item() == pytest.approx(pairs, rel=1e-9)


def test_the_two_conventions_differ_by_their_stated_factors() -> None:
    a, b = _embeddings(2, 64, 12)
    ours, theirs = vicreg([a, b]), vicreg_mfl([a, b])
    assert (theirs["invariance"] / ours["invariance"]).item() == pytest.approx(2)
    assert (theirs["variance"] / ours["variance"]).item() == pytest.approx(2, rel=0.1)
    assert (theirs["covariance"] / ours["covariance"]).item() == pytest.approx((63 / 64) ** 2)


def test_collapse_costs_variance_and_redundancy_costs_covariance() -> None:
    constant = torch.ones(32, 8)
    assert vicreg([constant, constant])["variance"].item() == pytest.approx(25 * (1 - 0.01), rel=1e-4)
    one = torch.randn(32, 1, generator=torch.Generator().manual_seed(0))
    copies, free = one.expand(32, 8), torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    assert covariance_term(copies, 1) > 5 * covariance_term(free, 1)


def test_the_settings_choose_the_convention() -> None:
    assert objective_of(RunSettings(convention="mfl")) is vicreg_mfl
    assert objective_of(RunSettings()) is vicreg
