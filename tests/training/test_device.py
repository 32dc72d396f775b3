"""What a GPU would compute stays on one device. Torch's device `meta` stands in: it refuses tensors of another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.settings import RunSettings
from pipeline.training.augmentation import Augmentation
from pipeline.training.branches import BranchNetwork
from pipeline.training.draws import Draws
from pipeline.training.encoders import build_encoder, feature_width
from pipeline.training.losses import objective_of
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics, Normalisation
from pipeline.training.precision import resolve_precision
from pipeline.training.published_views import PublishedViewMaker
from pipeline.training.targets import supervised_terms
from pipeline.training.views import Batch, ViewMaker

ELSEWHERE = torch.device("meta")
BRANCHES = ("sparse", "sparse", "dense")
COLOUR = ColourStatistics((0.5,) * 3, (0.2,) * 3)
MARKERS = tuple(MarkerStatistics(name, 1.0, 0.0, 1.0, 5) for name in ("DAPI", "CD3", "CD8"))


class _DrawsElsewhere(Draws):
    """Draws without numbers, for `meta` has no generator."""

    def __init__(self, count: int) -> None:
        self.device, self.count = ELSEWHERE, count

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.empty(self.count, *shape, device=ELSEWHERE)


def test_the_width_of_an_encoder_is_found_where_the_encoder_is() -> None:
    encoder = build_encoder("test_resnet", in_chans=3, size_px=32)
    width = feature_width(encoder, in_chans=3, size_px=32)
    assert feature_width(encoder.to(ELSEWHERE), in_chans=3, size_px=32) == width


@pytest.mark.parametrize(
    ("kind", "augmentation"),
    [
        *((kind, "standard") for kind in ("fluorescence", "brightfield", "mask", "counts")),
        *((kind, "mfl") for kind in ("fluorescence", "brightfield", "mask")),
    ],
)
def test_a_batch_becomes_views_and_embeddings_on_its_own_device(kind: str, augmentation: str) -> None:
    markers = MARKERS if kind in ("fluorescence", "counts") else ()
    normalisation = Normalisation(COLOUR, markers, ELSEWHERE, COLOUR if kind == "brightfield" else None)
    make_views: PublishedViewMaker | ViewMaker = PublishedViewMaker(
        BRANCHES, 32, normalisation=normalisation, dense_kind=kind
    )
    if augmentation == "standard":
        strengths = Augmentation(32, 0.75, 1.0, 0.5, 0.1, 1.0)
        make_views = ViewMaker(BRANCHES, strengths, shared_geometry=True, normalisation=normalisation, dense_kind=kind)
    side = 1 if kind == "counts" else 32
    batch = Batch(
        torch.empty(8, 32, 32, 3, dtype=torch.uint8, device=ELSEWHERE),
        torch.empty(8, 3, side, side, device=ELSEWHERE),
        torch.empty(8, 3, dtype=torch.bool, device=ELSEWHERE),
    )
    views = make_views(batch, _DrawsElsewhere(8))
    network: nn.Module = BranchNetwork(
        BRANCHES,
        encoder="test_resnet",
        channels={"sparse": 3, "dense": 3},
        size_px=32,
        dense_kind=kind,
        projector=(16, 16),
        seed=0,
    ).to(ELSEWHERE)
    assert all(item.embedding.device == ELSEWHERE for item in network(views))


@pytest.mark.parametrize("objective", ["vicreg", "barlow-twins", "infonce", "nt-xent"])
def test_losses_are_taken_on_the_device_of_the_embeddings(objective: str) -> None:
    embeddings = [torch.empty(8, 16, device=ELSEWHERE, requires_grad=True) for _ in BRANCHES]
    for alignment in ("whole", "parts"):
        settings = RunSettings(branches=BRANCHES, objective=objective, projector=(16, 16), alignment=alignment)
        terms = {**objective_of(settings)(embeddings), **supervised_terms(embeddings[0], embeddings[1], "class")}
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(item.grad is not None and item.grad.device == ELSEWHERE for item in embeddings)


@pytest.mark.parametrize(("known", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bfloat16_takes_float32(
    known: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or known)
    assert resolve_precision("auto", nn.Identity(), torch.device("cuda", 0)) == expected
