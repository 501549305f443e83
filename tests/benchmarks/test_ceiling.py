"""What vocoders make of real clips, by one set of classifiers."""

from __future__ import annotations

from dataclasses import replace

import ceiling
import numpy as np
import pytest
import soundfile
import torch

import config
import train_vocoder
from soundgan import dataset
from soundgan.audio import open_vocoder, read_clip
from soundgan.config_io import change
from soundgan.errors import UserError
from soundgan.evaluation import classifier, scores
from soundgan.evaluation.evaluator import REAL, ROUND_TRIP, make_evaluator
from soundgan.settings import GRIFFIN_LIM
from soundgan.vocoder_training.networks import build, hyperparams

CPU = torch.device("cpu")


@pytest.fixture
def options(default, tmp_path, monkeypatch) -> ceiling.Options:
    """Two classes of twenty clips, tones and noises; a Griffin-Lim, and a HiFi-GAN of no skill."""
    monkeypatch.setitem(config.RECIPES, default.recipe, change(default, {"sound.frames": 41}))
    monkeypatch.setattr(classifier, "STEPS", 20)
    rng = np.random.default_rng(0)
    t = np.arange(10240) / 22050
    for name in ("noise", "tone"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            tone = np.sin(2 * np.pi * rng.uniform(300, 900) * t)
            wave = 0.3 * (tone if name == "tone" else rng.standard_normal(len(t)))
            soundfile.write(tmp_path / "data" / name / f"take{number}x.wav", wave, 22050)
    folder = tmp_path / "random"
    folder.mkdir()
    sizes = {"channels": 32, "resblock_kernels": (3,), "periods": (2,), "scales": 0}
    about = replace(train_vocoder.usual(), **sizes)
    torch.manual_seed(0)
    torch.save(build(about)[0].state_dict(), folder / "generator.ckpt")
    (folder / "hyperparams.yaml").write_text(hyperparams(about))
    return ceiling.Options(
        data_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "outputs"),
        vocoders=(GRIFFIN_LIM, str(folder)),
        device="cpu",
    )


@pytest.mark.slow
def test_one_evaluator_for_all(options):
    table = ceiling.measure(options)
    folder = options.vocoders[1]
    real, lim, random = REAL, "through griffin-lim", f"through {folder}"
    assert list(table["rows"]) == [real, lim, random]
    assert {row["clips"] for row in table["rows"].values()} == {4}  # a tenth of each class: 2
    assert table["rows"][lim]["sliced"] < table["rows"][random]["sliced"]
    assert table["notes"][0].startswith("| vocoder | judges | clips differ by |")
    near, far = ([c.strip() for c in note.split("|")[1:-1]] for note in table["notes"][2:])
    assert [near[0], far[0]] == [GRIFFIN_LIM, folder]
    assert [near[1], far[1]] == ["-", "-"]  # of four clips, no judge can be tried
    assert float(near[2]) < 0.3 < 1 < float(far[2])
    assert max(map(float, near[3].split(", "))) < min(map(float, far[3].split(", ")))
    text = scores.table(table)
    assert text.splitlines()[1].startswith("held-out real*")

    # As if each vocoder had been scored alone.
    names = ("data_dir", "output_dir")
    own = {name: getattr(options, name) for name in names} | {"vocoder": folder}
    cfg = change(config.RECIPES[options.recipe], own)
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=False, keep=False)
    alone = make_evaluator(cfg, clips, split, open_vocoder(cfg, CPU), CPU)
    row = alone.rows[ROUND_TRIP.format(real)]
    # What judges tell is another thing there: each side goes through the vocoder.
    judged = set(ceiling.AREA)
    figures = {k: v for k, v in row.items() if v is not None and k not in judged}
    assert {k: table["rows"][random][k] for k in figures} == pytest.approx(
        figures, rel=1e-5, abs=1e-6
    )


def test_distances_of_what_is_known(options):
    """Of clips as they are: none; of clips at another level: as much."""
    cfg = change(ceiling.config_of(options), {"sound.frames": 41})
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    some = dataset.recordings(clips, range(40))

    class Kept:
        def __init__(self, gain: float) -> None:
            self.gain, self.name = gain, "kept"

        def __call__(self, mels: torch.Tensor) -> torch.Tensor:
            self.at = getattr(self, "at", 0)
            waves = [read_clip(cfg, r.path, r.number) for r in some[self.at : self.at + len(mels)]]
            self.at = (self.at + len(mels)) % len(some)
            return self.gain * torch.stack(waves)

    same, louder = (ceiling.distances(cfg, Kept(gain), some) for gain in (1.0, np.e))
    assert same[:2] == (0, (0, 0, 0))
    assert 0.85 < louder.clips <= 1  # what is below the floor stays there
    assert min(louder.spectra) > 0.85
    assert max(louder.spectra) <= 1.001


def test_a_vocoder_that_cannot_be_had_ends_it(options):
    with pytest.raises(UserError, match=r"Vocoder \./nowhere cannot be used: there is no such"):
        ceiling.measure(replace(options, vocoders=("./nowhere",)))
    with pytest.raises(UserError, match="raw audio needs no vocoder"):
        ceiling.measure(replace(options, recipe="wavegan"))
    assert ceiling.main(["--vocoders"]) == 2
