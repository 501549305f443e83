"""The training of a vocoder: settings, networks, losses, steps, validation, and what is written."""
