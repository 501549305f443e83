"""Comparing variants on the clock, and showing what came out."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import shrunk
from PIL import Image

import config
import train

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
import compare
import show


@pytest.mark.parametrize("variant", [*config.RECIPES, *compare.ABLATION])
def test_every_variant_is_what_its_name_says(variant):
    options = compare.Options(data_dir="d", holdout_dir="h", out="o")
    cfg = config.parse(compare.words(variant, 3, options))
    recipe, _, changes = variant.partition(":")
    assert (cfg.recipe, cfg.seed) == (recipe, 3)
    usual = config.to_dict(config.RECIPES[recipe])
    ours = config.to_dict(cfg)
    changed = set(config.must_match(usual, ours)) - {"seed", "holdout_dir"}
    assert changed == {change.partition("=")[0] for change in changes.split(",") if change}
    own = config.RECIPES[recipe].vocoder
    assert cfg.vocoder == (config.GRIFFIN_LIM if "/" in own else own)


@pytest.mark.parametrize("variant", compare.ABLATION)
def test_every_part_can_be_taken_away(variant, sounds, tmp_path):
    """What is left trains: no weight of either network is one that no loss asks for."""
    cfg = config.parse(compare.words(variant, 3, compare.Options(data_dir="d", out="o")))
    recipe = config.to_dict(config.RECIPES[cfg.recipe])
    changes = {k: getattr(cfg, k) for k in config.must_match(recipe, config.to_dict(cfg))}
    tiny = shrunk(config.RECIPES[cfg.recipe], sounds, tmp_path / "outputs")
    changes |= {"batch_size": tiny.batch_size}
    run = train.Run.start(replace(tiny, **changes), list("abc"), torch.device("cpu"))
    labels = torch.tensor([0, 1, 2, 0])
    metrics = train.full_step(run, torch.randn(4, *tiny.shape), labels)
    assert metrics.isfinite().all()
    for network in (run.critic, run.generator):
        assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_runs_of_variants_have_names_of_their_own():
    names = [compare.run_name(variant, seed) for variant in compare.ABLATION for seed in (0, 1)]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name for name in names)


def test_minutes_that_are_done_are_not_done_again(small, tmp_path, monkeypatch):
    """Each variant is trained up to each minute once, and scored there."""
    trained, code = [], 75

    def trains(command, seconds, run_dir):
        trained.append(seconds)
        run_dir.mkdir(exist_ok=True)
        (run_dir / compare.CLOCK).write_text(str(compare.seconds_of(run_dir) + seconds))
        return code

    monkeypatch.setattr(compare, "train_for", trains)

    def scored(command, **_):
        folder = Path(command[2])
        folder.mkdir(parents=True, exist_ok=True)
        made = {"accuracy": 0.5, "frechet": 3.0}
        card = {"step": 7, "rows": {compare.GENERATED: made, show.REAL: made}}
        card["per_class"] = {"a": {"diversity": 0.7}, "b": {"diversity": None}}
        (folder / "scores.json").write_text(compare.json.dumps(card))

    monkeypatch.setattr(compare.subprocess, "run", scored)
    options = compare.Options(out=str(tmp_path), minutes=(1, 3))
    table = tmp_path / "scores.csv"
    compare.compare("best", 0, options, table)
    assert trained == [60, 120]
    compare.compare("best", 0, replace(options, minutes=(1, 3, 4)), table)
    assert trained == [60, 120, 60]
    compare.compare("best:augment=0", 0, replace(options, minutes=(1,)), table)
    compare.compare("cgan", 0, replace(options, minutes=(1,)), table)
    # One that was stopped half-way, one that is further than it should be, one that diverges.
    (tmp_path / "wavegan-seed0").mkdir()
    (tmp_path / "wavegan-seed0" / compare.CLOCK).write_text("90")
    (tmp_path / "wavegan-seed1").mkdir()
    (tmp_path / "wavegan-seed1" / compare.CLOCK).write_text("60.000")
    before, code = len(compare.rows_of(table)), 3
    compare.compare("wavegan", 0, replace(options, minutes=(1, 2, 3)), table)
    assert trained[5:] == [30]
    code = 75
    compare.compare("wavegan", 1, replace(options, minutes=(1,)), table)
    assert trained[6:] == []
    rows, added = compare.rows_of(table)[:before], compare.rows_of(table)[before:]
    assert [(r["variant"], r["seed"], float(r["minutes"])) for r in added] == [
        ("wavegan", "1", 1),
        (f"{show.REAL} (wavegan)", "1", 1),
    ]
    assert [(r["variant"], float(r["minutes"]), r["flattest"]) for r in rows] == [
        ("best", 1, "0.7"),
        (f"{show.REAL} (best)", 1, ""),
        ("best", 3, "0.7"),
        ("best", 4, "0.7"),
        ("best:augment=0", 1, "0.7"),
        ("cgan", 1, "0.7"),
        (f"{show.REAL} (cgan)", 1, ""),
    ]


def test_what_was_trained_is_noted_however_it_ends(tmp_path):
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(SystemExit):  # ended by the signal itself, which train.py would catch
        compare.train_for(sleeps, 1.5, tmp_path)
    assert compare.seconds_of(tmp_path) == 1.5
    assert compare.train_for([sys.executable, "-c", ""], 1000.0, tmp_path) == 0
    assert 1.5 < compare.seconds_of(tmp_path) < 60


def test_what_is_shown_are_the_scores(tmp_path, capsys, monkeypatch, small):
    rows = [
        {"variant": "a", "seed": 0, "minutes": 5, "frechet": 90, "accuracy": 0.1},
        {"variant": "a", "seed": 0, "minutes": 10, "frechet": 40, "accuracy": 0.2},
        {"variant": "a", "seed": 1, "minutes": 10, "frechet": 60, "accuracy": 0.4},
        {"variant": "a:x=1,y=2", "seed": 0, "minutes": 5, "frechet": 80, "accuracy": 0.2},
        {"variant": show.REAL, "seed": 0, "minutes": 5, "frechet": 7, "accuracy": 0.9},
        {"variant": "held-out real (a)", "seed": 0, "minutes": 5, "frechet": 8, "accuracy": 0.8},
    ]
    with open(tmp_path / "scores.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["variant", "seed", "minutes", *show.FIGURES])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "a-seed0").mkdir()
    train.train(replace(small, epochs=1, output_dir=str(tmp_path), run_name="a-seed0"))
    monkeypatch.setattr(sys, "argv", ["show.py", "--out", str(tmp_path), "--pictures", "a"])
    show.main()
    said = capsys.readouterr().out
    assert "| a | 10 | 2 | 0.3 (0.2 to 0.4) | 50 (40 to 60) | - |" in said
    assert f"| {show.REAL} |  | 1 | 0.9 | 7 | - |" in said
    assert "| held-out real (a) |  | 1 | 0.8 | 8 | - |" in said
    for name in ("scores.png", "parts.png", "sounds.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("L").histogram()) == 256
            low, high = picture.convert("L").getextrema()
            assert high - low > 200
    monkeypatch.setattr(sys, "argv", ["show.py", "--out", str(tmp_path), "--pictures", "gone"])
    with pytest.raises(SystemExit, match="gone-seed0"):
        show.main()


def test_bold_is_what_more_seeds_would_hardly_have():
    """Student's t with 2 degrees of freedom: 4.303 times sqrt(1/n + 1/3) deviations."""
    own = [1.0, 2.0, 3.0]

    def beyond(*values, known=(own,)):
        return show.is_beyond(values, own, known)

    assert [beyond(x) for x in (-3.0, -2.9, 6.9, 7.0)] == [True, False, False, True]
    # All of a recipe's variants say how far seeds lie apart: 4 degrees, 2.776 deviations ...
    assert [beyond(x, known=(own, [9.0, 10, 11], [4.0])) for x in (5.2, 5.21)] == [False, True]
    assert [beyond(x - 1, x + 1, known=(own, [9.0, 10, 11])) for x in (4.5, 4.6)] == [False, True]
    # ... of 8 apart where one variant has seeds further apart than the recipe.
    assert not beyond(6.0, 14.0, known=(own, [6.0, 14.0]))
    assert not show.is_beyond([100.0], [1.0], ([100.0], [1.0]))  # no spread is known ...
    assert not show.is_beyond([100.0], [1.0, 1.001], ([100.0], [1.0, 1.001]))  # ... or by luck
    assert not show.is_beyond([], own, (own,))
    assert not show.is_beyond([9.0], [], (own,))


def test_variants_are_shown_at_equal_minutes(tmp_path, capsys, monkeypatch):
    """Beside their recipe as it was then, and not as it was later."""
    rows = [
        {"variant": "best", "seed": 0, "minutes": 10, "frechet": 20},
        {"variant": "best", "seed": 0, "minutes": 20, "frechet": 10},
        {"variant": "best:augment=0", "seed": 0, "minutes": 10, "frechet": 30},
    ]
    with open(tmp_path / "scores.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["variant", "seed", "minutes", *show.FIGURES])
        writer.writeheader()
        writer.writerows(rows)
    words = ["show.py", "--out", str(tmp_path), "--pictures", "--minutes"]
    monkeypatch.setattr(sys, "argv", [*words, "10"])
    show.main()
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:5] for line in said[2:]] == [
        ["| best", "10", "1", "-", "20"],
        ["| best:augment=0", "10", "1", "-", "30"],
    ]
    # What has other minutes than its recipe is not compared with it, nor says how far seeds lie.
    seeds = [("best", 20, 11), ("best", 20, 12), ("best:augment=0", 10, 30.5)]
    rows += [dict(zip(("variant", "minutes", "frechet"), row)) | {"seed": 1} for row in seeds]
    unequal = show.table(show.curves([dict.fromkeys(show.FIGURES, "") | row for row in rows]))
    assert "**" not in unequal
    later = [row | {"minutes": 20} for row in rows if row["variant"] != "best"]
    equal = show.table(show.curves([dict.fromkeys(show.FIGURES, "") | r for r in rows + later]))
    assert "**30.2 (30 to 30.5)**" in equal
    monkeypatch.setattr(sys, "argv", [*words, "15"])
    with pytest.raises(SystemExit, match="scored then"):
        show.main()
