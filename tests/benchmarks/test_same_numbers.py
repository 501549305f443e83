"""Two checkouts compute the same numbers where everything that they leave is the same."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import same_numbers
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import train
from soundgan.config_io import change

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(small, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A run of four steps with scores that are made up, and the same again."""
    monkeypatch.setattr(same_numbers, "STEPS", 4)
    old = train.train(change(small, {"epochs": 1, "optimiser.ema_half_life": 3.0})).cfg.run_dir
    (old / "scores.json").write_text(json.dumps({"rows": {"real": {"a": 1.5}}, "per_class": {}}))
    shutil.copy(old / "checkpoints" / "last.pt", old / "checkpoints" / "best.pt")
    return old, shutil.copytree(old, tmp_path / "again")


def changed(path: Path, part: str, work) -> None:
    state = torch.load(path, weights_only=True)
    state[part] = work(state[part])
    torch.save(state, path)


def with_(name: str, value: object, own: dict) -> dict:
    return own | {name: value}


def test_names_of_weights_and_seconds_may_differ(pair):
    old, new = pair
    last = new / "checkpoints" / "last.pt"
    for part in ("generator", "critic", "average"):
        changed(last, part, lambda own: {f"new.{name}": value for name, value in own.items()})
    changed(last, "seconds", lambda seconds: seconds + 1)
    weights = load_file(new / "generator.safetensors")
    others = {f"{9 - n}": x for n, x in enumerate(weights.values()) if n < 9}
    others |= {f"a{n}": x for n, x in enumerate(weights.values()) if n >= 9}
    save_file(others, new / "generator.safetensors")
    head, row = (new / "log.csv").read_text().splitlines()
    cells = dict(zip(head.split(","), row.split(","))) | {"seconds": "123"}
    (new / "log.csv").write_text(f"{head}\n{','.join(cells.values())}\n")
    assert list(same_numbers.differences(old, new)) == []
    assert same_numbers.pictures(old, new) == "7 of 7 pictures equal"


def test_whatever_else_differs_is_found(pair):
    old, new = pair

    def found() -> list[str]:
        return list(same_numbers.differences(old, new))

    last = new / "checkpoints" / "last.pt"
    kept = last.read_bytes()
    for part in ("generator", "critic", "average"):
        name, value = next(iter(torch.load(last, weights_only=True)[part].items()))
        other = value.clone()
        other.view(-1)[0] = torch.nextafter(other.view(-1)[0], torch.tensor(9.0))  # one bit
        changed(last, part, partial(with_, name, other))
        (line,) = found()
        assert line.startswith(f"checkpoints/last.pt: {part}: {name}: values, by ")
        last.write_bytes(kept)
    for part, work in (
        ("critic", lambda own: dict(reversed(own.items()))),
        ("generator_optimiser", lambda own: own | {"state": {}}),
        ("critic_optimiser", lambda own: own | {"state": {0: own["state"][0] | {"step": 1}}}),
        ("random", lambda own: own | {"python": (*own["python"][:2], 0.5)}),
        ("sums", lambda own: own + 1),
        ("step", lambda own: own + 1),
    ):
        changed(last, part, work)
        assert all(line.startswith(f"checkpoints/last.pt: {part}") for line in found())
        assert found()
        last.write_bytes(kept)
    assert found() == []
    wave = next(new.glob("samples/epoch_0001/*.wav"))
    wave.write_bytes(wave.read_bytes()[:-1] + b"\1")
    assert found() == [str(wave.relative_to(new))]
    (new / "scores.json").write_text(json.dumps({"rows": {"real": {"b": 1.5}}, "per_class": {}}))
    assert "scores.json: rows: real: a (b)" in found()
    (new / "scores.json").write_text(json.dumps({"rows": {"real": {"a": 1.25}}, "per_class": {}}))
    assert "scores.json: rows: real: a: 1.5, 1.25" in found()
    (new / "log.csv").write_text((new / "log.csv").read_text().replace("wasserstein", "w"))
    assert any(line.startswith("log.csv[0]: wasserstein (w)") for line in found())
    weights = load_file(new / "generator.safetensors")
    save_file({n: x + 1 for n, x in weights.items()}, new / "generator.safetensors")
    assert "generator.safetensors: other weights" in found()


def test_other_pictures_are_said_and_too_few_steps_are_no_proof(pair, monkeypatch):
    old, new = pair
    picture = next(new.glob("samples/epoch_0001/*.png"))
    with Image.open(picture) as shown:
        shown.convert("RGBA").rotate(180).save(picture)
    name = picture.relative_to(new)
    assert same_numbers.pictures(old, new) == f"6 of 7 pictures equal (others: {name})"
    monkeypatch.setattr(same_numbers, "STEPS", 5)
    (line,) = same_numbers.differences(old, new)
    assert "after 4 steps only" in line


def test_the_exit_code_tells(sounds, tmp_path, monkeypatch, pair, capsys):
    """Old runs that are there are not repeated; new ones are."""
    old, new = pair
    monkeypatch.setattr(same_numbers, "CLIPS", 6)
    monkeypatch.setattr(same_numbers, "CLASSES", 2)
    out = tmp_path / "out"
    trained = []

    def trains(checkout, recipe, data_dir, folder):
        trained.append((checkout.name, recipe, len(list(data_dir.glob("*/*.wav")))))
        shutil.rmtree(folder / recipe, ignore_errors=True)
        shutil.copytree(new if checkout.name == "there" else old, folder / recipe)
        (folder / recipe / same_numbers.WHOLE).touch()
        return folder / recipe

    monkeypatch.setattr(same_numbers, "train", trains)
    words = ["--old", "here", "--new", "there", "--data-dir", str(sounds), "--out", str(out)]
    words += ["--recipes", "cgan"]
    assert same_numbers.main(words) == 0
    assert trained == [("here", "cgan", 12), ("there", "cgan", 12)]
    changed(new / "checkpoints" / "last.pt", "step", lambda step: step + 1)
    assert same_numbers.main(words) == 1
    assert trained[2:] == [("there", "cgan", 12)]
    said = capsys.readouterr().out
    assert "cgan: same numbers; 9 WAVs; 7 of 7 pictures equal" in said
    assert "cgan: 1 DIFFERENCES" in said
