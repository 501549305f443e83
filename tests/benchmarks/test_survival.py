"""A short form of the trials, which must all be survived; and trials that must be seen to fail."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from survival_trials import (
    children,
    corruption,
    damage,
    disks,
    endurance,
    operations,
    results,
    sounds,
)
from survival_trials.results import LOST, SILENT, SURVIVED, Results, Trial
from survival_trials.tiny import differences, state_differences

import train
from soundgan import files
from soundgan.config_io import change

ROOT = Path(__file__).resolve().parent.parent.parent
LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
COUNTS = {"kills": 6, "worker": 0, "sounds": 60, "files": 7, "disks": 4, "neighbours": 3}
COUNTS |= {"epochs": 20}


@LINUX
@pytest.mark.slow
def test_nothing_is_lost_nothing_is_mistaken(tmp_path):
    lines, page = tmp_path / "trials.jsonl", tmp_path / "page.md"
    page.write_text("before <!-- survival: begin --> old <!-- survival: end --> after")
    words = [word for part, count in COUNTS.items() for word in (f"--{part}", str(count))]
    words += ["--json-lines", str(lines), "--markdown", str(page), "--keep", str(tmp_path / "kept")]
    command = [sys.executable, str(ROOT / "benchmarks/survival.py"), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900)
    trials = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [trial for trial in trials if trial["outcome"] != SURVIVED] == [], ended.stdout
    assert ended.returncode == 0
    made = Counter(trial["part"] for trial in trials)
    assert made == {part: min(count, 1) if part == "epochs" else count
                    for part, count in COUNTS.items() if count}  # fmt: skip
    assert {trial["how"] for trial in trials if trial["part"] == "disks"} <= {"named", "enough"}
    assert sum(trial["how"] == "named" for trial in trials) >= 3  # disks that were full
    assert sum(trial["how"] == "usable" for trial in trials) >= 10  # damaged sounds
    text = page.read_text()
    assert text.startswith("before <!-- survival: begin -->\n\n| what is done |")
    assert text.endswith("\n\n<!-- survival: end --> after")
    assert " old " not in text


# ---- what must be seen ---------------------------------------------------------------------------


@pytest.mark.slow
def test_any_difference_of_two_runs_is_found(small, tmp_path):
    """One bit of a weight, of a sound, of an optimiser; a row; a file more."""
    runs = [
        train.train(change(small, {"epochs": 2, "output_dir": str(tmp_path / name)})).cfg.run_dir
        for name in ("a", "b")
    ]
    assert differences(*runs) == []
    for name in ("generator.safetensors", "samples/epoch_0002/low.wav"):
        whole = (runs[1] / name).read_bytes()
        (runs[1] / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert differences(*runs) == [name]
        (runs[1] / name).write_bytes(whole)
    log = (runs[1] / "log.csv").read_text()
    (runs[1] / "log.csv").write_text(log.rpartition("2,")[0])
    assert differences(*runs) == ["log.csv"]
    (runs[1] / "log.csv").write_text(log)
    (runs[1] / "samples" / "more.wav").touch()
    assert differences(*runs) == ["samples/more.wav is new"]
    checkpoints = [
        run / "checkpoints" / name for run, name in zip(runs, ("last.pt", "previous.pt"))
    ]
    found = state_differences(*checkpoints)
    assert "/epoch" in found
    assert any(name.startswith("/critic_optimiser/state") for name in found)
    checkpoints[1].write_bytes(b"")
    assert "cannot be read" in state_differences(*checkpoints)[0]


@pytest.fixture
def apart(tmp_path):
    """Run something in a process that is forked from one without threads."""

    def run(lines: str) -> children.Outcome:
        start = "import sys; sys.path[:0] = [{!r}, {!r}]\nfrom pathlib import Path\n"
        start += "from survival_trials import children, operations\nfolder = Path({!r})\n"
        script = start.format(str(ROOT), str(ROOT / "benchmarks"), str(tmp_path)) + lines
        quiet = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=quiet, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


WRITES = """
from soundgan import files
def work():
    HAND
    files.write_bytes(folder / "a.bin", bytes(10_000))
    files.write_bytes(folder / "a.bin", bytes(range(100)) * 200)
ended = children.run(work, folder / "said.txt")
left = sorted(len(path.read_bytes()) for path in folder.glob("[.a]*"))
print(ended.code, ended.traced, ended.hung, left)
"""


@LINUX
@pytest.mark.slow
def test_operations_are_seen_and_cut_short(apart, tmp_path):
    seen = "into = []; operations.record(folder, into); import atexit"
    note = "    print([o.kind for o in into], operations.final_names(into)[-1][-5:])\nended"
    said = apart(WRITES.replace("HAND", seen).replace("ended", note, 1))
    assert said.startswith("0 False False [20000]")
    kinds = ["mkdir", "open", "write", "rename"] * 2
    assert (tmp_path / "said.txt").read_text() == f"{kinds} a.bin\n"
    # Numbers 0 to 3 are those of the first file: its folder, opening, writing, renaming.
    cuts = [(1, False, []), (2, False, [0]), (2, True, [5000]), (3, False, [10000])]
    cuts += [(5, False, [10000]), (6, True, [10000, 10000]), (7, True, [10000, 20000])]
    for at, half, left in cuts:
        for path in tmp_path.glob("[.a]*"):
            path.unlink()
        hand = f"operations.kill_at(folder, {at}, {half})"
        assert apart(WRITES.replace("HAND", hand)) == f"-9 False False {left}\n"


@LINUX
@pytest.mark.slow
def test_a_full_disk_and_a_process_that_hangs(apart, tmp_path):
    said = apart(WRITES.replace("HAND", "operations.disk_of(folder, 15_000)"))
    assert said == "1 True False [10000]\n"
    assert f"No space left on device: '{tmp_path / 'a.bin'}'" in (tmp_path / "said.txt").read_text()
    hangs = "import time\nended = children.run(lambda: time.sleep(60), folder / 'said.txt', 0.3)\n"
    assert apart(f"{hangs}print(ended.hung, ended.traced)") == "True True\n"
    eats = (
        "ended = children.run(lambda: len(bytearray(1 << 30)) and None, folder / 's', 60, 1 << 28)"
    )
    assert apart(f"{eats}\nprint(ended.code, 'MemoryError' in ended.said)") == "1 True\n"


def test_half_files_are_found(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    files.write_bytes(tmp_path / "a.json", b"{}")
    (tmp_path / ".lock").touch()
    assert disks.half_files(tmp_path) == []
    unfinished = files.unfinished_beside(tmp_path / "b.wav")
    unfinished.touch()
    halves = {"b.wav": b"RIFF", "b.json": b'{"a": ', "b.pt": b"PK", "b.csv": b"", "b.html": b"<p>"}
    halves |= {"b.safetensors": b"\x10", "b.png": b"\x89PNG"}
    for name, content in halves.items():
        (tmp_path / name).write_bytes(content)
    found = disks.half_files(tmp_path)
    assert found == sorted([unfinished.name, *(p.name for p in tmp_path.glob("b.*"))])


def test_what_grows_is_found():
    rows = [{"memory": 10**9, "files": 12, "threads": 1} for _ in range(10)]
    assert endurance._grown(rows) == []
    for name, more in (("memory", 3_000_000), ("files", 1), ("threads", 1)):
        leaking = [row | {name: row[name] + k * more * 5} for k, row in enumerate(rows)]
        assert endurance._grown(leaking) == [name]


def test_what_is_destroyed_is_found(tmp_path):
    for name in ("log.csv", "kept.csv", "best.pt"):
        (tmp_path / name).write_text(f"content of {name}")
    before = damage.contents(tmp_path)
    (tmp_path / "log.csv").rename(tmp_path / "log.old1.csv")
    assert damage.destroyed(tmp_path, before, damage.REFUSED, []) == []
    (tmp_path / "best.pt").write_text("another")
    assert damage.destroyed(tmp_path, before, damage.REFUSED, []) == ["best.pt"]
    assert damage.destroyed(tmp_path, before, damage.SAID, ["log.csv"]) == []
    (tmp_path / "log.old1.csv").unlink()
    (tmp_path / "log.csv").write_text("content of log.csv\nand a row more")
    assert damage.destroyed(tmp_path, before, damage.SAID, ["log.csv"]) == []
    (tmp_path / "log.csv").write_text("content\n")
    assert damage.destroyed(tmp_path, before, damage.SAID, ["log.csv"]) == ["log.csv"]


def test_another_result_must_be_said():
    def judged(said: str, note: str, may_differ: tuple[str, ...]) -> str:
        trial = Trial("files", 0, "", note=f"not the same: {note}")
        ended, usual = (
            children.Outcome(0, text, 1.0, 0, 0) for text in (f"epoch 2\n{said}", "epoch 3\n")
        )
        return damage._with_words(trial, ended, usual, ["log.csv"], may_differ).outcome

    assert judged("log.csv is damaged", "log.csv", damage.LOGS) == SURVIVED
    assert judged("all is well", "log.csv", damage.LOGS) == SILENT
    assert judged("log.csv is damaged", "log.csv, generator.safetensors", damage.LOGS) == LOST
    assert judged("log.csv is damaged", "log.csv", ()) == LOST


# ---- what is done --------------------------------------------------------------------------------


def encoded(container: str, **how: str) -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.ones(4000), 8000, format=container, **how)
    return bytearray(file.getvalue())


def test_headers_of_unknown_length():
    """As a pipe leaves them, and otherwise whole: libsndfile states no length, or an absurd one."""
    for container in ("FLAC",):
        content = corruption.unknown_length(random.Random(0), encoded(container))
        with sounds.Straight(io.BytesIO(content)) as sound:
            assert sound.frames > 10**9
            assert len(sound.read(4000)) > 3900
    for container, marks in (("WAV", b"data"), ("AIFF", b"COMM")):
        content = corruption.unknown_length(random.Random(0), encoded(container))
        at = content.find(marks) + {"WAV": 4, "AIFF": 10}[container]
        assert content[at : at + 4] == b"\xff" * 4


def test_damage_follows_from_the_number_alone():
    same = (corruption.twice, corruption.empty, corruption.noise)
    text = bytearray(b"".join(b"%d,%d,%d\r\n" % (k, 10 * k, 7 * k) for k in range(20)))
    for content, makes in (
        (encoded("WAV"), (*corruption.SOUND, *corruption.BYTES, corruption.lie)),
        (text, corruption.CSV),
    ):
        for make in makes:
            made = [make(random.Random(k), bytearray(content)) for k in (1, *range(1, 12))]
            assert made[0] == made[1] != content
            assert make in same or len(set(made)) > 1
    table = bytearray(b'{"a": [1, {"b": 2}], "c": "x"}')
    for make in corruption.JSON:
        assert make(random.Random(1), bytearray(table)) == make(random.Random(1), bytearray(table))
    for seed in range(20):
        changed = json.loads(corruption.other_value(random.Random(seed), bytearray(table)))
        assert changed != json.loads(table)
    pairs = [[rng.random() for _, rng in results.numbered(3, "kills", 4, -1)] for _ in range(2)]
    assert pairs[0] == pairs[1]
    assert next(results.numbered(3, "kills", 4, 2))[1].random() == pairs[0][2]


def test_the_table():
    made = Results()
    made.collect(
        [
            Trial("kills", 0, "SIGKILL", seconds=2.0),
            Trial("kills", 1, "SIGKILL", LOST, note="gone", seconds=1.0),
            Trial("files", 0, "damaged log.csv", SILENT, seconds=4.0),
            Trial("files", 1, "damaged log.csv", how="refused", seconds=1.0),
        ],
        lambda _: None,
    )
    assert [trial.note for trial in made.failures()] == ["gone", ""]
    lines = results.markdown(made, {"kills": "K", "files": "F"}).splitlines()
    assert lines[2:] == [
        "| SIGKILL | 2 | 1 | 1 | 0 | 0 |  | 3 | `K` |",
        "| damaged log.csv | 2 | 1 | 0 | 1 | 0 | 1 refused | 5 | `F` |",
        "| all | 4 | 2 | 1 | 1 | 0 |  | 8 |  |",
    ]


def test_categories_of_files():
    named = {
        "/o/.cache/1234/clips.f32": "cache",
        "/o/.cache/evaluator-12.pt": "score",
        "/o/run/scores.csv": "score",
        "/o/run/checkpoints/last.pt": "checkpoint",
        "/o/run/samples/epoch_0001/a.wav": "sample",
        "/o/run/log.csv": "log",
        "/o/run/index.html": "page",
        "/o/run/best.safetensors": "weights",
        "/o/run/config.json": "other",
    }
    assert {path: operations.category(path) for path in named} == named
    unfinished = ".0123456789abcdef.soundgan-tmp"
    renamed = [
        operations.Operation("write", f"/o/run/{unfinished}"),
        operations.Operation("rename", "/o/run/log.csv", f"/o/run/{unfinished}"),
    ]
    assert operations.final_names(renamed) == ["/o/run/log.csv"] * 2
    assert signal.SIGKILL == 9
