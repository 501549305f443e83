"""The constants of a run: the dataclasses behind `config.py`, and their checks.

A run has constants of its own (where, how often, on what) and a recipe made of five parts: sound,
generator, critic, objective, optimiser. Each part is a class with only the constants that mean
something to it. Sounds and the bases stand here; the others stand beside the code that they
describe, in `soundgan/models/` and `soundgan/training/`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import tyro

from soundgan.errors import UserError
from soundgan.parts import (
    Checked,
    Need,
    NumberOrAuto,
    Part,
    concrete,
    misfit,
    names_of,
    not_negative,
    positive,
    shown,
    types_of,
    within,
)

GRIFFIN_LIM = "griffin-lim"  # the vocoder that needs nothing but torchaudio
LIBROSA = "librosa"  # librosa's mel inversion: slow, and what the authors of lofi-wgan used
NO_VOCODER = "none"  # for raw audio

# Bounds: more than anybody needs, and less than what makes a machine stand still.
MOST_RATE = 1_000_000  # Hz
MOST_SAMPLES = 2**26  # of a clip, as samples or as values of a spectrogram (50 minutes at 22 kHz)
MOST_CHANNELS = 2**16  # of one layer
MOST_WEIGHTS = 10**9  # of one network
MOST_TIMES = 10**12  # epochs


# ---- sound --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sound(Part):
    """What a clip is: `Spectrogram` or `Waveform`."""

    abstract: ClassVar[bool] = True

    raw: ClassVar[bool]  # whether the networks see samples

    sample_rate: int
    """Samples a second (Hz) that every clip is resampled to."""
    cut: Literal["first", "consecutive"] = "first"
    """first: the beginning of each file; consecutive: all of it, in clips one after the other."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip as the networks see it: (1, M, T), or (1, L) for raw audio."""
        raise NotImplementedError

    @property
    def clip_samples(self) -> int:
        """Samples of a clip before the transform."""
        raise NotImplementedError

    @property
    def wav_samples(self) -> int:
        """Samples of a written WAV."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Spectrogram(Sound):
    """Mel spectrograms `(1, M, T)`."""

    raw: ClassVar[bool] = False

    n_fft: int
    """Length of the Fourier transform and of its Hann window, in samples."""
    hop: int
    """Samples between two frames."""
    frames: int
    """Frames T; a clip is cut or zero-padded to (T - 1) * hop samples, a WAV has T * hop."""
    n_mels: int
    """Mel bands M of the spectrogram."""
    f_min: float = 0.0
    """Lower edge of the lowest mel band (Hz)."""
    f_max: float
    """Upper edge of the highest mel band (Hz)."""
    mel_scale: Literal["slaney", "htk"] = "slaney"
    """Formula of the mel scale."""
    mel_norm: Literal["slaney", "none"] = "slaney"
    """slaney: each band's filter has unit area; none: unit height."""
    power: float = 1.0
    """Exponent of the STFT's magnitude: 1 magnitude, 2 power."""
    compression: Literal["ln", "log1p", "db"]
    """ln: log(clamp(mel, c)); log1p: log1p(c mel); db: decibels below the clip's own maximum, floor
    at c dB, scaled to [-1, 1]. c is the next constant."""
    compression_constant: float
    """The c of the compression: a floor, a factor, or a range in dB."""
    standardise: bool = False
    """Whether the networks work in units of each band's deviation from its mean, over the training
    clips."""
    jitter: float = 0.0
    """How much level and spectral tilt of the training clips change from step to step, which the
    generator learns too: new sounds keep off the known ones; 0: none, 1: as in `best`."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.n_mels, self.frames)

    @property
    def clip_samples(self) -> int:
        """What T centred frames span."""
        return (self.frames - 1) * self.hop

    @property
    def wav_samples(self) -> int:
        """Every frame becomes one hop."""
        return self.frames * self.hop

    @property
    def quietest(self) -> float:
        """What silence is in a clip's own unit: the lowest value of a real spectrogram."""
        if self.compression == "ln":
            return math.log(self.compression_constant)
        return 0.0 if self.compression == "log1p" else -1.0

    @property
    def loudest(self) -> float:
        """More than any sound of full scale can be in a clip's own unit; exp of a young generator's
        output would leave the range of floats."""
        most = float(self.n_fft) ** (self.power + 1)
        if self.compression == "ln":
            return math.log(most)
        return math.log1p(self.compression_constant * most) if self.compression == "log1p" else 1.0

    def check(self, cfg: Config, need: Need) -> None:
        within(self, need, 1, MOST_RATE, ["sample_rate"])
        within(self, need, 1, 2**16, ("n_fft", "hop", "n_mels"))
        within(self, need, 1, MOST_SAMPLES, ["frames"])
        within(self, need, 1e-30, 1e12, ["compression_constant"])
        within(self, need, 0.1, 4, ["power"])
        need(self.hop <= self.n_fft, "hop", f"must not exceed n_fft ({self.n_fft})")
        need(0 <= self.f_min < self.f_max, "f_min", f"must lie between 0 and f_max ({self.f_max})")
        need(self.f_max <= self.sample_rate / 2, "f_max", "must not exceed half the sample rate")
        long_enough = self.clip_samples > self.n_fft // 2
        need(long_enough, "frames", "too short for one Fourier window: raise it, or lower n_fft")
        short_enough = self.clip_samples <= MOST_SAMPLES
        need(short_enough, "frames", f"must make at most {MOST_SAMPLES} samples")
        for name, size in (("frames", self.frames), ("n_fft", self.n_fft)):
            need(self.n_mels * size <= MOST_SAMPLES, name, f"too much with n_mels ({self.n_mels})")
        within(self, need, 0, 100, ["jitter"])
        natural = self.compression == "ln" or self.jitter == 0
        need(natural, "jitter", "is for natural logarithms (compression ln): 0 otherwise")
        need(cfg.vocoder != NO_VOCODER, "vocoder", "spectrograms need a vocoder")


@dataclass(frozen=True, kw_only=True)
class Waveform(Sound):
    """Raw audio `(1, L)`, full scale 1."""

    raw: ClassVar[bool] = True
    standardise: ClassVar[bool] = False  # those two are for spectrograms
    jitter: ClassVar[float] = 0.0

    samples: int
    """Samples L of a clip; a file is cut or zero-padded to it."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, self.samples)

    @property
    def clip_samples(self) -> int:
        return self.samples

    @property
    def wav_samples(self) -> int:
        return self.samples

    def check(self, cfg: Config, need: Need) -> None:
        within(self, need, 1, MOST_RATE, ["sample_rate"])
        within(self, need, 1, MOST_SAMPLES, ["samples"])
        needless = cfg.vocoder == NO_VOCODER
        need(needless, "vocoder", f"raw audio needs no vocoder ({NO_VOCODER})")


# ---- the other parts: what all kinds of them share ----------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Network(Part):
    """What generators and critics have in common."""

    abstract: ClassVar[bool] = True

    @property
    def batch_norm(self) -> bool:
        """Whether what it does with one clip depends on the batch around it."""
        return getattr(self, "norm", "") == "batch"

    def build(self, cfg: Config, num_classes: int) -> torch.nn.Module:
        """The network, initialised, on the CPU."""
        raise NotImplementedError

    def size(self, cfg: Config, num_classes: int = 0) -> int:
        """About how many weights it has; 0: it does not say."""
        return 0

    def check(self, cfg: Config, need: Need) -> None:
        fits = self.size(cfg) <= MOST_WEIGHTS
        need(fits, "channels", f"must make less than {MOST_WEIGHTS} weights")


@dataclass(frozen=True, kw_only=True)
class Generator(Network):
    """Latents and labels -> clips. Its kinds stand in `soundgan/models/`."""

    abstract: ClassVar[bool] = True

    latent: Literal["normal", "uniform"] = "normal"
    """Distribution of the latent z: N(0, 1) or U(-1, 1)."""
    latent_dim: int
    """Length of the latent vector z."""
    latent_spread: float = 1.0
    """How far samples, scores and generate.py draw latents, as a multiple of training's: under 1
    more typical sounds (truncation, Brock et al. 2019), over 1 more different ones."""

    def check(self, cfg: Config, need: Need) -> None:
        within(self, need, 1, MOST_CHANNELS, ["latent_dim"])
        super().check(cfg, need)
        need(0 < self.latent_spread <= 10, "latent_spread", "must be over 0 and at most 10")


@dataclass(frozen=True, kw_only=True)
class Critic(Network):
    """Clips and labels -> scores. Its kinds stand in `soundgan/models/`."""

    abstract: ClassVar[bool] = True
    auxiliary: ClassVar[bool] = False  # whether its outputs can have class logits and latents

    augment: float = 0.0
    """Chance of each random change of what the critic sees, real and generated; 0: none."""

    def check(self, cfg: Config, need: Need) -> None:
        super().check(cfg, need)
        need(0 <= self.augment <= 1, "augment", "must be a chance from 0 to 1")
        need(not cfg.sound.raw or self.augment == 0, "augment", "is for spectrograms: 0 otherwise")
        for name in ("class_weight", "latent_weight"):
            fits = self.auxiliary or getattr(cfg.objective, name) == 0
            need(fits, f"objective.{name}", "is for a projection critic: 0 with this one")


@dataclass(frozen=True, kw_only=True)
class Objective(Part):
    """What both networks minimise. Its kinds, and the losses, stand in
    `soundgan/training/objectives.py`."""

    abstract: ClassVar[bool] = True

    l1_weight: float = 0.0
    """Weight of L1(generated, real clip of the same class) in the generator's loss."""
    r1_r2_weight: float = 0.0
    """Weight of the zero-centred gradient penalties on real (R1) and generated clips (R2); 0: none.
    """
    r1_r2_every: int = 1
    """Critic updates from one of these penalties to the next (each weighs as many)."""
    class_weight: float = 0.0
    """Weight of the auxiliary classifier, in both networks' losses (projection critic); 0: none."""
    latent_weight: float = 0.0
    """Weight of latent reconstruction, likewise: sounds of a class stay different."""

    def check(self, cfg: Config, need: Need) -> None:
        not_negative(self, need, [name for name in names_of(type(self)) if name.endswith("weight")])
        within(self, need, 1, MOST_TIMES, ["r1_r2_every"])
        alone = self.r1_r2_weight == 0 or not cfg.critic.batch_norm
        need(alone, "r1_r2_weight", "needs a critic that scores each clip by itself (critic.norm)")
        labels = self.class_weight == 0 or cfg.conditional
        need(labels, "class_weight", "needs labels (--conditional)")


@dataclass(frozen=True, kw_only=True)
class Optimiser(Part):
    """How losses become updates. Its kinds stand in `soundgan/training/optimisers.py`."""

    abstract: ClassVar[bool] = True

    generator_lr: float
    """Learning rate of the generator."""
    critic_lr: float
    """Learning rate of the critic (another one: two time scales, Heusel et al. 2017)."""
    critic_steps: int = 1
    """Critic updates a generator update."""
    fresh_batches: bool = False
    """Whether each of these critic updates takes a new real batch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward passes, the gradient penalty excepted; fp16 is for CUDA only."""
    ema_half_life: float = 0.0
    """Generator updates after which half of the averaged weights (EMA) is new: those are what
    samples, scores and generate.py use; 0: no averaging."""

    def build(self, weights: list[torch.Tensor], rate: float) -> torch.optim.Optimizer:
        """The optimiser of one network; on CUDA its steps can be captured as a graph."""
        raise NotImplementedError

    def check(self, cfg: Config, need: Need) -> None:
        within(self, need, 1, 1000, ["critic_steps"])
        positive(self, need, ("generator_lr", "critic_lr"))
        half = self.ema_half_life
        need(half >= 0, "ema_half_life", "must be 0 (none) or a number of updates")


# ---- a run --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """Constants of one run: its own, and those of its recipe."""

    # The run: may change whenever it is continued, but for MUST_MATCH.
    data_dir: str
    """Folder of your sounds: DATA_DIR/<class>/** or DATA_DIR/train/<class>/**."""
    output_dir: str
    """Folder that holds the runs, and the cache of decoded sounds."""
    run_name: str
    """Folder of this run below OUTPUT_DIR; empty: the recipe's name."""
    sample_every: NumberOrAuto
    """Epochs between two sets of pictures and WAVs, beside those of the first and the last epoch.
    auto: 10, fewer where these are long, more where sets would take over 3 % of the time
    (soundgan/report/pace.py)."""
    score_every: NumberOrAuto
    """Epochs between two scorings, beside that of the last epoch; 0: never.
    auto: 50, fewer where these are long, more where scorings would take over 7 % of the time."""
    score_clips: int
    """Sounds a class that are generated for a scoring."""
    checkpoint_every: int
    """Epochs between two checkpoints: what a power cut can cost. They are ten seconds apart at
    least, and a minute while something is made in the background."""
    holdout: float
    """Share of each class (of 20 clips or more) to score against and not train on; 0: none."""
    holdout_dir: str
    """Folder of class folders to score against; then all of DATA_DIR is trained on."""
    seed: int
    """Decides initial weights, order of clips, latents and the sounds that are drawn every time."""
    device: str
    """auto (CUDA where there is one), cuda, cuda:1, cpu."""
    deterministic: bool
    """On CUDA: two runs with one seed are identical, and slower (the CPU always is identical)."""
    tf32: bool
    """On CUDA: let matrix units round float32 factors to TF32 (10-bit mantissa)."""
    graph: bool
    """On CUDA: capture a step once and replay it as one graph of operations (the same numbers)."""
    compile: bool
    """On CUDA: GroupNorm's second derivatives as one kernel of Triton's, compiled at the first
    steps (needs a C compiler; where there is none, operation by operation)."""
    background: Literal["auto", "on", "off"]
    """Make samples, scores and pages in a second process while training goes on; auto: with CUDA
    only (on a CPU both would fight for the same cores). The files are the same."""
    decode_threads: int
    """Threads that decode files the first time; 0: one a processor core."""
    tensorboard: bool
    """Also write TensorBoard events (scalars, pictures, sounds) into RUN/tensorboard."""
    init_from: str = ""
    """Folder of another run, from whose networks a new run starts: weights, average and
    standardisation; classes may differ. A run that is continued has its own."""
    dry_run: bool = False
    """Check data, vocoder, memory and one step, say what a run would do and take, write nothing."""

    # The recipe: what a checkpoint must agree on, but for FREE.
    recipe: Annotated[str, tyro.conf.Suppress]
    """Name of the recipe these numbers belong to."""
    epochs: int
    """Epochs of the whole run; raise it to extend a finished one."""
    batch_size: int
    """Clips a step, of all ranks together; the last short batch of an epoch is dropped."""
    balance: bool = False
    """Whether an epoch has equally many clips of every class, those of small ones several times."""
    conditional: bool = True
    """Whether class labels reach both networks; without, class folders are only folders."""
    vocoder: str
    """Folder of a vocoder of your own (train_vocoder.py); hub name or folder of a SpeechBrain
    HiFi-GAN; folder of a BigVGAN v2; griffin-lim; librosa; none (raw audio)."""
    sound: Sound
    """What a clip is: a mel spectrogram, or raw audio."""
    generator: Generator
    """Network that makes clips."""
    critic: Critic
    """Network that scores clips (a GAN's discriminator)."""
    objective: Objective
    """What the two networks minimise."""
    optimiser: Optimiser
    """How losses become updates."""

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / (self.run_name or self.recipe)

    @property
    def cache_dir(self) -> Path:
        return Path(self.output_dir) / ".cache"

    @property
    def latent_dim(self) -> int:
        return self.generator.latent_dim

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip as the networks see it: (1, M, T), or (1, L) for raw audio."""
        return self.sound.shape

    @property
    def clip_seconds(self) -> float:
        return self.sound.clip_samples / self.sound.sample_rate

    def check(self, source: str = "") -> None:
        """Raise UserError naming the first constant whose value cannot work, and why.

        `source`: the file that the constants were read from, where they are none of the user's.
        """
        self.check_types(source)  # all of them first: a check may look at any constant
        _check_run(self, _need(self, "", source))
        for where, part in parts_of(self).items():
            part.check(self, _need(self, where, source))

    def check_types(self, source: str = "") -> None:
        """Raise UserError naming the first constant that is of another type than annotated."""
        for name, base in BASES.items():
            if type(getattr(self, name)).__name__ not in concrete(base):
                known = ", ".join(concrete(base))
                raise UserError(f"{name} of {self.recipe} must be one of {known} (config.py).")
        for where, owner in {"": self, **parts_of(self)}.items():
            for name, kind in types_of(type(owner)).items():
                why = misfit(kind, getattr(owner, name))
                _need(self, where, source)(not why, name, why)


def _need(cfg: Config, where: str, source: str) -> Need:
    """What a check calls; it raises UserError where a constant does not hold.

    A name is one of the part `where`, or else a full name.
    """

    def need(ok: bool, name: str, why: str) -> None:
        if ok:
            return
        own = where and hasattr(getattr(cfg, where), name)
        full = f"{where}.{name}" if own else name
        said = f"{full} = {shown(attrgetter(full)(cfg))}: {why}"
        if source:
            raise UserError(f"{source} is damaged, or was edited: {said}.")
        raise UserError(f"{said} (--{full.replace('_', '-')}, or config.py).")

    return need


def _check_run(cfg: Config, need: Need) -> None:
    within(cfg, need, 1, MOST_TIMES, ("epochs", "checkpoint_every"))
    for name, least in (("sample_every", 1), ("score_every", 0)):
        number = getattr(cfg, name)
        fits = number == "auto" or least <= number <= MOST_TIMES
        need(fits, name, f"must be auto, or a number of epochs from {least} up")
    within(cfg, need, 1, 10**6, ["batch_size"])
    need(0 <= cfg.seed < 2**63, "seed", "must be a whole number from 0 to 2**63 - 1")
    need(0 <= cfg.holdout <= 0.5, "holdout", "must be a share from 0 (none) to 0.5")
    within(cfg, need, 2, 10**5, ["score_clips"])
    within(cfg, need, 0, 1024, ["decode_threads"])
    for name in ("run_name", "recipe"):
        value = getattr(cfg, name)
        plain = Path(value).name == value and not value.startswith(".")
        need(plain, name, "must be a plain folder name that starts with no dot")
    need(bool(cfg.recipe), "recipe", "must not be empty")


def parts_of(cfg: Config) -> dict[str, Part]:
    """The five parts of a recipe by the name of their field."""
    fields = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}
    return {name: value for name, value in fields.items() if isinstance(value, Part)}


BASES = {
    "sound": Sound,
    "generator": Generator,
    "critic": Critic,
    "objective": Objective,
    "optimiser": Optimiser,
}
