"""Checkpoints and continued runs: what is damaged, changed, missing or written by others."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import log_without_seconds, stop_after, weights

import config
import train
from soundgan import config_io, files, tensor_files
from soundgan.config_io import change
from soundgan.console import ProgressLines
from soundgan.dataset import splitting
from soundgan.errors import Interrupted, UserError
from soundgan.report import score_log
from soundgan.report.samples import Samples
from soundgan.run_folder import read_config
from soundgan.training import checkpoints
from soundgan.training.checkpoints import find_checkpoint, save_checkpoint

# ---- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "one bit", "empty", "gone"])
def test_a_damaged_checkpoint_costs_one_epoch_and_nothing_else(
    whole, small, damage, monkeypatch, capsys
):
    train.train(change(small, {"epochs": 2}))
    last = small.run_dir / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":  # a crash between the two renames
        last.unlink()
    else:
        last.write_bytes({"cut": content[:1000], "one bit": content, "empty": b""}[damage])
    continued = train.train(small)
    said = capsys.readouterr().out
    assert "after epoch 1" in said
    assert ("is damaged" in said) == (damage != "gone")
    assert torch.equal(weights(continued.generator), weights(whole.generator))
    assert log_without_seconds(small) == log_without_seconds(whole.cfg)


def test_no_whole_checkpoint_is_said(small):
    train.train(change(small, {"epochs": 2}))
    for name in ("last.pt", "previous.pt"):
        (small.run_dir / "checkpoints" / name).write_bytes(b"rubbish")
    for _ in range(2):  # a restart loop must not begin anew over the run
        with pytest.raises(UserError, match="No whole checkpoint"):
            train.train(small)
    assert len((small.run_dir / "log.csv").read_text().splitlines()) == 3


# ---- a folder without a checkpoint --------------------------------------------------------------


@pytest.mark.parametrize("refused", [{}, {"batch_size": 64}, {"generator.latent_dim": 9}])
def test_weights_without_a_checkpoint_are_refused_and_nothing_is_touched(small, refused):
    train.train(change(small, {"epochs": 2}))
    shutil.rmtree(small.run_dir / "checkpoints")
    before = content_of(small.run_dir)
    again = rf"generator\.safetensors.*--run-name NAME.*--init-from {small.run_dir}"
    with pytest.raises(UserError, match=again):
        train.train(change(small, refused))
    assert content_of(small.run_dir) == before


def test_a_mailed_run_is_not_trained_over(small):
    train.train(change(small, {"epochs": 1}))
    mailed = change(small, {"run_name": "mailed"})
    mailed.run_dir.mkdir()
    for name in ("config.json", "generator.safetensors"):
        shutil.copy(small.run_dir / name, mailed.run_dir)
    before = content_of(mailed.run_dir)
    with pytest.raises(UserError, match="no checkpoint to go on from"):
        train.train(mailed)
    assert content_of(mailed.run_dir) == before  # not even a lock


def test_files_of_something_else_are_not_written_among(small):
    small.run_dir.mkdir(parents=True)
    (small.run_dir / "log.csv").write_text("mine")
    with pytest.raises(UserError, match="holds files of something else"):
        train.train(small)
    assert content_of(small.run_dir) == {"log.csv": b"mine"}


def test_what_a_cleared_folder_still_holds_is_set_aside(small, tmp_path, capsys):
    train.train(change(small, {"epochs": 2}))
    old = (small.run_dir / "samples" / "epoch_0002" / "low.wav").read_bytes()
    log = (small.run_dir / "log.csv").read_bytes()
    shutil.rmtree(small.run_dir / "checkpoints")
    (small.run_dir / "generator.safetensors").unlink()
    before = content_of(small.run_dir)
    with pytest.raises(UserError, match="batch_size is 64"):
        train.train(change(small, {"batch_size": 64}))
    assert content_of(small.run_dir) == before
    other = {"epochs": 2, "generator.latent_dim": 9}
    anew = train.train(change(small, other))
    assert "kept as samples.old1, log.old1.csv" in capsys.readouterr().out
    fresh = train.train(change(small, other | {"output_dir": str(tmp_path / "b")}))
    assert log_without_seconds(anew.cfg) == log_without_seconds(fresh.cfg)
    for path in (fresh.cfg.run_dir / "samples").rglob("*.wav"):
        twin = anew.cfg.run_dir / path.relative_to(fresh.cfg.run_dir)
        assert path.read_bytes() == twin.read_bytes()
    assert (small.run_dir / "samples.old1" / "epoch_0002" / "low.wav").read_bytes() == old
    assert (small.run_dir / "log.old1.csv").read_bytes() == log


def content_of(folder: Path) -> dict[str, bytes]:
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


@pytest.fixture
def scored(small, monkeypatch):
    """A run of four epochs, of which the second has the best scores."""
    kernels = {2: 0.1, 4: 0.2}

    def write(self, generator, epoch, step, weights):
        log = self.open_log(self.cfg, epoch)
        score_log.keep_best(self.cfg.run_dir, log, epoch, kernels[epoch], weights)
        log.add(dict.fromkeys(log.columns, 0.0) | {"epoch": epoch, "kernel": kernels[epoch]})
        log.write()

    monkeypatch.setattr(score_log.ScoreLog, "write", write)
    return change(small, {"score_every": 2})


def test_the_best_checkpoint_is_offered_and_later_rows_are_kept(scored, whole, capsys):
    train.train(scored)
    for name in ("last.pt", "previous.pt"):
        (scored.run_dir / "checkpoints" / name).unlink()
    before = content_of(scored.run_dir)
    with pytest.raises(UserError, match=r"--run-name.*best epoch \(2\)") as said:
        train.train(scored)
    assert content_of(scored.run_dir) == before
    command = re.search(r"cp .*?(?=, then the same command)", str(said.value))[0]
    subprocess.run(shlex.split(command), check=True)
    capsys.readouterr()
    run = train.train(scored)
    assert "Continuing" in (out := capsys.readouterr().out)
    assert "kept in log.old1.csv, scores.old1.csv" in out
    assert (scored.run_dir / "log.old1.csv").read_bytes() == before["log.csv"]
    assert (scored.run_dir / "scores.old1.csv").read_bytes() == before["scores.csv"]
    assert torch.equal(weights(run.generator), weights(whole.generator))
    assert log_without_seconds(scored) == log_without_seconds(whole.cfg)
    after = content_of(scored.run_dir)
    assert {n for n in before if n.startswith("samples/")} == {
        n
        for n in after
        if n.startswith("samples")  # made again, the same, and then only once
    }
    assert after["best.safetensors"] == before["best.safetensors"]


def test_the_best_is_offered_where_the_others_are_damaged(scored, capsys):
    train.train(scored)
    for name in ("last.pt", "previous.pt"):
        (scored.run_dir / "checkpoints" / name).write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"No whole checkpoint.*best epoch \(2\): cp "):
        train.train(scored)


# ---- what a refused or a continued run leaves ----------------------------------------------------


@pytest.mark.slow
def test_a_run_that_goes_on_from_the_checkpoint_before_loses_nothing(small, whole, capsys):
    train.train(change(small, {"epochs": 2}))
    last = small.run_dir / "checkpoints" / "last.pt"
    last.write_bytes(b"rubbish")
    before = content_of(small.run_dir)
    with pytest.raises(UserError, match="batch_size is 64"):
        train.train(change(small, {"batch_size": 64}))
    assert content_of(small.run_dir) == before
    run = train.train(small)
    assert "kept in samples.old1 until they are made again" in capsys.readouterr().out
    after = content_of(small.run_dir)
    assert after["checkpoints/damaged-last.pt"] == b"rubbish"
    assert after["log.old1.csv"] == before["log.csv"]
    assert not (small.run_dir / "samples.old1").exists()  # they came out the same
    assert torch.equal(weights(run.generator), weights(whole.generator))


def test_a_later_set_that_comes_out_otherwise_is_kept(small):
    train.train(change(small, {"epochs": 2}))
    last = small.run_dir / "checkpoints" / "last.pt"
    last.unlink()
    old = (small.run_dir / "samples" / "epoch_0002" / "low.wav").read_bytes()
    train.train(change(small, {"epochs": 2, "generator.latent_spread": 2.0}))
    kept = small.run_dir / "samples.old1" / "epoch_0002"
    assert (kept / "low.wav").read_bytes() == old
    assert (small.run_dir / "samples" / "epoch_0002" / "low.wav").read_bytes() != old


def test_the_first_samples_come_with_a_checkpoint(small, monkeypatch):
    """Weights without one would be refused after a kill."""
    seen = []
    write = Samples.write

    def watched(self, generator, epoch):
        seen.append((epoch, checkpoints.is_saved(small.run_dir)))
        write(self, generator, epoch)

    monkeypatch.setattr(Samples, "write", watched)
    train.train(change(small, {"checkpoint_every": 100}))
    assert seen == [(1, True), (2, True), (4, True)]


def test_constants_that_differ_are_refused_before_anything_is_decoded(small, sounds, capsys):
    train.train(change(small, {"epochs": 1}))
    capsys.readouterr()
    shutil.rmtree(Path(small.output_dir) / ".cache")
    with pytest.raises(UserError, match=r"critic\.kernel 4 -> 6"):
        train.train(change(small, {"critic.kernel": 6}))
    assert "clips in" not in capsys.readouterr().out


def test_a_constant_is_said_to_differ_as_config_py_has_it(small):
    """Also where `train()` is called, and not the command."""
    train.train(change(small, {"epochs": 1}))
    content = read_config(small.run_dir)
    assert content["changed"] == config_io.changes(
        config.RECIPES["sn-wgan-gp"], change(small, {"epochs": 1})
    )
    assert content["changed"]["generator.latent_dim"] == 8
    own = change(small, {"recipe": "mine"})  # no recipe of config.py
    train.train(change(own, {"run_name": "a", "epochs": 1}), {"seed": 42})
    train.train(change(own, {"run_name": "a", "epochs": 2}))
    assert read_config(change(own, {"run_name": "a"}).run_dir)["changed"] == {"seed": 42}


# ---- another batch -------------------------------------------------------------------------------


def test_another_batch_size_begins_the_epoch_again_and_says_so(small, monkeypatch, capsys):
    stop_after(6, monkeypatch)
    with pytest.raises(Interrupted):
        train.train(small)
    monkeypatch.undo()
    run = train.train(change(small, {"batch_size": 6}))
    said = capsys.readouterr().out
    assert "batch_size 4 -> 6, as you ask for; epoch 2 had 2 steps and begins again." in said
    assert (run.epoch, run.step) == (4, 6 + 3 * 3)  # three steps an epoch
    assert [row[:2] for row in log_without_seconds(small)[1:]] == [
        *(["1", "4"], ["2", "9"], ["3", "12"], ["4", "15"])
    ]
    train.train(change(small, {"batch_size": 3, "epochs": 5}))
    assert "batch_size 6 -> 3, as you ask for.\n" in capsys.readouterr().out


def test_what_is_held_out_stands_in_the_checkpoint_and_in_the_config(small, monkeypatch, capsys):
    monkeypatch.setattr(splitting, "HOLD_OUT_FROM", 2)
    cfg = change(small, {"epochs": 1, "holdout": 0.3})
    train.train(cfg)
    listed = (cfg.run_dir / "held_out.csv").read_bytes()
    rows = find_checkpoint(cfg.run_dir).state["held_out"]
    assert len(rows) == 6
    assert read_config(cfg.run_dir)["held_out"] == splitting.summary(rows)
    for damage in (b"file,clip,source\r\n", listed[:-20]):
        (cfg.run_dir / "held_out.csv").write_bytes(damage)
        train.train(cfg)
        assert (cfg.run_dir / "held_out.csv").read_bytes() == listed
        assert re.search(r"restored .*checkpoint \(6 clips\)", capsys.readouterr().out)


# ---- what a checkpoint holds ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("epoch", "1", "epoch: it is no number from 0 up"),
        ("step", -1, "step: it is no number"),
        ("seconds", float("nan"), "seconds: it is no number"),
        ("data", 7, "data: it is no str"),
        ("classes", "high", "classes: they are no list of names"),
        ("sums", [0.0], "sums: is no tensor"),
        ("random", {"torch": 3}, "random: it is no random state"),
        ("generator", {}, "generator: it is of another network"),
        ("critic", 3, "critic: it is no table of tensors"),
        ("critic_optimiser", {"state": {}, "param_groups": []}, "critic_optimiser: its groups"),
        ("held_out", [["a", "b", "c"]], "held_out: they are no rows"),
        ("held_out_digests", "abc", "held_out_digests: it is no list of texts"),
        ("log", {"columns": ["epoch"], "rows": 3}, "log: its rows are no numbers"),
        ("scaler", {"scale": "x"}, "scaler: it is no table of numbers"),
        ("config", 7, r"it lacks config\)"),
    ],
)
def test_an_entry_of_another_kind_is_refused_in_one_sentence(small, name, value, reason):
    train.train(change(small, {"epochs": 1}))
    save_checkpoint(small.run_dir, find_checkpoint(small.run_dir).state | {name: value})
    before = content_of(small.run_dir)
    with pytest.raises(UserError, match=reason) as error:
        train.train(small)
    assert "\n" not in str(error.value)
    assert content_of(small.run_dir) == before


def test_numbers_that_are_none_and_other_shapes_are_refused(small):
    train.train(change(small, {"epochs": 1}))
    state = find_checkpoint(small.run_dir).state
    first = next(iter(state["generator"]))
    good = state["generator"][first].clone()
    for bad, reason in (
        (good * float("nan"), "holds NaN or Inf"),
        (good[..., :1], "has the shape"),
        (good.double(), "has values of torch.float64, not torch.float32"),
    ):
        state["generator"][first] = bad
        save_checkpoint(small.run_dir, state)
        with pytest.raises(UserError, match=rf"generator: {first} {reason}"):
            train.train(small)
    state["generator"][first] = good
    state["generator_optimiser"]["state"][0]["exp_avg"] = torch.zeros(3)
    save_checkpoint(small.run_dir, state)
    with pytest.raises(UserError, match="generator_optimiser: exp_avg of weight 0 has the shape"):
        train.train(small)


def test_a_file_of_tensors_that_is_no_checkpoint_is_said(small):
    train.train(change(small, {"epochs": 1}))
    save_checkpoint(small.run_dir, {"weights": torch.zeros(3)})
    with pytest.raises(UserError, match=r"written by another program.*it lacks config, generator"):
        train.train(small)
    for name in ("last.pt", "previous.pt"):
        tensor_files.write(small.run_dir / "checkpoints" / name, torch.zeros(3))
    with pytest.raises(UserError, match="No whole checkpoint"):
        train.train(small)


# ---- continuing ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_other_files_are_said_and_heard(small, sounds, capsys):
    train.train(change(small, {"epochs": 1}))
    real = (small.run_dir / "samples" / "real" / "low.wav").read_bytes()
    (sounds / "low" / "0.wav").unlink()
    run = train.train(change(small, {"epochs": 2}))
    assert "The files are not those of the checkpoint" in capsys.readouterr().out
    assert (small.run_dir / "samples" / "real" / "low.wav").read_bytes() != real
    assert run.epoch == 2


def test_a_closed_terminal_does_not_keep_a_run_from_saving(small, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    class Closed(ProgressLines):
        update = set_postfix = write = closed

    monkeypatch.setattr(train, "progress", lambda *a, **k: Closed(*a, **k))
    stop_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        train.train(small)
    assert find_checkpoint(small.run_dir).state["step"] == 3


def test_samples_that_lack_are_made_on_continuing(small):
    train.train(change(small, {"epochs": 2}))
    folder = small.run_dir / "samples" / "epoch_0002"
    before = {p.name: p.read_bytes() for p in folder.glob("*.wav")}
    shutil.rmtree(folder)
    train.train(change(small, {"epochs": 2}))
    assert {p.name: p.read_bytes() for p in folder.glob("*.wav")} == before


def test_changed_constants_and_classes_are_refused_by_name(small, sounds):
    train.train(change(small, {"epochs": 1}))
    before = (small.run_dir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"seed 42 -> 1; objective\.gp_weight 4\.0 -> 5\.0"):
        train.train(change(small, {"objective.gp_weight": 5.0, "seed": 1}))
    (sounds / "mid").rename(sounds / "middle")
    with pytest.raises(UserError, match=r"gone: \['mid'\], new: \['middle'\]"):
        train.train(small)
    assert (small.run_dir / "config.json").read_bytes() == before


def test_a_checkpoint_of_before_a_constant_existed_goes_on(small):
    """With the constant's default, which is what that version did; not with another value."""
    train.train(change(small, {"epochs": 1}))
    kept = find_checkpoint(small.run_dir).state
    added = ("r1_r2_by", "r1_r2_step")
    for name in added:
        del kept["config"]["objective"][name]
    save_checkpoint(small.run_dir, kept)
    with pytest.raises(UserError, match=r"objective\.r1_r2_by gradient -> difference"):
        train.train(change(small, {"epochs": 2, "objective.r1_r2_by": "difference"}))
    assert train.train(change(small, {"epochs": 2})).epoch == 2
    assert set(added) <= set(find_checkpoint(small.run_dir).state["config"]["objective"])


def test_what_may_change_may_change(small):
    train.train(change(small, {"epochs": 1}))
    run = train.train(change(small, {"epochs": 2, "sample_every": 1, "checkpoint_every": 2}))
    assert run.epoch == 2


def test_a_finished_run_says_so_and_how_to_extend_it(small, capsys):
    cfg = change(small, {"epochs": 2})
    train.train(cfg)
    capsys.readouterr()
    train.train(cfg)
    said = capsys.readouterr().out
    assert "is finished after epoch 2" in said
    assert "--epochs 4" in said


def test_one_process_a_run(small):
    with files.locked(small.run_dir), pytest.raises(UserError, match="Another process"):
        train.train(small)
