"""TensorBoard events: only when asked for, and the same numbers as in the CSV files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import train
from soundgan.errors import UserError
from soundgan.settings import Config
from soundgan.training import tensorboard
from soundgan.training.log import Log

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_events_hold_scalars_pictures_and_sounds(small: Config) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = replace(small, tensorboard=True)
    train.train(replace(cfg, epochs=2))
    train.train(cfg)  # continued: the events of both parts are one story
    events = EventAccumulator(str(cfg.run_dir / "tensorboard"), {"scalars": 0, "audio": 0})
    events.Reload()
    logged = Log(cfg.run_dir / "log.csv", ("epoch", "wasserstein"), 4).rows
    seen = [(event.step, event.value) for event in events.Scalars("log/wasserstein")]
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert [value for _, value in seen] == pytest.approx([row["wasserstein"] for row in logged])
    folder = cfg.run_dir / "tensorboard" / "samples"
    events = EventAccumulator(str(folder), {"audio": 0})
    events.Reload()
    assert set(events.Tags()["audio"]) == set(events.Tags()["images"]) == {"low", "mid", "high"}
    sounds = events.Audio("low")
    assert [sound.step for sound in sounds] == [1, 2, 4]
    assert sounds[0].sample_rate == cfg.sound.sample_rate


@pytest.mark.slow
def test_nothing_is_written_unasked(small: Config) -> None:
    train.train(replace(small, epochs=1))
    assert not (small.run_dir / "tensorboard").exists()


def test_without_tensorboard_it_says_what_to_install(
    small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train.train(replace(small, tensorboard=True))
    assert not (small.run_dir / "log.csv").exists()


LIMITED = """
import resource, sys
from pathlib import Path
from soundgan.training.tensorboard import Events
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))  # bytes that a file can have
folder = Path(sys.argv[1])
try:
    events = Events(folder, 0)
    for epoch in range(1, 50):
        events.scalars("log", {"epoch": epoch, "loss": 0.5})
except OSError as error:
    print(error.filename == str(folder), flush=True)
"""


@pytest.mark.slow
def test_a_full_disk_is_named_without_a_traceback(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "events")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="exists") as caught:
        tensorboard.Events(tmp_path / "file", 0)
    assert caught.value.filename == str(tmp_path / "file")
