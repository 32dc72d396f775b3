"""Limit the sizes of inputs, to refuse mistakes and attacks before memory is allocated."""

LARGEST_PATCH_PX = 4096

# A slide of a million pixels a side holds fifteen million patches of 256 px.
MAX_PATCHES = 2**26

# Markers, classes or genes of a dense side; a store holds the mean of each for every patch.
MAX_MARKERS = 2**14

MAX_FEATURES = 2**20
