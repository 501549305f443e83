"""Comparing variants on the clock, and showing what came out."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import compare
import pytest
import show
import torch
from conftest import shrunk
from PIL import Image

import config
import train
from soundgan import command_line, config_io
from soundgan.errors import UserError
from soundgan.settings import GRIFFIN_LIM, Config
from soundgan.training.objectives import Relativistic, WassersteinGP
from soundgan.training.run import Run

RESULTS = Path(compare.ROOT, "benchmarks", "results")


def parsed(*words: str) -> Config:
    return command_line.parse(words, config.RECIPES, config.SUMMARIES, config.RECIPE)


@pytest.mark.parametrize("name", [*config.RECIPES, *compare.ABLATION])
def test_every_variant_is_what_its_name_says(name):
    options = compare.Options(data_dir="d", holdout_dir="h", out="o")
    cfg = parsed(*compare.words(name, 3, options))
    recipe, _, changes = name.partition(":")
    assert (cfg.recipe, cfg.seed) == (recipe, 3)
    usual, ours = config_io.flat(config.RECIPES[recipe]), config_io.flat(cfg)
    of_the_run = {*config_io.OF_A_RUN, "epochs", "vocoder"}
    changed = {k for k in usual.keys() | ours.keys() if usual.get(k) != ours.get(k)} - of_the_run
    names = {change.partition("=")[0] for change in changes.split(",") if change}
    # What a part of another kind does not know is gone with the old one.
    assert {n.removesuffix(".kind") for n in changed if n in ours} == names
    own = config.RECIPES[recipe].vocoder
    assert cfg.vocoder == (GRIFFIN_LIM if "/" in own else own)


@pytest.mark.parametrize("name", compare.ABLATION)
def test_every_part_can_be_taken_away(name, sounds, tmp_path):
    """What is left trains: no weight of either network is one that no loss asks for."""
    tiny = shrunk(config.RECIPES[compare.recipe_of(name)], sounds, tmp_path / "outputs")
    words = (tiny.recipe, *compare.flags_of(name), "--batch-size", str(tiny.batch_size))
    cfg = command_line.parse(words, {tiny.recipe: tiny}, config.SUMMARIES, tiny.recipe)
    run = Run.start(cfg, list("abc"), torch.device("cpu"))
    labels = torch.tensor([0, 1, 2, 0])
    metrics = train.full_step(run, torch.randn(4, *tiny.shape), labels)
    assert metrics.isfinite().all()
    for network in (run.critic, run.generator):
        assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_a_part_of_another_kind_keeps_what_both_know():
    best = config.RECIPES["best"].objective
    cfg = parsed("best", *compare.flags_of("best:objective=WassersteinGP,objective.gp_weight=10"))
    shared = {"r1_r2_weight", "r1_r2_every", "class_weight", "latent_weight", "l1_weight"}
    assert cfg.objective == WassersteinGP(gp_weight=10.0, **{n: getattr(best, n) for n in shared})
    assert isinstance(cfg.objective.gp_weight, float)
    added = compare.added("objective", "objective.r1_r2_weight").partition(":")[2]
    assert added == "objective=Relativistic,objective.r1_r2_weight=100.0"
    cfg = parsed(*compare.flags_of(f"sn-wgan-gp:{added}"), "--epochs", "3")
    assert cfg.objective == Relativistic(r1_r2_weight=100.0, l1_weight=1.0)
    assert cfg.epochs == 3
    for wrong, said in (
        ("bset", "did you mean best"),
        ("best:objective=Wasserstein", "did you mean WassersteinGP"),
        ("best:objective=WassersteinGP,objective.weight_clip=1", "belongs to WassersteinClip"),
        ("best:objective.gp_weight=1", "WassersteinGP"),
    ):
        with pytest.raises(UserError, match=said):
            parsed(compare.recipe_of(wrong), *compare.flags_of(wrong))


def test_what_a_variant_changes_has_the_last_word():
    cfg = parsed(*compare.words("best:vocoder=outputs/vocoder,seed=7", 0, compare.Options()))
    assert (cfg.vocoder, cfg.seed) == ("outputs/vocoder", 7)


def test_what_was_measured_can_be_measured_again():
    """The variants of the kept results are known by the names that they have there."""
    for table in RESULTS.glob("*/scores.csv"):
        names = {row["variant"] for row in compare.rows_of(table)}
        trained = [name for name in names if not name.startswith(show.REAL)]
        assert len(trained) > 20
        assert set(trained) <= {*config.RECIPES, *compare.ABLATION}
        text = table.with_name("README.md").read_text()
        assert show.table(show.curves(compare.rows_of(table))).splitlines()[0] in text
        assert [name for name in trained if f"| {name} |" not in text] == []


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
        scores = {"step": 7, "rows": {compare.GENERATED: made, show.REAL: made}}
        scores["per_class"] = {"a": {"diversity": 0.7}, "b": {"diversity": None}}
        (folder / "scores.json").write_text(compare.json.dumps(scores))

    monkeypatch.setattr(compare.subprocess, "run", scored)
    options = compare.Options(out=str(tmp_path), minutes=(1, 3))
    table = tmp_path / "scores.csv"
    compare.compare("best", 0, options, table)
    assert trained == [60, 120]
    compare.compare("best", 0, replace(options, minutes=(1, 3, 4)), table)
    assert trained == [60, 120, 60]
    compare.compare("best:critic.augment=0", 0, replace(options, minutes=(1,)), table)
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
        ("best:critic.augment=0", 1, "0.7"),
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


def test_a_table_of_before_a_figure_was_added_goes_on(tmp_path):
    """Its rows stay what they were, and lack the figure; those of equally many sounds are said."""
    table = tmp_path / "scores.csv"
    old = [name for name in compare.COLUMNS if not name.startswith(("auc", compare.AT_A_TIME))]
    row = {"variant": "best", "seed": "0", "minutes": "5", "frechet": "20.5"}
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, old)
        writer.writeheader()
        writer.writerow(row)
    assert "auc" not in show.table(show.curves(compare.rows_of(table)))
    assert show.numbers(compare.rows_of(table)) == ""
    scores = {"step": 7, "at_a_time": 80}
    for minutes in (10, 20):
        compare.add(table, "best", 0, minutes, scores, {"frechet": 10.0, "auc": 0.75})
    earlier, *later = compare.rows_of(table)
    assert {name: value for name, value in earlier.items() if value} == row
    assert [(r["minutes"], r["frechet"], r["auc"], r["at_a_time"]) for r in later] == [
        *(("10", "10.0", "0.75", "80"), ("20", "10.0", "0.75", "80"))
    ]
    assert set(later[0]) == set(compare.COLUMNS)
    assert "| best | 20 | 1 | - | 10 |" in show.table(show.curves(later))


def test_rows_of_other_numbers_of_sounds_are_not_compared():
    rows = [{"variant": "best", "at_a_time": "80"}, {"variant": "cgan", "at_a_time": "80"}]
    assert show.numbers(rows) == "Frechet distance and coverage: of 80 sounds a row."
    said = show.numbers([*rows, {"variant": "wavegan", "at_a_time": "43"}])
    assert "cannot be compared between these rows (best: 80, cgan: 80, wavegan: 43 sounds)" in said


@pytest.mark.slow
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
        {"variant": "best:critic.augment=0", "seed": 0, "minutes": 10, "frechet": 30},
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
        ["| best:critic.augment=0", "10", "1", "-", "30"],
    ]
    # What has other minutes than its recipe is not compared with it, nor says how far seeds lie.
    seeds = [("best", 20, 11), ("best", 20, 12), ("best:critic.augment=0", 10, 30.5)]
    rows += [dict(zip(("variant", "minutes", "frechet"), row)) | {"seed": 1} for row in seeds]
    unequal = show.table(show.curves([dict.fromkeys(show.FIGURES, "") | row for row in rows]))
    assert "**" not in unequal
    later = [row | {"minutes": 20} for row in rows if row["variant"] != "best"]
    equal = show.table(show.curves([dict.fromkeys(show.FIGURES, "") | r for r in rows + later]))
    assert "**30.2 (30 to 30.5)**" in equal
    monkeypatch.setattr(sys, "argv", [*words, "15"])
    with pytest.raises(SystemExit, match="scored then"):
        show.main()
