"""Order the training patches of an epoch, and read ahead from disk in that order.

A permutation of all patches takes each from anywhere: one small read and, in a cohort of many slides, one opened file
per patch. On a disk of one's own that costs little, and nothing once the system holds the stores in memory; on a
network disk each such read waits. There blocks of neighbouring rows are shuffled, some of them make a window, and the
rows of a window are shuffled: a block is read in one go, before its rows are drawn, and need not stay in memory then.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.training.draws import seed_of

Rows = NDArray[np.int64]

# A block of copied JPEG patches of 256 px is about 1 MB, 16 of them are a shard; a window holds 3,072 patches of 32
# places, from which a batch of 128 takes 4 of each.
BLOCK_ROWS = 96
WINDOW_BLOCKS = 32


def in_parts(values: Rows, length: int) -> list[Rows]:
    """Return the values in consecutive parts of that length, the last perhaps shorter."""
    return [values[start : start + length] for start in range(0, len(values), length)]


def stored_blocks(slide: Rows, row: Rows, block_rows: int = BLOCK_ROWS) -> list[Rows]:
    """Return the numbers of the patches that lie in the same `block_rows` rows of a store, in the order of the rows.

    Args:
        slide: (N,) number of the slide of each patch.
        row: (N,) its row in the store of that slide.
        block_rows: of a store; a divisor of the rows of its shards, so that no block is in two files.
    """
    block = row // block_rows
    numbers = np.lexsort((row, slide))
    begins = (np.diff(slide[numbers]) != 0) | (np.diff(block[numbers]) != 0)
    return np.split(numbers, np.flatnonzero(begins) + 1)


def shuffled_windows(
    blocks: Sequence[Rows], *, seed: int, epoch: int, window_blocks: int = WINDOW_BLOCKS
) -> list[Rows]:
    """Return the blocks in the order of one epoch, in windows of equal size, of at most `window_blocks` blocks."""
    order = np.random.default_rng(seed_of(seed, "blocks", epoch)).permutation(len(blocks))
    count = -(-len(blocks) // window_blocks)
    return [np.concatenate([blocks[block] for block in window.tolist()]) for window in np.array_split(order, count)]


def epoch_order(windows: Sequence[Rows], *, seed: int, epoch: int) -> Rows:
    """Return the numbers in the order of one epoch: window after window, those of each in random order."""
    random = np.random.default_rng(seed_of(seed, "order", epoch))
    return np.concatenate([random.permutation(window) for window in windows])


def groups_of(order: Rows, batch_size: int) -> list[Rows]:
    """Return the order cut into whole batches; what is left over waits for another epoch's order."""
    return np.split(order[: len(order) // batch_size * batch_size], len(order) // batch_size)


def read_ahead(windows: Sequence[Rows], batch_size: int, first: int = 0) -> list[Rows]:
    """Return for each batch from `first` on the numbers to read from disk when it is made, in storage order.

    They are a window ahead: whatever a batch holds has been read when it, or an earlier one, was made.
    """
    sequence, lead = np.concatenate(windows), max(map(len, windows))
    begins = np.arange(first, len(sequence) // batch_size) * batch_size
    starts = begins + lead
    starts[:1] -= 2 * lead
    stops = begins + batch_size + lead
    return [sequence[max(0, start) : stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
