"""Build the network of a run: its branches, pretrained weights and low-rank layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.settings import RunSettings
from pipeline.settings.branches import branch_graph
from pipeline.training.branches import BranchNetwork
from pipeline.training.low_rank import add_low_rank, merge_low_rank
from pipeline.training.model_arguments import AS_NAMED, ModelArguments
from pipeline.training.normalisation import ColourStatistics
from pipeline.training.precision import Precision, resolve_precision
from pipeline.training.pretrained import read_start
from pipeline.training.rows import TrainingRows


@dataclass(frozen=True, eq=False)
class Model:
    """The network of a run, on its device.

    Attributes:
        network: all branches.
        precision: number format of the forward pass.
        model_args: what the encoders have other than timm's architecture of that name.
        pretrained_colour: normalisation of pixels that pretrained weights bring along; None without such weights.
    """

    network: BranchNetwork
    precision: Precision
    model_args: ModelArguments
    pretrained_colour: ColourStatistics | None

    def trained_encoder(self) -> nn.Module:
        """Return the encoder that the run exports, in evaluation mode, low-rank layers merged."""
        encoder = self.network.exported_encoder.eval()
        merge_low_rank(encoder)
        return encoder


def build_model(
    rows: TrainingRows, settings: RunSettings, *, size_px: int, outputs: int | None, device: torch.device
) -> Model:
    """Build the network that a run starts from.

    Args:
        rows: the training patches, which tell the channels of the dense side.
        settings: of the run.
        size_px: side of a view.
        outputs: width of what a target branch predicts; None without one.
        device: where it computes.

    Raises:
        StatedError: for pretrained weights that are absent or do not fit, an architecture that timm does not know or
            that cannot take the patches, or low-rank layers in an encoder without attention.
    """
    pretrained = read_start(Path(settings.weights), settings.encoder, size_px) if settings.weights else None
    model_args = pretrained.model_args if pretrained else AS_NAMED
    network = BranchNetwork(
        settings.encoded,
        encoder=settings.encoder,
        model_args=model_args,
        channels={branch.encoder: rows.channels_of(branch) for branch in branch_graph(settings.encoded)},
        size_px=size_px,
        dense_kind=rows.dense_kind,
        projector=settings.projector if settings.pairs else (),
        seed=settings.seed,
        outputs=outputs,
    )
    if pretrained:
        network.exported_encoder.load_state_dict(pretrained.weights)
    if settings.low_rank:
        add_low_rank(network.exported_encoder, settings.low_rank, settings.seed)
    network.to(memory_format=torch.channels_last).to(device)
    precision = resolve_precision(settings.precision, network, device)
    return Model(network, precision, model_args, pretrained.colour if pretrained else None)
