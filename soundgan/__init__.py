"""Learn your sounds: what `train.py` and the other commands are made of, one folder a room."""

__version__ = "0.1.0"
