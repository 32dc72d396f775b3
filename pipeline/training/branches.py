"""Define the branch graph: which views pass through which encoder and projector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import StatedError
from pipeline.settings.branches import Branch, branch_graph, exported_encoder_name
from pipeline.training.dense_kinds import dense_kind as kind_of
from pipeline.training.draws import seed_of
from pipeline.training.encoders import build_encoder, feature_width
from pipeline.training.model_arguments import AS_NAMED, ModelArguments


@dataclass(frozen=True)
class BranchOutput:
    """What one branch makes of its view.

    Attributes:
        features: (n, F) of the encoder.
        embedding: (n, E) of the projector.
        predicted: (n, T) of the head; None where the run has none, or of another encoder.
    """

    features: Tensor
    embedding: Tensor
    predicted: Tensor | None = None


class BranchNetwork(nn.Module):
    """Encoders and projectors by name, and branches that use them; by default one of each per modality.

    Two sparse branches share their weights (the sparse-only baseline); a sparse and a dense branch do not (More From
    Less, arXiv 2303.10656); two sparse branches and a dense one are TriDeNT (arXiv 2312.02111).

    Attributes:
        branches: all branches, with the names of their encoders and projectors.
        encoders: by name.
        projectors: by name.
        head: what predicts a target from the features of the encoder that the run yields; None without a target.

    Args:
        branches: all that have an encoder, so no target: a modality, or what more is to be said of the branch.
        encoder: timm name of the architecture of all encoders of images.
        channels: number of input channels of each encoder, by its name, which by default is its modality.
        size_px: side of the views.
        dense_kind: kind of the dense side; `counts` has a separate encoder.
        projector: widths of the projectors' layers; none where there is nothing to align, and embeddings are features.
        outputs: width of what a target branch predicts; None without one.
        seed: fixes the initial weights. Those of an encoder depend on its name and not on the other branches, so runs
            that are compared start from the same sparse encoder.
        model_args: what the encoder that the run starts from has other than that architecture; all get it.

    Raises:
        StatedError: if an encoder or projector has a name that torch's modules use themselves.
    """

    def __init__(
        self,
        branches: Sequence[str | Branch],
        *,
        encoder: str,
        channels: Mapping[str, int],
        size_px: int,
        dense_kind: str = "",
        projector: Sequence[int],
        seed: int,
        outputs: int | None = None,
        model_args: ModelArguments = AS_NAMED,
    ) -> None:
        super().__init__()
        check_names(branches)
        self.branches = branch_graph(branches)
        self.encoders = nn.ModuleDict()
        self.projectors = nn.ModuleDict()
        widths: dict[str, int] = {}
        for name, modality in {branch.encoder: branch.modality for branch in self.branches}.items():
            torch.manual_seed(seed_of(seed, "weights", name))
            if modality == "dense":
                built, width = kind_of(dense_kind).build_encoder(encoder, model_args, channels[name], size_px)
            else:
                built = build_encoder(encoder, in_chans=channels[name], size_px=size_px, model_args=model_args)
                width = feature_width(built, in_chans=channels[name], size_px=size_px)
            self.encoders[name] = built
            widths[name] = width
            if any(branch.encoder == branch.projector == name for branch in self.branches):
                self.projectors[name] = build_projector(width, projector)
        for branch in self.branches:
            if branch.projector not in self.projectors:
                torch.manual_seed(seed_of(seed, "projector", branch.projector))
                self.projectors[branch.projector] = build_projector(widths[branch.encoder], projector)
        self.head: nn.Linear | None = None
        if outputs is not None:
            torch.manual_seed(seed_of(seed, "head"))
            self.head = nn.Linear(widths[exported_encoder_name(self.branches)], outputs)

    @property
    def exported_encoder(self) -> nn.Module:
        """The encoder that the run yields."""
        return self.encoders[exported_encoder_name(self.branches)]

    def forward(self, views: Sequence[Tensor]) -> list[BranchOutput]:
        """Return one output per branch, from one view (n, C, P, P) per branch."""
        outputs, exported = [], exported_encoder_name(self.branches)
        for branch, view in zip(self.branches, views, strict=True):
            features = self.encoders[branch.encoder](view)
            predicted = self.head(features) if self.head is not None and branch.encoder == exported else None
            outputs.append(BranchOutput(features, self.projectors[branch.projector](features), predicted))
        return outputs


def check_names(branches: Sequence[str | Branch]) -> None:
    """Refuse names that cannot be those of encoders and projectors.

    Raises:
        StatedError: if one is a name that torch's modules use themselves.
    """
    taken = [
        name
        for branch in branch_graph(branches)
        for name in (branch.encoder, branch.projector)
        if hasattr(nn.ModuleDict(), name)
    ]
    if taken:
        raise StatedError(expected="a name for an encoder or projector that torch does not use itself", found=taken[0])


def build_projector(width: int, widths: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given widths, with batch normalisation and ReLU between them; none without widths."""
    if not widths:
        return nn.Sequential()
    layers: list[nn.Module] = []
    for out in widths[:-1]:
        layers += [nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU(inplace=True)]
        width = out
    return nn.Sequential(*layers, nn.Linear(width, widths[-1]))
