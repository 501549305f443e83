"""Sounds of three classes whose clips differ, for the tests of what tells good sounds from bad."""

from __future__ import annotations

import numpy as np

CLASSES = ("low", "mid", "high")


def varied_tones(count: int, seed: int) -> dict[str, list[np.ndarray]]:
    """`count` clips a class: tones and their overtones, each of its own pitch, level and beat."""
    rng = np.random.default_rng(seed)
    t = np.arange(4000) / 8000
    made: dict[str, list[np.ndarray]] = {}
    for name, hz in zip(CLASSES, (300, 900, 2500)):
        made[name] = []
        for _ in range(count):
            pitch = hz * rng.uniform(0.8, 1.25)
            wave = np.sin(2 * np.pi * pitch * t) + 0.3 * np.sin(4 * np.pi * pitch * t)
            wave *= 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(2, 12) * t + rng.uniform(0, 6))
            wave = rng.uniform(0.1, 0.4) * wave + 0.01 * rng.standard_normal(len(t))
            made[name].append(wave.astype(np.float32))
    return made
