"""Folders of runs as a training leaves them, made on the spot."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

import config
from soundgan import config_io

NASTY = "<img src=x onerror=alert(1)>"
AWKWARD = "#%?&\"' 狗 %41"
SCORES = {
    "recipe": "sn-wgan-gp",
    "epoch": 3,
    "weights": "last",
    "on": "sound, by griffin-lim",
    "held_out": {"clips": 4, "training_clips": 36, "by": "every tenth"},
    "rows": {
        "held-out real": {"clips": 4, "accuracy": 0.95, "kernel": 0.01},
        "generated": {"clips": 40, "accuracy": 0.25, "kernel": None, "kernel_low": 0.1},
    },
    "few": ["held-out real"],
    "per_class": {"a": {"accuracy": 0.5}, "b": {"accuracy": None}, NASTY: {"accuracy": 0.75}},
    "give_away": {
        "whole": {
            **{"shown": "everything", "generated": 0.93, "generated_low": 0.9},
            **{"generated_high": 0.95, "real": 0.52, "real_low": 0.49, "real_high": 0.54},
        },
        "band1": {"shown": f"only {NASTY}", "generated": 0.5, "real": 0.25},
    },
    "notes": ["A note with <b>tags</b>."],
    "best": {"epoch": 2, "kernel": 0.3},
    "seconds": 6.2,
}


def png(path: Path, width: int = 10, height: int = 3) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    lines = zlib.compress((b"\0" + b"\x80" * width) * height)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def make_set(
    folder: Path, names: Sequence[str], pictures: bool = True, seconds: float = 0.1
) -> None:
    folder.mkdir(parents=True)
    wave = 0.1 * np.sin(np.arange(int(8000 * seconds)) / 3)
    soundfile.write(folder / ".wav", wave, 8000, format="WAV", subtype="PCM_16")
    png(folder / ".png")
    for name in names:
        os.link(folder / ".wav", folder / f"{name}.wav")
        if pictures:
            os.link(folder / ".png", folder / f"{name}.png")


def make_run(
    run_dir: Path,
    names: Sequence[str] = ("a", "b", "c"),
    epochs: Sequence[int] = (1, 2, 3),
    conditional: bool = True,
    scores: object = SCORES,
    seconds: float = 0.1,
) -> Path:
    """The folder of a run as a training leaves it, with sounds of `seconds` at 8 kHz."""
    usual = config.RECIPES["sn-wgan-gp"]
    cfg = config_io.change(usual, {"epochs": 9, "conditional": conditional})
    run_dir.mkdir(parents=True)
    content = {
        "recipe": cfg.recipe,
        "classes": list(names) if conditional else [],
        "config": config_io.to_dict(cfg),
        "changed": config_io.changes(usual, cfg),
        "versions": {"python": "3.11", "torch": "2"},
        "git_revision": None,
        "vocoder_used": "griffin-lim",
        "device": "cpu",
    }
    (run_dir / "config.json").write_text(json.dumps(content))
    make_set(run_dir / "samples" / "original", names, pictures=False, seconds=seconds)
    make_set(run_dir / "samples" / "real", names, seconds=seconds)
    for epoch in epochs:
        make_set(run_dir / "samples" / f"epoch_{epoch:04d}", names, seconds=seconds)
    rows = [f"{e},{e * 4},1.5,{1 / e:.6g},{'nan' if e == 2 else e / 7:.6}" for e in range(1, 6)]
    (run_dir / "log.csv").write_text("\n".join(["epoch,step,seconds,critic_loss,l1", *rows]) + "\n")
    if scores is not None:
        (run_dir / "scores.json").write_text(json.dumps(scores))
        (run_dir / "scores.csv").write_text(
            "epoch,kernel,coverage\n1,0.5,\n2,0.3,nan\n3,0.4,0.25\n"
        )
    return run_dir
