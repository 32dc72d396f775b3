"""Name the files of an encoder's folder, for those who read it without torch."""

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
# The version of what config.json holds.
CONFIG_SCHEMA = 1
