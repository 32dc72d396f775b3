"""The encoder of gene counts, which are no image: a perceptron of two hidden layers, its size not tuned."""

from __future__ import annotations

from torch import nn

HIDDEN_UNITS = 512
LAYERS = 2


def build_gene_encoder(genes: int) -> nn.Sequential:
    """Maps normalised counts (n, genes, 1, 1) to features (n, 512): each layer linear, batch-normalised, ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = genes
    for _ in range(LAYERS):
        layers += [nn.Linear(width, HIDDEN_UNITS, bias=False), nn.BatchNorm1d(HIDDEN_UNITS), nn.ReLU(inplace=True)]
        width = HIDDEN_UNITS
    return nn.Sequential(*layers)
