"""The terms of VICReg against formulas written out another way, against each other and against what they are for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.settings import RunSettings
from pipeline.settings.branches import Branch
from pipeline.training.losses import (
    barlow_twins,
    barlow_twins_terms,
    contrastive,
    covariance_term,
    info_nce,
    nt_xent,
    objective_of,
    variance_term,
    vicreg,
    vicreg_mfl,
)
from pipeline.training.parts import aligned_parts, links_of


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


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_the_covariance_terms_gradient_is_that_of_finite_differences(shape: tuple[int, int]) -> None:
    z = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: covariance_term(value, 1), (z,))


def test_two_branches_in_the_convention_of_vicreg_equal_its_published_code() -> None:
    a, b = _embeddings(2, 16, 10)
    expected = 25 * float(((a - b) ** 2).mean())
    for z in (a, b):
        variance, covariance = _by_numpy(z.numpy(), 1, 1e-4)
        expected += 25 * variance / 2 + covariance
    assert sum(vicreg([a, b], [1]).values()).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("branches", [2, 3])
def test_the_convention_of_more_from_less_sums_ordered_pairs_and_each_branch_once(branches: int) -> None:
    views = [z.numpy() for z in _embeddings(branches, 16, 10)]
    expected = sum(25 * ((a - b) ** 2).mean() for a in views for b in views if a is not b)
    for z in views:
        variance, covariance = _by_numpy(z, 0, 1e-5)
        expected += 25 * variance + covariance
    found = sum(
        vicreg_mfl([torch.from_numpy(z) for z in views], [1] * (branches * (branches - 1) // 2)).values()
    ).item()
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_three_branches_are_the_sum_of_the_three_pairs() -> None:
    views = _embeddings(3, 16, 10)
    pairs = sum(sum(vicreg([a, b], [1]).values()).item() for a, b in combinations(views, 2))
    assert sum(vicreg(views, [1, 1, 1]).values()).item() == pytest.approx(pairs, rel=1e-9)


def test_the_two_conventions_differ_by_their_stated_factors() -> None:
    a, b = _embeddings(2, 64, 12)
    ours, theirs = vicreg([a, b], [1]), vicreg_mfl([a, b], [1])
    assert (theirs["invariance"] / ours["invariance"]).item() == pytest.approx(2)
    assert (theirs["variance"] / ours["variance"]).item() == pytest.approx(2, rel=0.1)
    assert (theirs["covariance"] / ours["covariance"]).item() == pytest.approx((63 / 64) ** 2)


def test_collapse_costs_variance_and_redundancy_costs_covariance() -> None:
    constant = torch.ones(32, 8)
    assert vicreg([constant, constant], [1])["variance"].item() == pytest.approx(25 * (1 - 0.01), rel=1e-4)
    one = torch.randn(32, 1, generator=torch.Generator().manual_seed(0))
    copies, free = one.expand(32, 8), torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    assert covariance_term(copies, 1) > 5 * covariance_term(free, 1)


def test_a_pair_of_weight_zero_leaves_the_other_pairs_as_they_are() -> None:
    a, b, c = _embeddings(3, 16, 10)
    both = sum(vicreg([a, b, c], [1, 0, 0.5]).values()).item()
    alone = sum(vicreg([a, b], [1]).values()).item() + 0.5 * sum(vicreg([b, c], [1]).values()).item()
    assert both == pytest.approx(alone, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(3, 30), width=st.integers(2, 30), seed=st.integers(0, 99))
def test_barlow_twins_equals_numpys_correlations_whatever_the_shape(count: int, width: int, seed: int) -> None:
    a, b = _embeddings(2, count, width, seed)
    correlation = np.corrcoef(a.numpy(), b.numpy(), rowvar=False)[:width, width:]
    # numpy knows no epsilon in the variances: 1e-5 of it changes each correlation by a factor that is given here.
    kept = [np.sqrt(np.var(z.numpy(), axis=0) / (np.var(z.numpy(), axis=0) + 1e-5)) for z in (a, b)]
    correlation = correlation * np.outer(*kept)
    invariance, redundancy = barlow_twins_terms(a, b)
    assert invariance.item() == pytest.approx(((1 - np.diag(correlation)) ** 2).sum(), rel=1e-7)
    off_diagonal = (correlation**2).sum() - (np.diag(correlation) ** 2).sum()
    assert redundancy.item() == pytest.approx(off_diagonal, rel=1e-7, abs=1e-9)


def test_the_gram_form_of_barlow_twins_has_the_gradient_of_the_direct_form() -> None:
    z = _embeddings(2, 12, 40)
    ours = [item.clone().requires_grad_() for item in z]
    direct = [item.clone().requires_grad_() for item in z]
    barlow_twins_terms(*ours)[1].backward()
    a, b = ((item - item.mean(0)) / torch.sqrt(item.var(0, correction=0) + 1e-5) for item in direct)
    correlation = a.T @ b / 12
    (correlation - torch.diag(torch.diag(correlation))).square().sum().backward()
    for mine, theirs in zip(ours, direct, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10)


def _cross_entropy(scores: np.ndarray, partner: int, left_out: int | None = None) -> float:
    kept = [index for index in range(len(scores)) if index != left_out]
    return float(np.log(np.exp(scores[kept]).sum()) - scores[partner])


def test_info_nce_looks_for_the_partner_in_the_other_branch_only() -> None:
    a, b = (z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in _embeddings(2, 9, 5))
    cosines = a @ b.T / 0.3
    expected = np.mean([_cross_entropy(cosines[i], i) + _cross_entropy(cosines[:, i], i) for i in range(9)]) / 2
    assert info_nce(*_embeddings(2, 9, 5), 0.3).item() == pytest.approx(expected, rel=1e-9)


def test_nt_xent_has_all_other_rows_of_both_branches_as_negatives() -> None:
    both = np.concatenate([z.numpy() for z in _embeddings(2, 9, 5)])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    cosines = both @ both.T / 0.3
    expected = np.mean([_cross_entropy(cosines[i], (i + 9) % 18, left_out=i) for i in range(18)])
    assert nt_xent(*_embeddings(2, 9, 5), 0.3).item() == pytest.approx(expected, rel=1e-9)


def test_all_pairs_of_three_branches_count_with_their_weights() -> None:
    a, b, c = _embeddings(3, 12, 6)
    weights = [1.0, 0.5, 2.0]
    expected = sum(
        weight * sum(barlow_twins(pair, [1]).values()).item()
        for weight, pair in zip(weights, combinations((a, b, c), 2), strict=True)
    )
    assert sum(barlow_twins([a, b, c], weights).values()).item() == pytest.approx(expected, rel=1e-9)
    found = contrastive([a, b, c], weights, lambda x, y: nt_xent(x, y, 0.5))["contrast"].item()
    by_hand = nt_xent(a, b, 0.5) + 0.5 * nt_xent(a, c, 0.5) + 2 * nt_xent(b, c, 0.5)
    assert found == pytest.approx(by_hand.item(), rel=1e-9)


@pytest.mark.parametrize("objective", ["vicreg", "barlow-twins", "infonce", "nt-xent"])
def test_every_objective_prefers_true_partners_to_permuted_ones(objective: str) -> None:
    loss = objective_of(RunSettings(objective=objective))  # type: ignore[arg-type]
    a, b = _embeddings(2, 64, 8)
    assert sum(loss([a, b]).values()) < sum(loss([a, b.roll(1, 0)]).values())


def test_lightly_gives_the_same_values() -> None:
    from lightly import loss as peers

    a, b = (z.float() for z in _embeddings(2, 32, 48))
    ours = [sum(vicreg([a, b], [1]).values()), sum(barlow_twins([a, b], [1]).values()), nt_xent(a, b, 0.5)]
    theirs = [peers.VICRegLoss()(a, b), peers.BarlowTwinsLoss()(a, b), peers.NTXentLoss(temperature=0.5)(a, b)]
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=2e-6, atol=1e-6)


def test_the_settings_choose_objective_and_convention() -> None:
    a, b, c = _embeddings(3, 12, 6)
    mfl = objective_of(RunSettings(convention="mfl"))([a, b])
    assert mfl["invariance"].item() == vicreg_mfl([a, b], [1])["invariance"].item()
    weighted = objective_of(
        RunSettings(
            branches=("sparse", "sparse", "dense"), pair_weights=(0, 1, 2), objective="infonce", temperature=0.1
        )
    )
    expected = info_nce(a, c, 0.1) + 2 * info_nce(b, c, 0.1)
    assert weighted([a, b, c])["contrast"].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, -1.0), (0.0, 0.0, 0.0), (float("inf"), 1.0, 1.0)])
def test_weights_that_fit_no_pairs_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="pair_weights"):
        RunSettings(branches=("sparse", "sparse", "dense"), pair_weights=weights)


def _three() -> list[torch.Tensor]:
    return [z.requires_grad_() for z in _embeddings(3, 12, 8)]


def test_parts_align_each_half_of_the_first_branch_with_one_other_and_no_more() -> None:
    branches, weights = _three(), (0.5, 2.0)
    chosen = RunSettings(
        branches=("sparse", "sparse", "dense"), alignment="parts", pair_weights=weights, projector=(8,)
    )
    terms = objective_of(chosen)(branches)
    first, other, dense = (z.detach().numpy() for z in branches)
    pairs = [(first[:, :4], other[:, :4]), (first[:, 4:], dense[:, 4:])]
    expected = np.zeros(3)
    for (a, b), weight in zip(pairs, weights, strict=True):
        (va, ca), (vb, cb) = (_by_numpy(z, 1, 1e-4) for z in (a, b))
        expected += weight * np.array([25 * ((a - b) ** 2).mean(), 25 * (va + vb) / 2, ca + cb])
    found = [float(terms[name].detach()) for name in ("invariance", "variance", "covariance")]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    torch.stack(list(terms.values())).sum().backward()
    used = [(z.grad.abs().sum(dim=0) > 0).tolist() for z in branches if z.grad is not None]
    assert used == [[True] * 8, [True] * 4 + [False] * 4, [False] * 4 + [True] * 4]


def test_parts_of_a_contrastive_loss_are_the_sum_of_those_of_the_halves() -> None:
    branches = _three()
    chosen = RunSettings(
        branches=("sparse", "sparse", "dense"), alignment="parts", objective="infonce", projector=(8,), temperature=0.2
    )
    (term,) = objective_of(chosen)(branches).values()
    cosines = [
        torch.nn.functional.cosine_similarity(branches[0][:, None, part], other[None, :, part], dim=2) / 0.2
        for part, other in ((slice(0, 4), branches[1]), (slice(4, 8), branches[2]))
    ]
    expected = sum(-(c.log_softmax(1).diag() + c.log_softmax(0).diag()).mean() / 2 for c in cosines)
    assert float(term.detach()) == pytest.approx(float(expected.detach()))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("branches", "alignment", "width", "columns"),
    [
        (("sparse", "sparse", "dense"), "parts", 8, [4, 5, 6, 7]),
        (("dense", "sparse", "sparse"), "parts", 8, [*range(8)]),
        (("sparse", "dense", "sparse", "dense"), "parts", 9, [0, 1, 2, 6, 7, 8]),
        (("sparse", "sparse", "dense"), "whole", 3, [0, 1, 2]),
        (("sparse", "target", "sparse", "dense"), "parts", 8, [4, 5, 6, 7]),
    ],
)
def test_what_a_sparse_and_a_dense_branch_share_of_an_embedding(
    branches: tuple[str, ...], alignment: str, width: int, columns: list[int]
) -> None:
    (link,) = links_of(branches, alignment, width)
    assert (link.sparse_projector, link.dense_encoder, link.dense_projector) == ("sparse", "dense", "dense")
    assert link.columns.tolist() == columns


def test_components_share_a_part_each_with_the_exported_encoder() -> None:
    immune, stroma = (Branch("dense", encoder=name) for name in ("immune", "stroma"))
    links = links_of(("sparse", immune, stroma), "parts", 6)
    assert [(link.dense_encoder, link.columns.tolist()) for link in links] == [
        ("immune", [0, 1, 2]),
        ("stroma", [3, 4, 5]),
    ]
    other = Branch("sparse", encoder="other")
    for branches, expected in (
        ((immune, "sparse", other), [("sparse", [0, 1, 2])]),  # the other sparse encoder is not the run's
        ((immune, other, "sparse"), [("other", [0, 1, 2])]),
        ((immune, stroma, "sparse"), [("sparse", [3, 4, 5])]),  # stroma is aligned with immune alone
    ):
        found = links_of(branches, "parts", 6)
        assert [(link.sparse_projector, link.columns.tolist()) for link in found] == expected
        assert {link.dense_encoder for link in found} == {"immune"}


def test_parts_that_are_watched_are_those_that_are_aligned() -> None:
    watched = aligned_parts(_embeddings(3, 5, 8))
    assert [z.shape[1] for z in watched] == [8, 4, 4]


@pytest.mark.parametrize(
    ("branches", "projector", "weights"),
    [
        (("sparse", "dense"), (8,), ()),
        (("sparse", "sparse", "dense"), (8, 9), ()),
        (("sparse", "sparse", "dense"), (8,), (1, 1, 1)),
    ],
)
def test_parts_that_do_not_come_out_even_are_refused(
    branches: tuple[str, ...], projector: tuple[int, ...], weights: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match=r"alignment parts needs|pair_weights needs 2"):
        RunSettings(branches=branches, alignment="parts", projector=projector, pair_weights=weights)  # type: ignore[arg-type]
