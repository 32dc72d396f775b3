"""More From Less: H&E slides beside registered multiplex slides, to encoders that need H&E only."""

__version__ = "0.1.0"
