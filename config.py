"""Every constant of a run: which recipe to train, what a run may vary, and each recipe in full.

Edit a constant here or name it on the command line (`python train.py --epochs 20`): the command
line is made from the dataclass below, so both know the same names. Fields with a default belong to
the run and may change whenever it is continued. Fields without one belong to the recipe: each
recipe states all of them, so that every number has one place, and a run can only be continued with
the same ones.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

RECIPE = "sn-wgan-gp"  # what `python train.py` trains when no recipe is named

GRIFFIN_LIM = "griffin-lim"  # the vocoder that needs nothing but torchaudio
GRIFFIN_LIM_ITERATIONS = 64
VOCODER_BATCH = 16  # clips vocoded at a time: bounds memory when many are wanted
HUB_SECONDS = 3.0  # how long the model hub may take to answer before it counts as out of reach

# Published vocoders, pinned to the commit whose output was checked (55.8 MB each to fetch, once).
VOCODER_REVISIONS = {
    "speechbrain/tts-hifigan-libritts-22050Hz": "4188503131602dc234f48d7f22eebea93d788736",
}

# The spectrogram those vocoders were trained on; on any other grid they play noise.
HIFIGAN_GRID = {
    "sample_rate": 22050,
    "n_fft": 1024,
    "hop": 256,
    "n_mels": 80,
    "f_min": 0.0,
    "f_max": 8000.0,
}

# Files whose header states something outside these limits are damaged or not meant to be heard;
# resampling a "1 Hz" file would ask for tens of gigabytes.
RATE_LIMITS = (1_000, 768_000)  # Hz
MAX_CHANNELS = 64
MAX_AMPLITUDE = 1e3  # full scale is 1; a float file of int16 values passes 1 but is not audio
SILENCE = 1e-4  # peak below which a clip is silent (-80 dBFS): three steps of a 16-bit file

DEMO_CLIPS = 32  # clips of each synthetic class
DEMO_SEED = 0


class UserError(Exception):
    """Something the person at the keyboard can mend; shown as one sentence, no traceback."""

    exit_code = 2
    heading = "Error"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Constants of one run."""

    # ---- the run: where, how often, on what -----------------------------------------------------

    data_dir: str = "data"
    """Folder of your sounds: DATA_DIR/<class>/** or DATA_DIR/train/<class>/**."""
    output_dir: str = "outputs"
    """Folder that holds the runs, and the cache of decoded sounds."""
    run_name: str = ""
    """Folder of this run below OUTPUT_DIR; empty: the recipe's name."""
    sample_every: int = 10
    """Epochs between two sets of pictures and WAVs (one more is made after epoch 1)."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints: what a power cut can cost."""
    seed: int = 42
    """Decides initial weights, order of clips, latents and the sounds that are drawn every time."""
    device: str = "auto"
    """auto (CUDA where there is one), cuda, cuda:1, cpu."""
    deterministic: bool = False
    """On CUDA: two runs with one seed are identical, and slower (the CPU always is identical)."""
    tf32: bool = True
    """On CUDA: let matrix units round float32 factors to TF32 (10-bit mantissa)."""
    decode_threads: int = 0
    """Threads that decode files the first time; 0: one a processor core."""
    dry_run: bool = False
    """Check data, vocoder, memory and one step, say what a run would do and take, write nothing."""

    # ---- the recipe: what a checkpoint must agree on (epochs and vocoder may change) -------------

    recipe: Annotated[str, tyro.conf.Suppress]
    """Name of the recipe these numbers belong to."""
    epochs: int
    """Epochs of the whole run; raise it to extend a finished one."""
    vocoder: str
    """Hub name or folder of a SpeechBrain HiFi-GAN, or griffin-lim."""

    sample_rate: int
    """Samples a second (Hz) that every clip is resampled to."""
    n_fft: int
    """Length of the Fourier transform and of its Hann window, in samples."""
    hop: int
    """Samples between two frames."""
    n_mels: int
    """Mel bands M of the spectrogram."""
    f_min: float
    """Lower edge of the lowest mel band (Hz)."""
    f_max: float
    """Upper edge of the highest mel band (Hz)."""
    frames: int
    """Frames T of the spectrogram; a clip is cut or zero-padded to (T - 1) * hop samples."""
    log_floor: float
    """Mel magnitudes are clamped to this before the logarithm."""

    latent_dim: int
    """Length of the latent vector z ~ N(0, 1)."""
    generator_channels: tuple[int, ...]
    """Channels of the generator's feature maps, from the smallest up; each rung doubles M and T."""
    critic_channels: tuple[int, ...]
    """Channels of the critic's feature maps; each rung halves M and T."""
    norm_groups: int
    """Groups of every GroupNorm."""
    output_range: tuple[float, float]
    """The generator's output is clamped to this range of log-mel."""
    label_map_scale: float
    """Factor on the critic's label map."""
    init_std: float
    """Standard deviation of the initial weights of convolutions and linear layers; biases are 0."""

    gp_weight: float
    """Weight of the gradient penalty."""
    critic_steps: int
    """Critic updates a generator update."""
    l1_weight: float
    """Weight of L1(generated, real clip of the same class) in the generator's loss."""
    generator_lr: float
    """Adam's learning rate for the generator."""
    critic_lr: float
    """Adam's learning rate for the critic (the slower of the two time scales)."""
    betas: tuple[float, float]
    """Adam's decay rates, both networks."""
    batch_size: int
    """Clips a step; the last short batch of an epoch is dropped."""

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / (self.run_name or self.recipe)

    @property
    def cache_dir(self) -> Path:
        return Path(self.output_dir) / ".cache"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one clip as the networks see it: (1, M, T)."""
        return (1, self.n_mels, self.frames)

    @property
    def clip_samples(self) -> int:
        """Samples that make T centred frames."""
        return (self.frames - 1) * self.hop

    @property
    def wav_samples(self) -> int:
        """Samples of a written WAV: every frame becomes one hop."""
        return self.frames * self.hop

    @property
    def log_min(self) -> float:
        """The log-mel of silence."""
        return math.log(self.log_floor)


RECIPES: dict[str, Config] = {
    # Conditional WGAN-GP with a spectral-norm and GroupNorm critic, two time scales and an L1 term.
    "sn-wgan-gp": Config(
        recipe="sn-wgan-gp",
        epochs=300,
        vocoder="speechbrain/tts-hifigan-libritts-22050Hz",
        sample_rate=22050,
        n_fft=1024,
        hop=256,
        n_mels=80,
        f_min=0.0,
        f_max=8000.0,
        frames=352,
        log_floor=1e-5,
        latent_dim=100,
        generator_channels=(256, 128, 64, 32),
        critic_channels=(32, 64, 128, 256),
        norm_groups=8,
        output_range=(-15.0, 1.0),
        label_map_scale=0.1,
        init_std=0.02,
        gp_weight=4.0,
        critic_steps=3,
        l1_weight=1.0,
        generator_lr=1e-4,
        critic_lr=2e-5,
        betas=(0.0, 0.99),
        batch_size=16,
    ),
}

SUMMARIES = {
    "sn-wgan-gp": "conditional WGAN-GP, spectral-norm + GroupNorm critic, TTUR, L1 (default)",
}


def must_match(a: dict, b: dict) -> list[str]:
    """Names of the constants that make two configurations different trainings.

    Those are the recipe's fields (the ones without a default) except `epochs` and `vocoder`, and
    the seed, which a continued run would silently ignore.
    """
    recipe = [f.name for f in dataclasses.fields(Config) if f.default is dataclasses.MISSING]
    names = [n for n in recipe if n not in ("epochs", "vocoder")] + ["seed"]
    return [n for n in names if _plain(a.get(n)) != _plain(b.get(n))]


def to_dict(cfg: Config) -> dict:
    """The constants as JSON and `torch.load(weights_only=True)` know them."""
    return {k: _plain(v) for k, v in dataclasses.asdict(cfg).items()}


def from_dict(values: dict, where: str) -> Config:
    """The inverse of `to_dict`; raises UserError naming `where` when the names do not fit."""
    fields = {f.name: f for f in dataclasses.fields(Config)}
    unknown = sorted(set(values) - set(fields))
    lacking = sorted(
        n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values
    )
    if unknown or lacking:
        raise UserError(
            f"{where} was written by another version of this program: "
            f"unknown constants {unknown}, missing constants {lacking}."
        )
    tupled = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Config(**tupled)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def nearest(name: str, known: Sequence[str]) -> str:
    """'did you mean ...' for a misspelt name, or the whole list where nothing is near."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    folded = [k for k in known if k.casefold() == name.casefold()]
    close = folded or close
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}."


def parse(argv: Sequence[str] | None = None) -> Config:
    """Turn `[RECIPE] [--field value ...]` into a checked Config.

    Raises UserError for an unknown recipe or a value that cannot work; unknown flags and values of
    the wrong type end the program with tyro's own message.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else RECIPE
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}: {nearest(name, list(RECIPES))}")
    recipes = "\n".join(f"  {n}: {SUMMARIES[n]}" for n in RECIPES)
    cfg = tyro.cli(
        Config,
        default=RECIPES[name],
        args=argv,
        prog="train.py [RECIPE]",
        description="Turn folders of sounds into a model that invents new ones.\n\n"
        f"Recipes:\n{recipes}\n\nThe defaults below are those of {name}.",
    )
    check(cfg)
    return cfg


def check(cfg: Config) -> None:
    """Raise UserError naming the first constant whose value cannot work, and why."""

    def need(ok: bool, name: str, why: str) -> None:
        if not ok:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{name} = {getattr(cfg, name)!r}: {why} ({flag}, or config.py).")

    for name in ("epochs", "batch_size", "sample_every", "checkpoint_every", "critic_steps"):
        need(getattr(cfg, name) >= 1, name, "must be at least 1")
    for name in ("sample_rate", "n_fft", "hop", "n_mels", "frames", "latent_dim", "norm_groups"):
        need(getattr(cfg, name) >= 1, name, "must be at least 1")
    for name in ("generator_lr", "critic_lr", "log_floor"):
        value = getattr(cfg, name)
        need(math.isfinite(value) and value > 0, name, "must be a positive number")
    for name in ("gp_weight", "l1_weight"):
        value = getattr(cfg, name)
        need(math.isfinite(value) and value >= 0, name, "must be zero or a positive number")
    need(0 <= cfg.seed < 2**63, "seed", "must be a whole number from 0 to 2**63 - 1")
    need(cfg.decode_threads >= 0, "decode_threads", "must be 0 or more")
    need(all(0 <= b < 1 for b in cfg.betas), "betas", "must lie in [0, 1)")
    need(cfg.hop <= cfg.n_fft, "hop", f"must not exceed n_fft ({cfg.n_fft})")
    need(0 <= cfg.f_min < cfg.f_max, "f_min", f"must lie between 0 and f_max ({cfg.f_max})")
    need(cfg.f_max <= cfg.sample_rate / 2, "f_max", "must not exceed half the sample rate")
    need(cfg.output_range[0] < cfg.output_range[1], "output_range", "must rise")
    need(
        cfg.clip_samples > cfg.n_fft // 2,
        "frames",
        "too short for one Fourier window: raise it, or lower n_fft",
    )
    for name in ("generator_channels", "critic_channels"):
        channels = getattr(cfg, name)
        need(len(channels) >= 2 and min(channels) >= 1, name, "needs at least two positive numbers")
        rungs = 2 ** len(channels)
        need(
            cfg.n_mels % rungs == 0 and cfg.frames % rungs == 0,
            name,
            f"{len(channels)} rungs need n_mels ({cfg.n_mels}) and frames ({cfg.frames}) "
            f"to be multiples of {rungs}",
        )
        need(
            all(c % cfg.norm_groups == 0 for c in channels[1:]),
            name,
            f"channels after the first must be multiples of norm_groups ({cfg.norm_groups})",
        )
    bad_name = Path(cfg.run_name).name != cfg.run_name or cfg.run_name.startswith(".")
    need(not bad_name, "run_name", "must be a plain folder name that starts with no dot")
