"""Training a vocoder of one's own: small networks of SpeechBrain's, on tones."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import weights
from speechbrain.lobes.models import HifiGAN as hifigan
from stopped import stopped_after
from tiny import tiny

import config
import train_vocoder
from soundgan import audio, dataset
from soundgan.config_io import change
from soundgan.dataset import splitting
from soundgan.errors import Interrupted, UserError
from soundgan.settings import Config
from soundgan.training.checkpoints import find_checkpoint, save_checkpoint
from soundgan.training.log import read_log
from soundgan.vocoder_training import training
from soundgan.vocoder_training.folder import load_source
from soundgan.vocoder_training.losses import Losses
from soundgan.vocoder_training.networks import build
from soundgan.vocoder_training.run import Run
from soundgan.vocoder_training.settings import Options, spectrograms_of, waveforms_of
from soundgan.vocoder_training.steps import segments
from soundgan.vocoder_training.validation import Validation, resynthesise

CPU = torch.device("cpu")
FRAMES = 41  # of the recipe's clips here: 40 hops, 0.46 s


@pytest.fixture
def recipe(default) -> Config:
    """The default recipe with short clips."""
    return change(default, {"sound.frames": FRAMES})


@pytest.fixture
def train(recipe) -> Callable[[Options], Run]:
    """Train for the clips of that recipe."""
    return partial(training.train, recipes=config.RECIPES | {recipe.recipe: recipe})


@pytest.fixture
def options(sounds, tmp_path) -> Options:
    """All parts with tiny numbers: some 70 000 weights against 8 000 000 of one period."""
    return tiny(
        "hifigan",
        sounds,
        tmp_path,
        learning_rate=2e-3,
        channels=32,
        resblock_kernels=(3,),
        periods=(11,),
        scales=0,
    )


def same(a: object, b: object) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# ---- the parts ----------------------------------------------------------------------------------


def test_the_published_sizes():
    generator, critic = build(train_vocoder.usual())
    assert sum(p.numel() for p in generator.parameters()) == 13_936_130
    whole = sum(p.numel() for p in hifigan.HifiganDiscriminator().parameters())
    assert sum(p.numel() for p in critic.parameters()) == whole == 70_724_591
    assert len(critic(torch.randn(1, 1, 8192))[0]) == 8


def test_the_mel_loss_is_speechbrains(options, recipe):
    theirs = hifigan.L1SpecLoss(win_length=1024, mel_fmax=11025.0)
    ours = Losses(options, spectrograms_of(recipe), CPU).transform
    fake, real = torch.rand(2, 3, 1, 8192, generator=torch.Generator().manual_seed(0)) - 0.5
    ours = torch.nn.functional.l1_loss(ours(fake[:, 0]), ours(real[:, 0]))
    torch.testing.assert_close(ours, theirs(fake, real), rtol=1e-5, atol=1e-6)


def test_the_losses_by_hand(options, recipe):
    losses = Losses(options, spectrograms_of(recipe), CPU)
    real, fake = [torch.full((2, 3), 0.5), torch.full((2, 5), 1.0)], [torch.zeros(2, 3)] * 2
    assert losses.critic(real, fake).item() == pytest.approx(0.25)
    wave = torch.randn(2, 1, 2048)
    near = ([torch.full((2, 3), 0.5)], [[torch.ones(4), torch.zeros(2)]])
    far = ([], [[torch.zeros(4), torch.full((2,), 3.0)]])
    whole, adversarial, features, mel = losses.generator(wave, wave, near, far)
    assert adversarial.item() == pytest.approx(0.25)
    assert features.item() == pytest.approx(1 + 3)  # the sum over layers, not the mean
    assert mel.item() == 0
    assert whole.item() == pytest.approx(0.25 + 2 * 4)


def test_the_mels_of_segments_are_those_of_their_clips(options, recipe):
    """Sound and mels belong together: at a hop, the mels are those of the whole clip."""
    run = Run.start(options, recipe, CPU)
    x = torch.randn(
        6, 1, run.waveforms.sound.clip_samples, generator=torch.Generator().manual_seed(1)
    )
    real, mel = segments(run, x)
    assert real.shape == (6, 1, 2048)
    assert mel.shape == (6, 80, 8)
    for wave, segment, own in zip(x[:, 0], real[:, 0], mel):
        start = int((wave.unfold(0, 2048, 1) == segment).all(1).nonzero())
        edge = 512
        around = torch.nn.functional.pad(wave[None], (edge, edge), mode="reflect")
        whole = run.transform.mel_within(around[:, start % 256 :])[0]
        expected = whole[:, start // 256 : start // 256 + 8].clamp(min=1e-5).log()
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


# ---- training -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_and_any_run_can_play_through_it(options, recipe, train):
    run = train(replace(options, steps=40, save_every=10, sample_every=40))
    rows = read_log(run.run_dir / "log.csv", 40, by="step")
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["mel"] < 0.75 * rows[0]["mel"]
    assert rows[-1]["held_out_mel"] < 0.8 * rows[0]["held_out_mel"]

    cfg = change(spectrograms_of(recipe), {"vocoder": str(run.run_dir)})
    vocoder, note = audio.load_vocoder(cfg, CPU)
    assert isinstance(vocoder, audio.HifiGan)
    assert note == ""
    waves = _validation(options, recipe).examples
    played = vocoder(audio.Transform(cfg)(waves))
    assert played.shape == (3, FRAMES * 256)
    torch.testing.assert_close(played, resynthesise(run, waves), rtol=1e-4, atol=1e-5)


def _validation(options: Options, recipe: Config) -> Validation:
    cfg = waveforms_of(options, recipe)
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=False, keep=False)
    return Validation(cfg, clips, split, options.judge_clips)


def test_the_rate_falls(options, train):
    run = train(replace(options, steps=3, decay=0.5, decay_every=1))
    assert run.generator_optimiser.param_groups[0]["lr"] == pytest.approx(2e-3 / 4)
    assert run.critic_optimiser.param_groups[0]["lr"] == pytest.approx(2e-3 / 4)


@pytest.mark.slow
def test_a_stopped_run_is_the_same_run(options, train, monkeypatch):
    """Stopped by a signal in the middle of an epoch and between two rows, then continued."""
    whole = train(replace(options, run_name="whole"))
    step, full_step = [], training.full_step

    def stopping(run: Run, x: torch.Tensor) -> torch.Tensor:
        step.append(run.step)
        if len(step) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return full_step(run, x)

    monkeypatch.setattr(training, "full_step", stopping)
    with pytest.raises(Interrupted) as stop:
        train(options)
    assert stop.value.exit_code == 75
    assert "after step 3" in str(stop.value)
    assert (Path(options.output_dir) / "vocoder" / "generator.ckpt").is_file()
    parts = train(options)
    assert step == [0, 1, 2, 3, 4, 5]

    states = [find_checkpoint(run.run_dir).state for run in (whole, parts)]
    for state in states:
        del state["seconds"], state["log"], state["options"]["run_name"]
    assert same(*states)
    logs = [read_log(run.run_dir / "log.csv", 6, by="step") for run in (whole, parts)]
    for row in (*logs[0], *logs[1]):
        del row["seconds"]
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [4, 6]
    assert (parts.run_dir / "checkpoints" / "previous.pt").is_file()
    for name in ("step_000004", "step_000006", "original"):
        sets = [sorted((run.run_dir / "samples" / name).glob("*.wav")) for run in (whole, parts)]
        assert [p.stem for p in sets[0]] == ["high", "low", "mid"]
        assert [p.read_bytes() for p in sets[0]] == [p.read_bytes() for p in sets[1]]
    one, other = (torch.load(run.run_dir / "generator.ckpt") for run in (whole, parts))
    assert same(one, other)
    assert same(one, dict(whole.generator.state_dict()))


def test_checkpoints_of_before_there_were_kinds_go_on(options, train):
    run = train(replace(options, steps=1))
    state = find_checkpoint(run.run_dir).state
    del state["options"]["kind"]
    save_checkpoint(run.run_dir, state)
    assert train(replace(options, steps=2)).step == 2


@pytest.mark.slow
def test_fewer_clips_than_before_are_trained_on(options, train, sounds, monkeypatch):
    """Stopped after more steps of an epoch than an epoch has when the run is continued."""
    with stopped_after(2, monkeypatch):
        train(options)
    for path in [p for p in sounds.rglob("*.wav") if int(p.stem) > 1]:
        path.unlink()
    run = train(options)  # six clips: one step an epoch
    assert (run.step, run.epoch, run.step_in_epoch) == (6, 5, 0)


@pytest.mark.slow
def test_a_finished_run_says_so_and_is_extended(options, train, capsys):
    train(replace(options, steps=2))
    assert train(replace(options, steps=2)).step == 2
    assert "is finished after step 2" in capsys.readouterr().out
    assert train(replace(options, steps=3)).step == 3


@pytest.mark.slow
def test_it_begins_with_another(options, recipe, train):
    first = train(replace(options, run_name="first", steps=1))
    run = Run.start(replace(options, seed=1), recipe, CPU)
    assert not torch.equal(weights(run.generator), weights(first.generator))
    load_source(str(first.run_dir), run.kind, run.generator)
    assert torch.equal(weights(run.generator), weights(first.generator))
    assert all(p.requires_grad for p in run.generator.parameters())
    further = train(replace(options, source=str(first.run_dir), steps=1))
    assert not torch.equal(weights(further.generator), weights(first.generator))


@pytest.mark.slow
def test_what_is_held_out_is_never_seen(options, recipe, train, tmp_path, monkeypatch):
    """The same clips as train.py holds out, and no sample of them in any step."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "sources" / "dog"
    folder.mkdir(parents=True)
    for source in range(12):
        for take in "ab":
            wave = 0.1 * rng.standard_normal(11025) + source  # the level tells the source
            soundfile.write(folder / f"s{source}-{take}.wav", wave, 22050, subtype="FLOAT")
    options = replace(options, data_dir=str(folder.parent), steps=20, save_every=20)

    places = {"data_dir": options.data_dir, "output_dir": options.output_dir}
    of_train = change(recipe, places)
    clips = dataset.load(of_train, dataset.find_clips(of_train))
    apart = dataset.split(of_train, clips, known=False, keep=False).held_out
    names = {recording.path.name for recording in apart}
    assert len(names) == 4  # a tenth of 24 is 3: two whole sources

    seen, full_step = set(), training.full_step

    def watching(run: Run, x: torch.Tensor) -> torch.Tensor:
        seen.update(x[:, 0].mean(1).round().int().tolist())
        return full_step(run, x)

    monkeypatch.setattr(training, "full_step", watching)
    run = train(options)
    held = {int(name[1:].split("-")[0]) for name in names}
    assert seen == set(range(12)) - held
    with open(run.run_dir / "held_out.csv", newline="") as file:
        assert {Path(row["file"]).name for row in csv.DictReader(file)} == names
    validation = _validation(options, recipe)
    assert set(validation.held_out.mean(1).round().int().tolist()) == held


# ---- what can go wrong --------------------------------------------------------------------------


@pytest.fixture
def refused(train) -> Callable[..., None]:
    """Expect a training to be refused with one sentence that has all these parts."""

    def refused(options: Options, *parts: str) -> None:
        with pytest.raises(UserError) as error:
            train(options)
        for part in parts:
            assert part in str(error.value)
        assert "\n" not in str(error.value)

    return refused


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"recipe": "cgan"}, ("recipe", "sn-wgan-gp, frequency-quest")),
        ({"segment": 1000}, ("segment", "256")),
        ({"segment": 256 * 100}, ("segment", str(40 * 256))),
        ({"upsample_factors": (8, 8, 2)}, ("upsample_factors", "256")),
        ({"upsample_kernels": (16, 15, 4, 4)}, ("upsample_kernels",)),
        ({"channels": 24}, ("channels", "16")),
        ({"periods": (), "scales": 0}, ("periods",)),
        ({"learning_rate": float("nan")}, ("--learning-rate",)),
        ({"batch_size": 100}, ("--batch-size 18",)),
        ({"run_name": "a/b"}, ("--run-name",)),
    ],
)
def test_constants_that_cannot_work(options, refused, changes, parts):
    refused(replace(options, **changes), *parts)


def test_sources_that_are_none(options, train, refused, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    refused(replace(options, source="./nowhere"), "--from ./nowhere", "no such folder")
    refused(replace(options, source=str(tmp_path)), "no hyperparams.yaml and no generator.ckpt")
    name = "speechbrain/tts-hifigan-ljspeech"
    refused(replace(options, source=name), f"--from {name}", "the hub cannot be reached")
    small = train(replace(options, run_name="small", steps=1))
    other = replace(options, source=str(small.run_dir), channels=64)
    refused(other, "its generator has other sizes", "--channels")


def test_another_training_is_refused(options, train, refused):
    train(replace(options, steps=1))
    refused(replace(options, segment=4096), "segment 2048 -> 4096", "--run-name")
    refused(replace(options, source="x/y"), "from  -> x/y")


def content_of(folder: Path) -> dict[str, bytes]:
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_weights_without_a_checkpoint_are_refused_and_nothing_is_touched(options, train, refused):
    run = train(replace(options, steps=1))
    shutil.rmtree(run.run_dir / "checkpoints")
    before = content_of(run.run_dir)
    for changes in ({}, {"channels": 64}, {"batch_size": 100}):
        again = f"--from {run.run_dir}"
        refused(replace(options, **changes), "generator.ckpt", "--run-name NAME", again)
        assert content_of(run.run_dir) == before
    (run.run_dir / "generator.ckpt").unlink()
    train(replace(options, steps=1, channels=64))  # nothing is lost then


def test_a_refused_command_leaves_a_started_run_as_it_was(options, train, refused):
    run = train(replace(options, steps=1))
    (run.run_dir / "checkpoints" / "previous.pt").write_bytes(b"rubbish")
    before = content_of(run.run_dir)
    refused(replace(options, batch_size=100), "--batch-size 18")
    assert content_of(run.run_dir) == before


def test_another_batch_size_begins_the_epoch_again(options, train, capsys):
    train(replace(options, steps=2))
    run = train(replace(options, steps=5, batch_size=6))  # three steps an epoch
    assert "batch_size 4 -> 6, as you ask for; the epoch had 2 steps" in capsys.readouterr().out
    assert (run.step, run.epoch, run.step_in_epoch) == (5, 1, 0)


def test_weights_that_a_kill_kept_from_being_written_are_written(options, train):
    run = train(replace(options, steps=1))
    path = run.run_dir / "generator.ckpt"
    content = path.read_bytes()
    for damage in (None, b"of the step before"):
        path.unlink() if damage is None else path.write_bytes(damage)
        train(replace(options, steps=1))
        assert path.read_bytes() == content


def test_an_entry_of_another_kind_is_refused(options, train, refused):
    run = train(replace(options, steps=1))
    state = find_checkpoint(run.run_dir).state
    for name, value, reason in (
        ("step", "1", "step: it is no number"),
        ("generator", {}, "generator: it is of another network"),
        ("critic_optimiser", [], "critic_optimiser: it is no state of an optimiser"),
        ("random", 3, "random: it is no random state"),
        ("options", 3, "it lacks options"),
    ):
        save_checkpoint(run.run_dir, state | {name: value})
        refused(options, reason)


def test_a_vocoder_that_goes_on_knows_its_sounds(options, tmp_path, monkeypatch, capsys):
    """Not the demo set, and what it holds out from its checkpoint."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    small = ["--output-dir", options.output_dir, "--device", "cpu", "--segment", "2048"]
    small += ["--batch-size", "4", "--channels", "32", "--resblock-kernels", "3"]
    small += ["--periods", "11", "--scales", "0", "--judge-clips", "2"]
    assert train_vocoder.main([*small, "--data-dir", options.data_dir, "--steps", "1"]) == 0
    capsys.readouterr()
    assert train_vocoder.main([*small, "--steps", "2"]) == 0
    assert f"those of the run: {options.data_dir}" in capsys.readouterr().out
    assert not (tmp_path / "elsewhere" / "data").exists()
    run_dir = Path(options.output_dir) / "vocoder"
    about = json.loads((run_dir / "vocoder.json").read_text())
    assert about["data_root"] == options.data_dir
    state = find_checkpoint(run_dir).state
    assert (state["step"], state["held_out"]) == (2, [])
    assert about["held_out"] == splitting.summary([])


def test_numbers_that_diverge(options, train):
    with pytest.raises(UserError, match="became NaN or Inf") as error:
        train(replace(options, learning_rate=1e30))
    assert error.value.exit_code == 3
    assert not (Path(options.output_dir) / "vocoder" / "generator.ckpt").exists()


def test_the_command_line(options, capsys):
    arguments = ["--from", "./nowhere", "--data-dir", options.data_dir, "--device", "cpu"]
    arguments += ["--output-dir", options.output_dir, "--segment", "2048", "--batch-size", "4"]
    assert train_vocoder.main(arguments) == 2
    assert "Error: --from ./nowhere cannot be used" in capsys.readouterr().err


def test_the_folder_says_what_it_is(options, train):
    run = train(replace(options, steps=1))
    about = json.loads((run.run_dir / "vocoder.json").read_text())
    assert about["options"]["channels"] == 32
    assert about["classes"] == ["high", "low", "mid"]
    assert "No clip is held out" in about["split"]
