"""Published sets of paired patches, read in the layout in which they are published and written as stores."""
