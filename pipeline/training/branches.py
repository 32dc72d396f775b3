"""The branch graph: which views pass through which encoder and projector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.training.encoders import build_encoder, feature_width
from pipeline.training.gene_encoder import HIDDEN_UNITS, build_gene_encoder
from pipeline.training.model_arguments import AS_NAMED, ModelArguments
from pipeline.training.seeds import seed_of


@dataclass(frozen=True)
class BranchOutput:
    """What one branch makes of its view: `features` (n, F) of the encoder, `embedding` (n, E) of the projector."""

    features: Tensor
    embedding: Tensor


class BranchNetwork(nn.Module):
    """One encoder and one projector per modality, and branches that use them.

    Two sparse branches share their weights (the sparse-only baseline); a sparse and a dense branch do not (More From
    Less, arXiv 2303.10656); two sparse branches and a dense one are TriDeNT (arXiv 2312.02111).

    Args:
        branches: modality of each branch.
        encoder: timm name of the architecture of all encoders of images.
        channels: number of input channels of each modality.
        size_px: side of the views.
        dense_kind: kind of the dense side; that of `counts` has an encoder of its own.
        projector: widths of the projectors' layers.
        seed: fixes the initial weights. Those of a modality do not depend on the other branches, so runs that are
            compared start from the same sparse encoder.
        model_args: what the encoder that the run starts from has other than that architecture; all get it.
    """

    def __init__(
        self,
        branches: Sequence[str],
        *,
        encoder: str,
        channels: Mapping[str, int],
        size_px: int,
        dense_kind: str = "",
        projector: Sequence[int],
        seed: int,
        model_args: ModelArguments = AS_NAMED,
    ) -> None:
        super().__init__()
        self.branches = tuple(branches)
        self.encoders = nn.ModuleDict()
        self.projectors = nn.ModuleDict()
        for modality in dict.fromkeys(branches):
            torch.manual_seed(seed_of(seed, "weights", modality))
            if modality == "dense":
                built, width = build_dense_encoder(encoder, model_args, dense_kind, channels[modality], size_px)
            else:
                built = build_encoder(encoder, in_chans=channels[modality], size_px=size_px, model_args=model_args)
                width = feature_width(built, in_chans=channels[modality], size_px=size_px)
            self.encoders[modality] = built
            self.projectors[modality] = build_projector(width, projector)

    def forward(self, views: Sequence[Tensor]) -> list[BranchOutput]:
        """One output per branch, from one view (n, C, P, P) per branch."""
        outputs = []
        for modality, view in zip(self.branches, views, strict=True):
            features = self.encoders[modality](view)
            outputs.append(BranchOutput(features, self.projectors[modality](features)))
        return outputs


def build_dense_encoder(
    encoder: str, model_args: ModelArguments, kind: str, channels: int, size_px: int
) -> tuple[nn.Module, int]:
    """The encoder of a dense branch and the length of its feature vectors."""
    if kind == "counts":
        return build_gene_encoder(channels), HIDDEN_UNITS
    built = build_encoder(encoder, in_chans=channels, size_px=size_px, model_args=model_args)
    return built, feature_width(built, in_chans=channels, size_px=size_px)


def build_projector(width: int, widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths, with batch normalisation and ReLU between them."""
    layers: list[nn.Module] = []
    for out in widths[:-1]:
        layers += [nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU(inplace=True)]
        width = out
    return nn.Sequential(*layers, nn.Linear(width, widths[-1]))
