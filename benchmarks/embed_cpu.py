"""Embedding on the CPU: ResNet-50 on 224-px patches, by our path and by plain torch; and what reading costs it.

Usage: python benchmarks/embed_cpu.py [--threads N] [--patches N] [--batch N] [--repeats N] [--check]. Builds an encoder
with drawn weights and a store of 224-px patches, checks that all features agree (cosine 0.999), then takes turns. "fp32
eager" is what TRIDENT and CLAM do on a CPU: the network as timm builds it, float32, channels first. With --openvino
its bfloat16 is timed too, where the package is installed. Prints a table; the last line is JSON. With --check the exit
code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from imagecodecs import jpeg8_decode

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import interleaved, jpeg_tiles, judged, versions

from pipeline.embedding.encoder import Encoder
from pipeline.embedding.encoder_description import EncoderDescription
from pipeline.embedding.stage import embed
from pipeline.settings import EmbedSettings
from pipeline.store.patch_store import PatchStore, PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter
from pipeline.training.encoders import build_encoder

SIDE_PX = 224
SMALLEST_COSINE = 0.999
MEAN, STD = (0.70, 0.55, 0.70), (0.15, 0.18, 0.14)
EAGER, OURS, AUTOCAST, WHOLE, OPENVINO = (
    "fp32 eager",
    "embed, bf16",
    "autocast, bf16",
    "reading, decoding, embedding",
    "OpenVINO, bf16",
)
# Without AMX no bfloat16 code of two cores reaches 8: benchmarks/README.md has the arithmetic.
EAGER_GOALS = {True: 8.0, False: 3.0}
WHOLE_GOAL = 0.85


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of the computation")
    parser.add_argument("--patches", type=int, default=64, help="patches of a turn")
    parser.add_argument("--batch", type=int, default=32, help="patches per forward pass")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--openvino", action="store_true", help="also time OpenVINO")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    encoder = drawn_encoder()
    with tempfile.TemporaryDirectory() as name:
        store = draw(Path(name) / "drawn.zarr", parsed.patches)
        work = works(encoder, store, parsed.batch, Path(name))
        if parsed.openvino:
            work[OPENVINO] = openvino_work(encoder, store.read_sparse(slice(None)), parsed.batch, parsed.threads)
        cosines = check_equal(work)
        rates = interleaved({label: counted(task) for label, task in work.items()}, parsed.repeats)
    amx = torch.cpu._is_amx_tile_supported()
    measured, missed = judged(rates, [(OURS, EAGER, EAGER_GOALS[amx]), (WHOLE, OURS, WHOLE_GOAL)], "patches")
    result = {
        "benchmark": "embed_cpu",
        "threads": parsed.threads,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": amx,
        "smallest_cosine": cosines,
        **measured,
        "missed": missed,
        "versions": versions("torch", "timm", *(["openvino"] if parsed.openvino else [])),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def drawn_encoder() -> Encoder:
    """Return a ResNet-50 with random weights, whose batch normalisation has seen patches."""
    torch.manual_seed(0)
    network = build_encoder("resnet50", in_chans=3, size_px=SIDE_PX)
    with torch.no_grad():
        network.train()(_normalised(patches(16)))
    described = EncoderDescription("drawn", "resnet50", {}, MEAN, STD, SIDE_PX, SIDE_PX, 0.5, 2048, 1.0, "0" * 64)
    return Encoder(described, network.eval(), torch.device("cpu"))


def patches(count: int) -> np.ndarray:
    """Return (count, 224, 224, 3) uint8."""
    drawn = np.stack([jpeg8_decode(stream)[:SIDE_PX, :SIDE_PX] for stream in jpeg_tiles()])
    return np.asarray(drawn[np.arange(count) % len(drawn)])


def draw(path: Path, count: int) -> PatchStore:
    """Return a store of these patches, H&E only."""
    writer = StoreWriter(path, patches=count, size_px=SIDE_PX, dense_channels=0, dense_dtype="uint8")
    pixels = patches(count)
    for start in range(0, count, writer.block_rows):
        writer.write(start, pixels[start : start + writer.block_rows], None)
    nothing = np.zeros(count, np.float32)
    corner = np.zeros((count, 2), np.int64)
    table = PatchTable(corner, corner * 0.5, nothing + 1, nothing, nothing, np.zeros((count, 0), np.float32))
    known = StoreAttributes(
        "drawn", "p", SIDE_PX, 0.5, 0.5, (SIDE_PX, SIDE_PX), SIDE_PX, 8.0, (), None, "", {"kept": count}, {}, {}
    )
    writer.finish(known, table, np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))
    return PatchStore.open(path)


def works(encoder: Encoder, store: PatchStore, batch: int, folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Return all that is timed; each gives the features (n, 2048)."""
    pixels = store.read_sparse(slice(None))
    plain = copy.deepcopy(encoder.network).to(memory_format=torch.contiguous_format)

    def network(run: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            parts = [run(_normalised(pixels[start : start + batch])) for start in range(0, len(pixels), batch)]
        return torch.cat(parts).float().numpy()

    def autocast(values: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return encoder.network(values.contiguous(memory_format=torch.channels_last))

    def ours() -> np.ndarray:
        parts = [encoder.embed(pixels[start : start + batch], "bf16") for start in range(0, len(pixels), batch)]
        return np.concatenate(parts)

    def whole() -> np.ndarray:
        import h5py

        embed(store, encoder, EmbedSettings(batch_size=batch, precision="bf16"), folder / "drawn.h5", {})
        with h5py.File(folder / "drawn.h5") as file:
            return np.asarray(file["features"])

    return {EAGER: lambda: network(plain), AUTOCAST: lambda: network(autocast), OURS: ours, WHOLE: whole}


def openvino_work(encoder: Encoder, pixels: np.ndarray, batch: int, threads: int) -> Callable[[], np.ndarray]:
    """Return the same network, converted and compiled by OpenVINO."""
    import openvino

    network = copy.deepcopy(encoder.network).to(memory_format=torch.contiguous_format)
    model = openvino.convert_model(network, example_input=_normalised(pixels[:2]))
    model.reshape([min(batch, len(pixels)), 3, SIDE_PX, SIDE_PX])
    options = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", options)

    def run() -> np.ndarray:
        starts = range(0, len(pixels), batch)
        return np.concatenate([compiled(_normalised(pixels[start : start + batch]).numpy())[0] for start in starts])

    return run


def check_equal(work: dict[str, Callable[[], np.ndarray]]) -> dict[str, float]:
    """Return the smallest cosine of each work's features with those of plain torch."""
    expected = torch.from_numpy(work[EAGER]()).double()
    cosines = {}
    for label, task in work.items():
        found = torch.nn.functional.cosine_similarity(torch.from_numpy(task()).double(), expected)
        cosines[label] = round(float(found.min()), 6)
        if not cosines[label] >= SMALLEST_COSINE:
            raise SystemExit(f"{label}: cosine {cosines[label]}, needed {SMALLEST_COSINE}")
    return cosines


def counted(task: Callable[[], np.ndarray]) -> Callable[[], int]:
    """Return the task, telling how many patches it embedded."""
    return lambda: len(task())


def _normalised(pixels: np.ndarray) -> torch.Tensor:
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).div(255)
    mean, std = (torch.tensor(figures).view(1, 3, 1, 1) for figures in (MEAN, STD))
    return ((values - mean) / std).contiguous()


if __name__ == "__main__":
    sys.exit(main())
