"""Learn your sounds: what `train.py` and the other commands are made of."""

__version__ = "0.1.0"
