"""What the probes predict: what the dense side tells of a patch in a few numbers, made comparable between slides.

Intensities are in each slide's own units: exposure, gain and background differ between scans. They are
taken as log(1 + x), which tames the long right tail, and each training slide is brought to mean 0 and
standard deviation 1 from its own training rows. Held-out slides are scored one by one with measures that do
not see a slide's offset and scale, so their truth serves the measure only and never reaches a probe.
"""

from __future__ import annotations

DESCRIPTION = (
    "of fluorescence log(1 + mean intensity of the marker in the patch), of brightfield the mean optical density of "
    "the stain, of a mask the share of the class, of gene counts log(1 + counts per 10,000 of the patch); "
    "for fitting, standardised within each training slide "
    "from its training patches; held-out slides are scored one by one, and the slides' scores are averaged with "
    "the number of patches as weight"
)
