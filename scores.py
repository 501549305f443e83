"""How good are the generated sounds? Figures from waveforms, beside the same figures for real ones.

No network is downloaded: three small classifiers, trained here on the real training clips, are the
ears. Each figure is also given for real sounds that nobody trained on (what a perfect model would
reach) and for the same sounds sent through the vocoder (what any model can reach with it). Figures
whose value depends on how many sounds go in are computed from equally many of each.

Shapes: N sounds of L samples, K classes, M mel bands, T frames, D numbers of an embedding.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import soxr
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import audio
import bigvgan
import config
import dataset
import distances
import runs
from config import Config

T = TypeVar("T")

MEANINGS = {  # one row of figures; also the columns of scores.csv
    "accuracy": "share of sounds heard as the class they were meant to be; higher is better",
    "frechet": "distance of means and covariances of embeddings; lower is better",
    "kernel": "100 times the unbiased kernel distance of embeddings; 0: no difference",
    "kernel_low": "lower end of its 95 % bootstrap interval",
    "kernel_high": "upper end of its 95 % bootstrap interval",
    "density": "how many real neighbourhoods a sound lies in, over 5; about 1 for real sounds",
    "coverage": "share of real training clips with a sound nearby; higher is better",
    "inception": "clear opinions on each sound, different ones overall: 1 to the number of classes",
    "cas": "accuracy, on unseen real sounds, of a classifier that learnt from these",
    "copy_ratio": "distance to the nearest training clip, over that of unseen real sounds",
    "copy_z": "rank test of the same; under -3, sounds lie suspiciously near",
    "diversity": "distance between sounds of a class, over that of training clips; 0: equal",
    "sliced": "distance of log-mel statistics that no classifier had a say in; lower is better",
    "silent": "share of silent sounds",
    "clipped": "share of sounds with ten samples or more at full scale",
}
SCORES = tuple(MEANINGS)
HEADLINE = ("accuracy", "frechet", "kernel", "coverage", "cas")  # the ones to look at first
REAL, SEEN, GENERATED = "held-out real", "real, trained on", "generated"
ROUND_TRIP = "{}, through the vocoder"
VERSION = 3  # raise it when the meaning of a kept yardstick changes


# ---- the ears -----------------------------------------------------------------------------------
# A classifier's last hidden layer keeps what tells the classes apart and little else, which makes
# it a fair judge of class-conditional sounds (Donahue, McAuley & Puckette 2019 judged theirs so).
# Three seeds, because with a few hundred clips one alone has moods.


def log_mels(waves: Tensor, rate: int, seconds: float) -> Tensor:
    """Waveforms `(N, L)` at `rate` Hz -> `(N, 1, M, T)`, on one grid for every recipe."""
    grid = config.SCORE_GRID
    mel = torchaudio.transforms.MelSpectrogram(**grid, norm="slaney", mel_scale="slaney")
    length = int(seconds * grid["sample_rate"])
    mels = []
    for wave in waves:  # one by one: a batch of them leaves the processor's cache
        # Not by torchaudio, which makes a filter of 90 million numbers for a clip at 16 384 Hz.
        heard = soxr.resample(wave.numpy(), rate, grid["sample_rate"], quality="HQ")
        wave = torch.from_numpy(heard)[:length]
        wave = nn.functional.pad(wave, (0, length - len(wave)))
        mels.append(mel(wave).clamp(min=config.SCORE_FLOOR).log())
    return torch.stack(mels)[:, None]


class Ear(nn.Module):
    """A small classifier of log-mels; `embed` is its last hidden layer `(N, D)`."""

    def __init__(self, classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)  # (M, 1), of the real training clips
        self.register_buffer("std", std)
        channels = (1, *config.EAR_CHANNELS)
        rungs: list[nn.Module] = []
        for c_in, c_out in pairwise(channels):
            conv = nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False)
            rungs += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
        self.rungs = nn.Sequential(*rungs)
        self.hidden = nn.Linear(2 * channels[-1], config.EAR_DIM)
        self.drop = nn.Dropout(config.EAR_DROPOUT)
        self.classify = nn.Linear(config.EAR_DIM, classes)

    def embed(self, x: Tensor) -> Tensor:
        x = self.rungs((x - self.mean) / self.std).flatten(2)  # (N, C, places)
        x = torch.cat([x.mean(2), x.amax(2)], dim=1)  # how much of it, and whether at all
        return self.hidden(self.drop(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))  # (N, K)


def train_ear(x: Tensor, labels: Tensor, classes: int, seed: int) -> Ear:
    """A classifier of log-mels `x (N, 1, M, T)`, trained from `seed`; the random state is kept."""
    cuda = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        ear = Ear(classes, x.mean((0, 3))[0, :, None], x.std((0, 3))[0, :, None] + 1e-3)
        ear.to(x.device)
        optimiser = torch.optim.AdamW(ear.parameters(), weight_decay=config.EAR_DECAY)
        steps, rate = config.EAR_STEPS, config.EAR_RATE
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(x), (config.EAR_BATCH,), device=x.device)
            loss = cross_entropy(ear(augment(x[rows])), labels[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return ear.eval().requires_grad_(False)


def train_ears(sounds: Heard, classes: int, device: torch.device) -> list[Ear]:
    """One classifier a seed, on the CPU; where there is one class, of groups of similar clips."""
    labels = sounds.labels
    if classes < 2:  # pseudo-labels, as in DeepCluster (Caron et al. 2018)
        from sklearn.cluster import KMeans

        points = statistics(sounds.x)
        points = (points - points.mean(0)) / (points.std(0) + 1e-3)
        classes = min(config.SCORE_GROUPS, len(points))
        groups = KMeans(classes, n_init=4, random_state=0).fit_predict(points.numpy())
        labels = torch.from_numpy(groups).long()
    x, labels = sounds.x.to(device), labels.to(device)
    return [train_ear(x, labels, classes, seed).cpu() for seed in config.SCORE_SEEDS]


def augment(x: Tensor) -> Tensor:
    """Log-mels `(B, 1, M, T)` moved in time, louder or softer, and masked in part (Park 2019)."""
    *_, bands, frames = x.shape
    batch = len(x)
    at = torch.arange(frames, device=x.device) + torch.randint(
        frames, (batch, 1), device=x.device
    )  # (B, T)
    x = x.gather(3, (at % frames)[:, None, None].expand_as(x))
    x = x + (torch.rand(batch, 1, 1, 1, device=x.device) * 2 - 1) * config.EAR_GAIN
    floor = x.mean((1, 2, 3), keepdim=True)
    for size, dim in ((bands, 2), (frames, 3)):
        shape = [batch, 1, 1, 1]
        start = torch.rand(shape, device=x.device) * size
        width = torch.rand(shape, device=x.device) * size * config.EAR_MASK
        place = torch.arange(size, device=x.device).view(
            [size if d == dim else 1 for d in range(4)]
        )
        x = torch.where((place >= start) & (place < start + width), floor, x)
    return x


def statistics(x: Tensor) -> Tensor:
    """Log-mels `(N, 1, M, T)` -> mean, deviation and mean step of each band over time, `(N, 3 M)`.

    What a distance sees that no classifier has had a say in.
    """
    return torch.cat([x.mean(3), x.std(3), x.diff(dim=3).abs().mean(3)], dim=2)[:, 0]


# ---- the yardstick ------------------------------------------------------------------------------
# Everything that scoring needs of the real sounds: made once for a data set, a vocoder and a length
# of clip, then kept in the cache and shared by all runs on them.


@dataclass
class Heard:
    """A set of sounds as the scores see them."""

    x: Tensor  # (N, 1, M, T) log-mels
    labels: Tensor  # (N,) class that each sound is, or is meant to be
    silent: float = 0.0  # share of sounds that are silent
    clipped: float = 0.0  # share of sounds with ten samples or more at full scale

    def some(self, rows: Sequence[int]) -> Heard:
        return Heard(self.x[rows], self.labels[rows])


def listen(cfg: Config, waves: Tensor, labels: Tensor) -> Heard:
    """`waves (N, L)` at the recipe's rate and `labels (N,)` -> what the scores need of them."""
    loud = waves.abs()
    silent = float((loud.amax(1) < config.SILENCE).float().mean())
    clipped = float(((loud >= 0.999).sum(1) >= 10).float().mean())
    return Heard(log_mels(waves, cfg.sample_rate, cfg.clip_seconds), labels, silent, clipped)


@dataclass
class Yardstick:
    """The real sounds, the ears that were trained on them, and how the real ones score.

    Where nothing is held out, `unseen` is a part of the training clips, and the card says so.
    """

    cfg: Config
    classes: list[str]
    split: dataset.Split
    vocoder: str
    counts: list[int]  # sounds of each class to generate, in proportion to the training clips
    device: torch.device  # where classifiers are trained
    ears: list[Ear] = field(default_factory=list)
    training: Heard | None = None
    unseen: Heard | None = None
    rows: dict[str, dict[str, float | None]] = field(default_factory=dict)  # of real sounds

    @property
    def real(self) -> str:
        """Name of the row of unseen real sounds."""
        return REAL if self.split.held_out else SEEN

    @property
    def at_a_time(self) -> np.ndarray:
        """Sounds of each class, `(K,)`, of which the figures are taken that depend on the number:
        as many as there are both unseen real and generated ones."""
        unseen = np.bincount(self.unseen.labels.numpy(), minlength=len(self.counts))
        return np.minimum(unseen, self.counts)

    @property
    def labels(self) -> Tensor:
        """Classes of the sounds to generate, `(N,)`."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))

    def row(
        self, sounds: Heard, intended: bool = True, lesson: Heard | None = None
    ) -> dict[str, float | None]:
        """The figures SCORES of a set of sounds; those that have no meaning here are None.

        `intended`: whether its labels were meant. `lesson`: sounds from which classifiers learn the
        classes before they are tested on unseen real ones, the classification accuracy score
        (Ravuri & Vinyals 2019).
        """
        draws = self._draws(sounds, intended)
        by_ear = [self._heard_by(ear, sounds, intended, draws) for ear in self.ears]
        row = {k: float(np.mean([figures[k] for figures, _ in by_ear])) for k in by_ear[0][0]}
        interval = np.percentile(np.mean([boot for _, boot in by_ear], axis=0), [2.5, 97.5])
        row["kernel_low"], row["kernel_high"] = map(float, interval)
        row |= {"silent": sounds.silent, "clipped": sounds.clipped}
        real, fake = statistics(self.training.x), statistics(sounds.x)
        rng = np.random.default_rng(0)
        fits = [rng.permutation(d)[: len(real)] if len(d) > len(real) else d for d in draws]
        pairs = [(real[rng.permutation(len(real))[: len(d)]], fake[d]) for d in fits]
        row["sliced"] = float(np.mean([distances.sliced_wasserstein(*pair) for pair in pairs]))
        if lesson is not None and len(self.classes) > 1:
            pupils = train_ears(lesson, len(self.classes), self.device)
            row["cas"] = float(np.mean([right(ear, self.unseen) for ear in pupils]))
        if not self.split.held_out:
            row["copy_ratio"] = row["copy_z"] = None
        return {name: row.get(name) for name in SCORES}

    def _heard_by(
        self, ear: Ear, sounds: Heard, intended: bool, draws: list[np.ndarray]
    ) -> tuple[dict[str, float], np.ndarray]:
        """The figures of one ear, and bootstrap values of its kernel distance."""
        real, unseen, fake = (ear.embed(h.x) for h in (self.training, self.unseen, sounds))
        width = distances.bandwidth(real)
        kernel, boot = distances.kernel_distance(real, fake, width, config.SCORE_BOOTSTRAP)
        ratio, z = distances.copying(real, unseen, fake)
        spreads = self._diversity(real, fake, sounds, intended)
        row = {"kernel": kernel, "copy_ratio": ratio, "copy_z": z}
        row["diversity"] = float(np.mean(list(spreads.values())))
        # What depends on the number of sounds is taken of equally many in every row.
        sized = [
            (
                distances.frechet(real, fake[rows]),
                *distances.density_coverage(real, fake[rows], config.SCORE_NEIGHBOUR),
                distances.inception_score(ear.classify(fake[rows])),
            )
            for rows in draws
        ]
        row |= zip(("frechet", "density", "coverage", "inception"), np.mean(sized, axis=0))
        if len(self.classes) < 2:
            del row["inception"]
        elif intended:
            row["accuracy"] = right(ear, sounds)
        return row, boot

    def _diversity(
        self, real: Tensor, fake: Tensor, sounds: Heard, intended: bool = True
    ) -> dict[int, float]:
        """Mean distance within each class, over that of its training clips."""
        labels = (self.training.labels, sounds.labels)
        if not intended:  # all of it is one class
            labels = tuple(torch.zeros_like(y) for y in labels)
        whole, own = distances.spread(real, labels[0]), distances.spread(fake, labels[1])
        return {k: own[k] / max(whole[k], 1e-9) for k in own if k in whole}

    def _draws(self, sounds: Heard, intended: bool) -> list[np.ndarray]:
        """Rows of `sounds`, several times: as many (of a class) as every row of the card has."""
        labels, sizes = sounds.labels.numpy(), self.at_a_time
        if not intended:
            labels, sizes = np.zeros_like(labels), sizes.sum(keepdims=True)
        if (np.bincount(labels, minlength=len(sizes)) <= sizes).all():
            return [np.arange(len(labels))]
        rng = np.random.default_rng(0)
        return [
            np.concatenate(
                [
                    rng.permutation(np.flatnonzero(labels == k))[:size]
                    for k, size in enumerate(sizes)
                ]
            )
            for _ in range(config.SCORE_DRAWS)
        ]

    def per_class(self, sounds: Heard) -> dict[str, dict[str, float | str | None]]:
        """Which class is bad, and what it is taken for, beside what unseen real clips reach."""
        heard, truly = (
            torch.stack([ear(h.x).argmax(1) for ear in self.ears]) for h in (sounds, self.unseen)
        )  # (ears, N)
        pairs = [(ear.embed(self.training.x), ear.embed(sounds.x)) for ear in self.ears]
        spreads = [self._diversity(*pair, sounds) for pair in pairs]
        table = {}
        for k, name in enumerate(self.classes):
            real, unseen, own = (h.labels == k for h in (self.training, self.unseen, sounds))
            wrong = heard[:, own][heard[:, own] != k]
            kernels = [
                distances.kernel_distance(r[real], f[own], distances.bandwidth(r))[0]
                for r, f in pairs
            ]
            table[name] = {
                "clips": int(own.sum()),
                "accuracy": float((heard[:, own] == k).float().mean()),
                f"accuracy, {self.real}": _share(truly[:, unseen] == k),
                "taken for": self.classes[int(wrong.mode().values)] if len(wrong) else None,
                "kernel": float(np.mean(kernels)) if real.sum() > 1 else None,
                "diversity": float(np.mean([s[k] for s in spreads])) if k in spreads[0] else None,
            }
        return table

    def card(self, waves: Tensor) -> dict:
        """All that is known of generated `waves (N, L)`, made for `labels`: most of scores.json."""
        intended = self.cfg.conditional
        sounds = listen(self.cfg, waves, self.labels)
        made = self.row(sounds, intended, sounds if intended else None)
        rows = {GENERATED: made, **self.rows}
        sizes = {n: len((sounds if n == GENERATED else self.unseen).labels) for n in rows}
        table = self.per_class(sounds) if intended and len(self.classes) > 1 else {}
        spectrogram = self.cfg.representation == "mel"
        return {
            "on": f"sound, by {self.vocoder}" if spectrogram else "sound",
            "held_out": {
                "clips": len(self.split.held_out),
                "training_clips": len(self.split.training),
                "by": self.split.said,
            },
            "rows": {name: {"clips": sizes[name]} | row for name, row in rows.items()},
            "few": [name for name, size in sizes.items() if size < config.SCORE_FEW],
            "per_class": table,
            "notes": self._notes(made, table),
            "headline": HEADLINE,
            "meanings": MEANINGS,
        }

    def _notes(self, made: dict, table: dict) -> list[str]:
        notes = [
            f"Means over {len(self.ears)} classifiers trained on {len(self.training.labels)} real "
            "training clips, to which every row is compared. Frechet, density, coverage, inception "
            f"and sliced are of {self.at_a_time.sum()} sounds at a time."
        ]
        if not self.split.held_out:
            notes.append(
                f"{self.split.said} The classifiers know those: the real rows flatter, and copies "
                "cannot be told."
            )
        if len(self.classes) < 2:
            notes.append(
                "There is one class: the classifiers learnt to tell groups of similar clips apart, "
                "and figures about classes are left out."
            )
        least = config.SCORE_COLLAPSE
        flat = [
            n for n, c in table.items() if c["diversity"] is not None and c["diversity"] < least
        ]
        if flat:
            notes.append(
                f"Collapse: the sounds of {', '.join(flat)} are less than {least:g} times as "
                "different from each other as real ones."
            )
        if made["copy_z"] is not None and made["copy_z"] < config.SCORE_COPY_Z:
            notes.append(
                "Copying: generated sounds lie nearer to training clips than unseen real ones do "
                f"(ratio {made['copy_ratio']:.2f}, z {made['copy_z']:.1f})."
            )
        return notes


def right(ear: Ear, sounds: Heard) -> float:
    """Share of sounds that are heard as the class they are meant to be."""
    return float((ear(sounds.x).argmax(1) == sounds.labels).float().mean())


def _share(mask: Tensor) -> float | None:
    return float(mask.float().mean()) if mask.numel() else None


# ---- making it ----------------------------------------------------------------------------------


def make_yardstick(
    cfg: Config,
    clips: dataset.Clips,
    split: dataset.Split,
    vocoder: audio.Vocoder,
    device: torch.device,
) -> Yardstick:
    """Open what an earlier scoring kept, or listen to the real sounds and train the ears.

    Raises UserError where a real sound has gone since it was decoded.
    """
    sources, apart, lesson, counts = _choose(cfg, clips, split)
    stamps = [dataset.stamp(recording.path) for recording in apart]  # of a folder of their own
    key = _key(cfg, clips, vocoder, (sources, apart, stamps, counts))
    path = cfg.cache_dir / f"yardstick-{key}.pt"
    yard = Yardstick(cfg, clips.classes, split, vocoder.name, counts, device)
    if not _open(yard, path):
        print("Scores: listening to the real sounds, once for this data set ...", flush=True)
        _listen_to_real(yard, vocoder, sources, apart, lesson)
        _keep(yard, path)
    return yard


def _choose(
    cfg: Config, clips: dataset.Clips, split: dataset.Split
) -> tuple[list[dataset.Recording], list[dataset.Recording], list[int], list[int]]:
    """Real sounds to compare with, unseen ones, which of the first make a lesson, counts a class.

    The counts are those of the sounds to generate, and of the lesson.
    """
    sources = dataset.recordings(clips, spread_out(split.training, config.SCORE_REAL))
    per_class = np.bincount([r.label for r in sources], minlength=len(clips.classes))
    share = cfg.score_clips * len(per_class) * per_class / per_class.sum()
    counts = np.maximum(np.round(share).astype(int), config.SCORE_LEAST).tolist()
    lesson = _first(sources, counts)
    apart = spread_out(split.held_out, config.SCORE_REAL) or [sources[i] for i in lesson]
    return sources, apart, lesson, counts


def _listen_to_real(
    yard: Yardstick,
    vocoder: audio.Vocoder,
    sources: list[dataset.Recording],
    apart: list[dataset.Recording],
    lesson: list[int],
) -> None:
    yard.training = listen_to_files(yard.cfg, sources)
    yard.unseen = listen_to_files(yard.cfg, apart)
    yard.ears = train_ears(yard.training, len(yard.classes), yard.device)
    yard.rows[yard.real] = yard.row(yard.unseen, lesson=yard.training.some(lesson))
    if yard.cfg.representation == "mel":
        row = _there_and_back(yard, vocoder, apart, [sources[k] for k in lesson])
        yard.rows[ROUND_TRIP.format(yard.real)] = row


def round_trip(
    yard: Yardstick, clips: dataset.Clips, vocoder: audio.Vocoder
) -> dict[str, float | None]:
    """The row of unseen real sounds through another vocoder, by the yardstick's own ears.

    Raises UserError where one of them has gone.
    """
    sources, apart, lesson, _ = _choose(yard.cfg, clips, yard.split)
    return _there_and_back(yard, vocoder, apart, [sources[k] for k in lesson])


def _there_and_back(
    yard: Yardstick,
    vocoder: audio.Vocoder,
    apart: list[dataset.Recording],
    taught: list[dataset.Recording],
) -> dict[str, float | None]:
    transform = audio.Transform(yard.cfg)

    def through(waves: Tensor) -> Tensor:
        return vocoder(transform(waves))

    back, lesson = (listen_to_files(yard.cfg, some, through) for some in (apart, taught))
    return yard.row(back, lesson=lesson)


def spread_out(things: Sequence[T], most: int) -> list[T]:
    """At most `most` of them, evenly from the whole sequence."""
    step = max(1.0, len(things) / most)
    return [things[int(k * step)] for k in range(int(len(things) / step))]


def _first(recordings: list[dataset.Recording], counts: list[int]) -> list[int]:
    """Indices of the first `counts[k]` recordings of each class k."""
    left, rows = list(counts), []
    for row, recording in enumerate(recordings):
        if left[recording.label]:
            left[recording.label] -= 1
            rows.append(row)
    return rows


def listen_to_files(
    cfg: Config,
    recordings: list[dataset.Recording],
    through: Callable[[Tensor], Tensor] | None = None,
) -> Heard:
    """What the scores need of these sounds; `through`: what is done to waveforms `(B, L)` first.

    A few at a time: the waveforms of all of them would be gigabytes. Raises UserError where one has
    gone.
    """
    parts = []
    for first in range(0, len(recordings), config.VOCODER_BATCH):
        some = recordings[first : first + config.VOCODER_BATCH]
        waves = torch.stack([audio.read_clip(cfg, r.path, r.number) for r in some])
        waves = waves if through is None else through(waves)
        parts.append(listen(cfg, waves, torch.tensor([r.label for r in some])))
    silent, clipped = (
        sum(getattr(part, name) * len(part.labels) for part in parts) / len(recordings)
        for name in ("silent", "clipped")
    )
    x, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "labels"))
    return Heard(x, labels, silent, clipped)


# ---- keeping it ---------------------------------------------------------------------------------


def _key(cfg: Config, clips: dataset.Clips, vocoder: audio.Vocoder, chosen: tuple) -> str:
    """What the kept yardstick depends on, in 16 characters; `chosen`: its real sounds."""
    numbers = {k: v for k, v in vars(config).items() if k.startswith(("SCORE_", "EAR_"))}
    spectrogram = [getattr(cfg, name) for name in dataset.TRANSFORM_CONSTANTS]
    files = [Path(vocoder.name) / name for name in ("generator.ckpt", bigvgan.WEIGHTS)]
    voice = (vocoder.name, next((p.stat().st_mtime_ns for p in files if p.is_file()), None))
    parts = [VERSION, clips.fingerprint, chosen, spectrogram, voice, numbers]
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _keep(yard: Yardstick, path: Path) -> None:
    state = {"ears": [ear.state_dict() for ear in yard.ears], "rows": yard.rows}
    state |= {name: vars(getattr(yard, name)) for name in ("training", "unseen")}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    runs.write_bytes(path, buffer.getbuffer())


def _open(yard: Yardstick, path: Path) -> bool:
    """Fill a yardstick from what was kept; False where there is nothing whole."""
    try:
        state = torch.load(path, weights_only=True)
    except FileNotFoundError:
        return False
    except Exception as error:  # a damaged file fails in whatever way it likes
        print(f"{path} is damaged ({type(error).__name__}) and will be made anew.")
        return False
    yard.rows = state["rows"]
    yard.training, yard.unseen = Heard(**state["training"]), Heard(**state["unseen"])
    for weights in state["ears"]:
        with torch.random.fork_rng(devices=[]):  # initial weights, though replaced, are drawn
            ear = Ear(len(weights["classify.bias"]), weights["mean"], weights["std"])
        ear.load_state_dict(weights)
        yard.ears.append(ear.eval().requires_grad_(False))
    return True


def write_card(cfg: Config, epoch: int, step: int, weights: str, card: dict) -> None:
    """Write `scores.json` of a run; `weights`: last or best."""
    about = {"recipe": cfg.recipe, "epoch": epoch, "step": step, "weights": weights}
    runs.write_bytes(cfg.run_dir / "scores.json", json.dumps(about | card, indent=2).encode())


def in_short(epoch: int, card: dict) -> str:
    """The figures that matter most in one line, each with that of unseen real sounds."""
    made, real = list(card["rows"].values())[:2]
    figures = [
        f"{name} {made[name]:.3g} ({real[name]:.3g})" for name in HEADLINE if made[name] is not None
    ]
    of = list(card["rows"])[1]
    return f"Scores after epoch {epoch} (in brackets: {of}): {', '.join(figures)}"


def table(card: dict) -> str:
    """The rows of a card as lines of text, what is uncertain marked with a star."""
    names = [n for n in SCORES if any(row[n] is not None for row in card["rows"].values())]
    lines = [["", "clips", *names]]
    for title, row in card["rows"].items():
        mark = "*" if title in card["few"] else ""
        cells = ["-" if row[n] is None else f"{row[n]:.3g}" for n in names]
        lines.append([title + mark, str(row["clips"]), *cells])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines]
    if card["few"]:
        text.append(f"* from fewer than {config.SCORE_FEW} clips: uncertain")
    return "\n".join([*text, *card["notes"]])
