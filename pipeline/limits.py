"""Sizes beyond which an input is a mistake or an attack, refused before memory is asked for."""

LARGEST_PATCH_PX = 4096

# A slide of a million pixels a side holds fifteen million patches of 256 px.
MAX_PATCHES = 2**26

MAX_FEATURES = 2**20
