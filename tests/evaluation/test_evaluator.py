"""The evaluator on sounds whose quality is known."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import shrunk
from torch import Tensor
from varied_tones import CLASSES, varied_tones

import config
from soundgan import dataset, tensor_files
from soundgan.audio import GriffinLim, Transform, read_clip
from soundgan.evaluation import classifier
from soundgan.evaluation import evaluator as references
from soundgan.evaluation.evaluator import DRAWS, REAL, Evaluator, make_evaluator
from soundgan.evaluation.features import SoundSet, measure
from soundgan.evaluation.metrics import Comparison
from soundgan.evaluation.scores import COPY_Z, GENERATED, score_waves
from soundgan.settings import Config

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CLIPS = 30  # of a class: three are held out


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluator, Config]:
    """An evaluator of three classes of tones, with classifiers that learn them in seconds."""
    folder = tmp_path_factory.mktemp("scorer")
    for name, waves in varied_tones(CLIPS, 0).items():
        (folder / "data" / name).mkdir(parents=True)
        for number, wave in enumerate(waves):
            soundfile.write(folder / "data" / name / f"take{number}x.wav", wave, 8000)
    cfg = shrunk(config.RECIPES["sn-wgan-gp"], folder / "data", folder / "outputs")
    cfg = replace(cfg, score_clips=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STEPS", 80)
        patch.setattr(classifier, "SEEDS", (0, 1))
        clips = dataset.load(cfg, dataset.find_clips(cfg))
        split = dataset.split(cfg, clips, known=False)
        vocoder = GriffinLim(cfg, torch.device("cpu"))
        evaluator = make_evaluator(cfg, clips, split, vocoder, torch.device("cpu"))
    return evaluator, cfg


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 80)
    monkeypatch.setattr(classifier, "SEEDS", (0, 1))


def fresh(evaluator: Evaluator, seed: int = 1) -> Tensor:
    """Real sounds that are new to it, as many a class as the evaluator asks for: `(N, L)`."""
    made = varied_tones(evaluator.counts[0], seed)
    waves = [wave for name in sorted(CLASSES) for wave in made[name]]  # in a run's order of classes
    return torch.from_numpy(np.stack(waves))


def test_real_sounds_score_as_real_ones(scorer: tuple[Evaluator, Config], quick: None) -> None:
    evaluator, _ = scorer
    scores = score_waves(evaluator, fresh(evaluator))
    made, real = scores["rows"][GENERATED], scores["rows"][REAL]
    assert made["accuracy"] > 0.95
    assert real["accuracy"] > 0.95
    assert made["kernel_low"] < 1  # near zero: a hundredth of the largest possible distance
    assert abs(made["kernel"]) < 3
    assert made["coverage"] > 0.7 * real["coverage"]
    assert made["cas"] > 0.9
    assert 0.5 < made["copy_ratio"] < 2
    assert 0.6 < made["diversity"] < 1.6
    assert made["silent"] == made["clipped"] == 0
    assert not any("Collapse" in note or "Copying" in note for note in scores["notes"])
    assert scores["held_out"] == {"clips": 9, "training_clips": 81, "by": evaluator.split.said}
    assert REAL in scores["few"]
    assert [row["clips"] for row in scores["rows"].values()] == [36, 9, 9]


def test_noise_is_far_from_everything(scorer: tuple[Evaluator, Config]) -> None:
    evaluator, cfg = scorer
    noise = 0.2 * torch.randn(36, cfg.sound.wav_samples, generator=torch.Generator().manual_seed(0))
    bad = evaluator.row(measure(cfg, noise, evaluator.labels))
    good = evaluator.row(measure(cfg, fresh(evaluator), evaluator.labels))
    assert bad["accuracy"] < 0.5
    assert bad["kernel_low"] > 10
    assert bad["frechet"] > 5 * good["frechet"]
    assert bad["coverage"] < 0.2 * good["coverage"]
    assert bad["sliced"] > 3 * good["sliced"]


def test_silence_is_counted(scorer: tuple[Evaluator, Config]) -> None:
    evaluator, cfg = scorer
    waves = fresh(evaluator)
    waves[:9] = 0
    row = evaluator.row(measure(cfg, waves, evaluator.labels))
    assert row["silent"] == 0.25


def test_clipping_is_counted(scorer: tuple[Evaluator, Config]) -> None:
    evaluator, cfg = scorer
    waves = fresh(evaluator)
    waves[:18] *= 20
    assert evaluator.row(measure(cfg, waves, evaluator.labels))["clipped"] == 0.5


def test_one_clip_repeated_is_a_collapse(scorer: tuple[Evaluator, Config], quick: None) -> None:
    evaluator, cfg = scorer

    def repeated(seed: int) -> Tensor:
        waves = fresh(evaluator, seed)
        for k in range(3):
            waves[12 * k : 12 * (k + 1)] = waves[12 * k].clone()
        return waves

    scores = score_waves(evaluator, repeated(1))
    made = scores["rows"][GENERATED]
    assert made["accuracy"] > 0.9  # which is why accuracy alone is not enough
    assert made["diversity"] < 0.01
    # Of three sets, since one alone covers 0.36 to 0.57 times what real ones do (five measured).
    repeats = [measure(cfg, repeated(seed), evaluator.labels) for seed in (1, 2, 3)]
    covered = np.mean([evaluator.row(sounds)["coverage"] for sounds in repeats])
    assert covered < 0.5 * scores["rows"][REAL]["coverage"]
    assert any(
        note.startswith("Collapse: the sounds of high, low, mid") for note in scores["notes"]
    )


def test_copied_training_clips_are_named(scorer: tuple[Evaluator, Config], quick: None) -> None:
    evaluator, cfg = scorer
    copies = [
        read_clip(cfg, Path(cfg.data_dir) / name / f"take{n}x.wav", 0)
        for name in sorted(CLASSES)
        for n in range(CLIPS)
    ]
    training = measure(cfg, torch.stack(copies), torch.arange(3).repeat_interleave(CLIPS))
    seen = [
        i
        for i, x in enumerate(training.x)
        if (x - evaluator.training.x).abs().amax((1, 2, 3)).min() < 1e-4
    ]
    rows = [i for k in range(3) for i in [j for j in seen if j // CLIPS == k][:12]]
    scores = score_waves(evaluator, torch.stack(copies)[rows])
    made = scores["rows"][GENERATED]
    assert made["copy_ratio"] < 0.05
    assert made["copy_z"] < COPY_Z
    assert made["kernel"] < 3  # by distance alone a copy is the best there is
    assert any(note.startswith("Copying") for note in scores["notes"])


def test_swapped_classes_are_told_by_accuracy_alone(
    scorer: tuple[Evaluator, Config], quick: None
) -> None:
    evaluator, _ = scorer
    scores = score_waves(evaluator, fresh(evaluator).roll(12, dims=0))
    made = scores["rows"][GENERATED]
    assert made["accuracy"] < 0.05
    assert made["cas"] < 0.1
    assert abs(made["kernel"]) < 3
    assert {c["taken for"] for c in scores["per_class"].values()} == set(CLASSES)
    assert all(c["taken for"] != name for name, c in scores["per_class"].items())


def test_one_bad_class_is_found(scorer: tuple[Evaluator, Config], quick: None) -> None:
    evaluator, _ = scorer
    waves = fresh(evaluator)
    noise = torch.randn(12, waves.shape[1], generator=torch.Generator().manual_seed(0))
    waves[evaluator.labels == evaluator.classes.index("mid")] = 0.2 * noise
    table = score_waves(evaluator, waves)["per_class"]
    assert max(table, key=lambda name: table[name]["kernel"]) == "mid"
    assert table["mid"]["kernel"] > 10 * max(table[n]["kernel"] for n in ("low", "high"))


def test_the_evaluator_is_kept_and_scores_repeat_exactly(
    scorer: tuple[Evaluator, Config], quick: None, capsys: pytest.CaptureFixture
) -> None:
    evaluator, cfg = scorer
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=True)
    vocoder = GriffinLim(cfg, torch.device("cpu"))
    capsys.readouterr()
    before = torch.get_rng_state()
    again = make_evaluator(cfg, clips, split, vocoder, torch.device("cpu"))
    assert "measuring the real sounds" not in capsys.readouterr().out
    assert score_waves(again, fresh(evaluator)) == score_waves(evaluator, fresh(evaluator))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_evaluator_depends_on_the_sounds_and_not_on_their_times_and_place(
    scorer: tuple[Evaluator, Config],
    quick: None,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, cfg = scorer
    for path in Path(cfg.data_dir).rglob("*.wav"):
        os.utime(path, (1, 1))
    monkeypatch.chdir(Path(cfg.data_dir).parent)  # the same folder by another path
    cfg = replace(cfg, data_dir="data")
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=True)
    make_evaluator(cfg, clips, split, GriffinLim(cfg, torch.device("cpu")), torch.device("cpu"))
    assert "measuring the real sounds" not in capsys.readouterr().out


def foreign(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def with_state(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A file of another program, with a checksum."""

    def write(path: Path) -> None:
        state = tensor_files.read(path)
        change(state)
        tensor_files.write(path, state)

    return write


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": foreign,
    "a list": lambda path: tensor_files.write(path, [1, 2]),
    "no rows": with_state(lambda state: state.pop("rows")),
    "rows of another kind": with_state(lambda state: state.update(rows={REAL: {"cas": "high"}})),
    "no classifier": with_state(lambda state: state["classifiers"].clear()),
    "NaN": with_state(lambda state: state["training"]["x"].fill_(torch.nan)),
    "no sounds of judges": with_state(lambda state: state.pop("sides")),
    "NaN in those": with_state(lambda state: state["sides"]["unseen"].fill_(torch.nan)),
    "other views": with_state(lambda state: state["areas"].pop("fine")),
    "areas of another kind": with_state(lambda state: state.update(areas={"whole": ["high"]})),
    "sources of fewer": with_state(
        lambda state: state["sides"].update(sources=state["sides"]["sources"][1:])
    ),
    "labels out of range": with_state(lambda state: state["unseen"]["labels"].fill_(7)),
    "other weights": with_state(lambda state: state["classifiers"][0].popitem()),
}
if hasattr(os, "mkfifo"):
    DAMAGE["a pipe"] = lambda path: (path.unlink(), os.mkfifo(path))


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_reference_is_said_and_is_not_used(
    scorer: tuple[Evaluator, Config], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    evaluator, _ = scorer
    path = tmp_path / "evaluator.pt"
    references._keep(evaluator, path)
    own = (evaluator.cfg, evaluator.classes, evaluator.split, "", evaluator.counts, CPU)
    empty = Evaluator(*own)
    assert references._open(Evaluator(*own), path)
    DAMAGE[kind](path)
    assert not references._open(empty, path)
    said = capsys.readouterr().out
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith(") and will be made anew.\n")
    assert "\n" not in said[:-1]
    assert (empty.training, empty.unseen, empty.sides) == (None, None, None)
    assert (empty.rows, empty.areas, empty.classifiers) == ({}, {}, [])


def test_a_reference_that_is_made_anew_gives_the_same_scores(
    scorer: tuple[Evaluator, Config], quick: None, capsys: pytest.CaptureFixture
) -> None:
    evaluator, cfg = scorer
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=True)
    (path,) = cfg.cache_dir.glob("evaluator-*.pt")
    whole = tensor_files.read(path)
    flip(path)
    again = make_evaluator(cfg, clips, split, GriffinLim(cfg, CPU), CPU)
    assert f"{path} is damaged (ValueError: a checksum differs)" in capsys.readouterr().out
    assert score_waves(again, fresh(evaluator)) == score_waves(evaluator, fresh(evaluator))
    assert tensor_files.read(path)["rows"] == whole["rows"]
    make_evaluator(cfg, clips, split, GriffinLim(cfg, CPU), CPU)
    assert "damaged" not in capsys.readouterr().out


def test_classifiers_learn_from_equally_many_sounds_in_every_row(
    scorer: tuple[Evaluator, Config], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a class with few clips, no more generated ones than there are real ones to learn from."""
    evaluator, _ = scorer
    assert evaluator.teaching.tolist() == [12, 12, 12]
    known = evaluator.training
    rows = [*range(5), *range(27, 81)]  # of the first class, five
    fewer = replace(evaluator, training=known.subset(rows))
    assert fewer.teaching.tolist() == [5, 12, 12]
    sounds = measure(evaluator.cfg, fresh(evaluator), evaluator.labels)
    taught = fewer.teach(sounds)
    assert torch.bincount(taught.labels).tolist() == [5, 12, 12]
    assert torch.equal(taught.x[:5], sounds.x[:5])
    learnt = []
    compare = Evaluator.compare

    def noted(self: Evaluator, sounds: SoundSet, intended: bool, *rest: object) -> Comparison:
        learnt.append(torch.bincount(rest[0].labels).tolist())
        return compare(self, sounds, intended, *rest)

    monkeypatch.setattr(Evaluator, "compare", noted)
    score_waves(fewer, fresh(evaluator))
    assert learnt == [[5, 12, 12]]


def test_what_the_key_holds_is_the_same_in_every_process() -> None:
    """No function is in it, whose text is where it lies in memory."""
    assert " at 0x" not in repr(references._constants())


def test_judges_know_the_sounds_through_the_vocoder(scorer: tuple[Evaluator, Config]) -> None:
    """Each training clip, as it is vocoded alone, and its source; the unseen ones likewise."""
    evaluator, cfg = scorer
    vocoder, transform = GriffinLim(cfg, CPU), Transform(cfg)
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    sides = evaluator.sides
    assert sides.x.shape[0] == len(evaluator.training.labels) == 81
    assert torch.bincount(sides.sources).tolist() == [3] * 27  # take0x of each class, take1x ...
    assert sides.most == sum(evaluator.counts)
    for parts, rows in (
        (dataset.recordings(clips, evaluator.split.training), sides.x),
        (evaluator.split.held_out, sides.unseen),
    ):
        assert len(parts) == len(rows)
        some = torch.stack([read_clip(cfg, r.path, r.number) for r in parts[:2]])
        heard = measure(cfg, vocoder(transform(some)), torch.zeros(2, dtype=torch.long)).x
        assert (heard - rows[:2]).abs().mean() < 0.02
        assert (heard - rows[:2].flip(0)).abs().mean() > 0.2
    rows = evaluator.rows
    assert rows[references.ROUND_TRIP.format(REAL)]["auc"] == evaluator.areas["whole"].mean
    assert 0.3 < evaluator.areas["whole"].mean < 0.7
    assert rows[REAL]["auc"] > 0.9  # such a vocoder is told


def test_every_row_is_of_equally_many_sounds(
    scorer: tuple[Evaluator, Config], quick: None, tmp_path: Path
) -> None:
    """Also where more unseen clips than generated ones, or than training clips, are there."""
    _, cfg = scorer
    for folder, count in (("data", 2), ("apart", 20)):
        for name, waves in varied_tones(count, len(folder)).items():
            (tmp_path / folder / name).mkdir(parents=True)
            for number, wave in enumerate(waves):
                soundfile.write(tmp_path / folder / name / f"{number}.wav", wave, 8000)
    cfg = replace(cfg, data_dir=str(tmp_path / "data"), holdout_dir=str(tmp_path / "apart"))
    clips = dataset.load(cfg, dataset.find_clips(cfg))
    split = dataset.split(cfg, clips, known=False)
    vocoder, cpu = GriffinLim(cfg, torch.device("cpu")), torch.device("cpu")
    evaluator = make_evaluator(cfg, clips, split, vocoder, cpu)
    assert evaluator.counts == [12, 12, 12]
    assert evaluator.at_a_time.tolist() == [12, 12, 12]
    draws = evaluator.draws(evaluator.unseen, intended=True)
    assert len(draws) == DRAWS
    assert all(
        np.bincount(evaluator.unseen.labels[rows]).tolist() == [12, 12, 12] for rows in draws
    )
    assert [len(rows) for rows in evaluator.draws(evaluator.unseen, intended=False)] == [36] * len(
        draws
    )
    scores = score_waves(evaluator, fresh(evaluator))
    assert "of 36 sounds at a time" in scores["notes"][0]
    assert scores["at_a_time"] == 36
    assert [row["clips"] for row in scores["rows"].values()] == [36, 60, 60]
    # Another file under the same name is another evaluator.
    assert len(list(cfg.cache_dir.glob("evaluator-*"))) == 2
    soundfile.write(tmp_path / "apart" / "low" / "0.wav", np.ones(4000) / 9, 8000)
    make_evaluator(cfg, clips, dataset.split(cfg, clips, False), vocoder, cpu)
    assert len(list(cfg.cache_dir.glob("evaluator-*"))) == 3
