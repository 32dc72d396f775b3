"""Text chunks of overlay.png: where in the picture its parts stand, "left top width height" in pixels.

Apart from the pictures themselves, for the report reads them without anything that reads slides.
"""

FIELD_KEY = "field_px"
CLOSE_UPS_KEY = "close_ups_px"
