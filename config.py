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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

RECIPE = "sn-wgan-gp"  # what `python train.py` trains when no recipe is named

GRIFFIN_LIM = "griffin-lim"  # the vocoder that needs nothing but torchaudio
LIBROSA = "librosa"  # librosa's mel inversion: slow, and what lofi-wgan's authors used
NO_VOCODER = "none"  # for raw audio
GRIFFIN_LIM_ITERATIONS = 64
LIBROSA_ITERATIONS = 32
MAX_SECONDS = 600  # longest sound that generate.py makes at a time
SHOW_MEGABYTES = 24  # sounds and pictures that a notebook page embeds at most (report.show)
UNCONDITIONAL_SAMPLES = 8  # sounds of a set where there are no classes
RESTORED_PEAK = 0.7  # of sounds from spectrograms that know no level (-3 dBFS)
VOCODER_BATCH = 16  # clips vocoded at a time: bounds memory when many are wanted
HUB_SECONDS = 3.0  # how long the model hub may take to answer before it counts as out of reach

# Published vocoders, each pinned to one commit (55.8 MB to fetch, once).
VOCODER_REVISIONS = {
    "speechbrain/tts-hifigan-libritts-22050Hz": "4188503131602dc234f48d7f22eebea93d788736",
    "speechbrain/tts-hifigan-ljspeech": "cf42f2c3dfd36141d8961874030f81e9221d14e9",
}

# The spectrogram those vocoders were trained on; on any other grid they play noise.
HIFIGAN_GRID = {
    "sample_rate": 22050,
    "n_fft": 1024,
    "hop": 256,
    "n_mels": 80,
    "f_min": 0.0,
    "f_max": 8000.0,
    "mel_scale": "slaney",
    "mel_norm": "slaney",
    "power": 1.0,
}
HIFIGAN_FLOOR = 1e-5  # mel magnitudes are clamped to this before the logarithm it expects

# Files whose header states something outside these limits are damaged or not meant to be heard;
# resampling a "1 Hz" file would ask for tens of gigabytes.
RATE_LIMITS = (1_000, 768_000)  # Hz
MAX_CHANNELS = 64
MAX_AMPLITUDE = 1e3  # full scale is 1; a float file of int16 values passes 1 but is not audio
SILENCE = 1e-4  # peak below which a clip is silent (-80 dBFS): three steps of a 16-bit file

HOLD_OUT_FROM = 20  # clips of a class from which on some of them are held out
HELD_OUT_AT_MOST = 0.25  # of a class, where whole sources make it more than was asked for

# Scores: what the sounds are heard on, whatever the recipe, and the classifiers that hear them.
SCORE_GRID = {
    "sample_rate": 22050,
    "n_fft": 1024,
    "hop_length": 512,
    "n_mels": 64,
    "f_min": 20.0,
    "f_max": 8000.0,
    "power": 1.0,
}
SCORE_FLOOR = 1e-4
SCORE_LEAST = 4  # sounds that are generated of the rarest class
SCORE_DRAWS = 10  # subsets over which figures that depend on the number of sounds are averaged
SCORE_BOOTSTRAP = 500  # draws of the kernel distance's interval
SCORE_NEIGHBOUR = 5  # the k of density and coverage
SCORE_DIRECTIONS = 1024  # of the sliced Wasserstein distance
SCORE_GROUPS = 8  # pseudo-classes where there is only one class
SCORE_FEW = 50  # clips below which a row is marked as uncertain
SCORE_COLLAPSE = 0.3  # diversity of a class, as a share of real clips', below which it is named
SCORE_COPY_Z = -3.0  # copying is named below this
SCORE_REAL = 2000  # most training clips that are listened to
SCORE_SEEDS = (0, 1, 2)  # one classifier each
EAR_CHANNELS = (16, 32, 64, 128)
EAR_DIM = 64
EAR_DROPOUT = 0.3
EAR_STEPS = 600
EAR_BATCH = 32
EAR_RATE = 3e-3
EAR_DECAY = 0.05
EAR_GAIN = 0.7  # nepers (6 dB)
EAR_MASK = 0.25  # of the bands, and of the frames, at most

BATCHES_AHEAD = 3  # batches in memory where they are read from the disk; at least 2
UPLOAD_CLIPS = 256  # clips on their way to the GPU at a time: bounds what the host holds
CHECKPOINT_SECONDS = 10.0  # s between two checkpoints, at least (epochs may be shorter)
STOP_PATIENCE = 20.0  # s that a stopped run waits for scores being made in the background
BACKGROUND_LINGER = 5.0  # s for the background process to end by itself
BACKGROUND_SAID = 5.0  # s of waiting for the background process after which that is said
BACKGROUND_NICE = 10  # by how much it lets training go first where both want a core

VARY_LEVEL = 0.2  # standard deviations (nepers): of a clip's level,
VARY_TILT = 0.5  # and of its highest band beside its middle one
AUGMENT_TURN = 0.25  # of a clip's length, that it is turned along time at most
AUGMENT_SPEED = 0.3  # logarithm of the factor on it, at most (about a third)
AUGMENT_GAIN = 0.75  # standard deviation (nepers)
AUGMENT_COLOUR = 0.5  # the same, of the outermost bands beside the middle one
AUGMENT_PITCH = 0.09  # of the bands, that they are shifted at most
AUGMENT_MASK = 0.2  # of the bands, and of the frames, at most

RANKS_PATIENCE = 4 * 3600  # s that ranks wait for rank 0, which decodes or scores meanwhile
RANKS_LINGER = 3.0  # s for the rank that knows the reason to end first: torchrun reports that one

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
    """Epochs between two checkpoints: what a power cut can cost. Of short epochs, those of ten
    seconds (CHECKPOINT_SECONDS); of a minute while something is made in the background."""
    seed: int = 42
    """Decides initial weights, order of clips, latents and the sounds that are drawn every time."""
    device: str = "auto"
    """auto (CUDA where there is one), cuda, cuda:1, cpu."""
    deterministic: bool = False
    """On CUDA: two runs with one seed are identical, and slower (the CPU always is identical)."""
    tf32: bool = True
    """On CUDA: let matrix units round float32 factors to TF32 (10-bit mantissa)."""
    graph: bool = True
    """On CUDA: capture a step once and replay it as one graph of operations (the same numbers)."""
    compile: bool = False
    """Fuse the formula of GroupNorm's second derivatives (torch.compile; needs a C compiler, takes
    half a minute once): meant for long runs on CUDA, slower on a CPU."""
    holdout: float = 0.1
    """Share of each class (of 20 clips or more) to score against and not train on; 0: none."""
    holdout_dir: str = ""
    """Folder of class folders to score against; then all of DATA_DIR is trained on."""
    score_every: int = 50
    """Epochs between two scorings (one more is made after the last epoch); 0: never."""
    score_clips: int = 16
    """Sounds a class that are generated for a scoring."""
    background: Literal["auto", "on", "off"] = "auto"
    """Make samples, scores and pages in a second process while training goes on; auto: with CUDA
    only (on a CPU both would fight for the same cores). The files are the same."""
    decode_threads: int = 0
    """Threads that decode files the first time; 0: one a processor core."""
    tensorboard: bool = False
    """Also write TensorBoard events (scalars, pictures, sounds) into RUN/tensorboard."""
    dry_run: bool = False
    """Check data, vocoder, memory and one step, say what a run would do and take, write nothing."""

    # ---- the recipe: what a checkpoint must agree on, but for FREE -------------------------------

    recipe: Annotated[str, tyro.conf.Suppress]
    """Name of the recipe these numbers belong to."""
    epochs: int
    """Epochs of the whole run; raise it to extend a finished one."""
    vocoder: str
    """Hub name or folder of a SpeechBrain HiFi-GAN (vocoder.py trains one); folder of a BigVGAN v2;
    griffin-lim; librosa; none (raw audio)."""

    # What a clip is.
    representation: Literal["mel", "wave"]
    """mel: spectrograms (1, M, T); wave: raw audio (1, L)."""
    cut: Literal["first", "consecutive"]
    """first: the beginning of each file; consecutive: all of it, in clips one after the other."""
    sample_rate: int
    """Samples a second (Hz) that every clip is resampled to."""
    n_fft: int
    """Length of the Fourier transform and of its Hann window, in samples."""
    hop: int
    """Samples between two frames."""
    frames: int
    """Frames T; a clip is cut or zero-padded to (T - 1) * hop samples (raw audio: L = T * hop)."""
    n_mels: int
    """Mel bands M of the spectrogram."""
    f_min: float
    """Lower edge of the lowest mel band (Hz)."""
    f_max: float
    """Upper edge of the highest mel band (Hz)."""
    mel_scale: Literal["slaney", "htk"]
    """Formula of the mel scale."""
    mel_norm: Literal["slaney", "none"]
    """slaney: each band's filter has unit area; none: unit height."""
    power: float
    """Exponent of the STFT's magnitude: 1 magnitude, 2 power."""
    compression: Literal["ln", "log1p", "db"]
    """ln: log(clamp(mel, c)); log1p: log1p(c mel); db: decibels below the clip's own maximum, floor
    at c dB, scaled to [-1, 1]. c is the next constant."""
    compression_constant: float
    """The c of the compression: a floor, a factor, or a range in dB."""

    # The networks.
    conditional: bool
    """Whether class labels reach both networks; without, class folders are only folders."""
    latent: Literal["normal", "uniform"]
    """Distribution of the latent z: N(0, 1) or U(-1, 1)."""
    latent_dim: int
    """Length of the latent vector z."""
    latent_spread: float
    """How far samples, scores and generate.py draw latents, as a multiple of training's: under 1
    more typical sounds (truncation, Brock et al. 2019), over 1 more different ones."""
    init_std: float
    """Standard deviation of the initial weights (biases 0); 0: PyTorch's own initialisation."""
    stride: int
    """How much every rung of both networks changes the size of its map."""
    norm_groups: int
    """Groups of every GroupNorm."""
    blocks: Literal["plain", "residual"]
    """plain: a rung is one convolution, and the constants down to label_map_scale say which;
    residual: two convolutions in a residual block, with style and projection (residual.py), where
    of those only the channels, norm_groups and output_range count."""
    patch: int
    """Side of the square of the spectrogram that is one place of the largest maps (residual
    blocks); 0 with plain ones."""
    style_dim: int
    """Length of the style code that scales and shifts the generator's norms (residual blocks)."""
    critic_features: int
    """Length of the critic's feature vector, onto which labels are projected (residual blocks)."""
    standardise: bool
    """Whether the networks work in units of each band's deviation from its mean, over the clips
    that are trained on."""
    attention: int
    """Rung of the generator after which self-attention follows (SAGAN), in the critic at the map of
    the same size; 0: none."""
    generator_channels: tuple[int, ...]
    """Channels of the generator's feature maps, from the smallest up."""
    generator_kernel: int
    """Kernel of the generator's convolutions."""
    upsampling: Literal["transposed", "nearest"]
    """A rung's way up: transposed convolution, or repetition and then convolution."""
    generator_norm: Literal["none", "batch", "group"]
    """Normalisation after every rung of the generator but the last."""
    generator_activation: Literal["relu", "leaky_relu"]
    """Activation after every rung of the generator but the last."""
    generator_bias: bool
    """Whether the generator's layers have biases."""
    project_activation: bool
    """Whether normalisation and activation follow the generator's first, linear layer too."""
    norm_output: bool
    """Whether normalisation stands before the output's activation too."""
    output: Literal["clamp", "relu", "tanh"]
    """The generator's last activation."""
    output_range: tuple[float, float] | None
    """Range of the output for clamp; None for the others."""
    critic_channels: tuple[int, ...]
    """Channels of the critic's feature maps, from the largest down."""
    critic_kernel: int
    """Kernel of the critic's convolutions."""
    critic_norm: Literal["none", "batch", "group"]
    """Normalisation after every rung of the critic but the first."""
    spectral_norm: bool
    """Whether every convolution of the critic is spectrally normalised."""
    critic_dropout: tuple[float, ...]
    """Dropout after each rung of the critic; empty: none."""
    phase_shuffle: int
    """Places by which raw audio's feature maps are shifted at random between the critic's rungs."""
    critic_head: Literal["full", "patch"]
    """full: one score a clip, from the whole last map; patch: a map of scores (PatchGAN)."""
    label_map_scale: float
    """Factor on the critic's label map."""

    # The objective and its optimisation.
    objective: Literal["wgan-gp", "wgan-clip", "bce", "relativistic"]
    """Wasserstein loss with gradient penalty or with clipped weights, binary cross-entropy, or that
    of the difference between a real and a generated clip."""
    gp_weight: float
    """Weight of the gradient penalty (wgan-gp)."""
    zero_weight: float
    """Weight of the zero-centred penalties on real and generated clips (R1 and R2); 0: none."""
    zero_every: int
    """Critic updates from one zero-centred penalty to the next (each weighs as many)."""
    aux_weight: float
    """Weight of telling the class, in both networks' losses (residual blocks); 0: none."""
    recall_weight: float
    """Weight of telling a generated clip's latent, likewise: sounds of a class stay different."""
    vary: float
    """How much level and colour of the training clips change from step to step (times VARY_LEVEL
    and VARY_TILT), which the generator learns too: new sounds keep off the known ones; 0: none."""
    augment: float
    """Chance of each random change of what the critic sees, real and generated; 0: none."""
    average: float
    """Generator updates after which half of the averaged weights is new: those are what samples,
    scores and generate.py use; 0: no averaging."""
    weight_clip: float
    """Largest absolute value of the critic's weights (wgan-clip)."""
    l1_weight: float
    """Weight of L1(generated, real clip of the same class) in the generator's loss."""
    critic_steps: int
    """Critic updates a generator update."""
    fresh_batches: bool
    """Whether each of these critic updates takes a new real batch."""
    balance: bool
    """Whether an epoch has equally many clips of every class, those of small ones several times."""
    optimiser: Literal["adam", "rmsprop"]
    """Optimiser of both networks."""
    generator_lr: float
    """Learning rate of the generator."""
    critic_lr: float
    """Learning rate of the critic."""
    betas: tuple[float, float]
    """Adam's decay rates; RMSprop uses the second one."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Of the forward passes, the gradient penalty excepted; fp16 is for CUDA only."""
    batch_size: int
    """Clips a step, of all ranks together; the last short batch of an epoch is dropped."""

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / (self.run_name or self.recipe)

    def is_sampled(self, epoch: int) -> bool:
        """Whether a set of samples belongs to an epoch: first, last, every `sample_every`."""
        return epoch in (1, self.epochs) or (epoch > 0 and epoch % self.sample_every == 0)

    def is_scored(self, epoch: int) -> bool:
        """Whether scores belong to an epoch: the last and every `score_every` (0: none does)."""
        every = self.score_every
        return every > 0 and epoch > 0 and (epoch == self.epochs or epoch % every == 0)

    @property
    def cache_dir(self) -> Path:
        return Path(self.output_dir) / ".cache"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip as the networks see it: (1, M, T), or (1, L) for raw audio."""
        if self.representation == "wave":
            return (1, self.wav_samples)
        return (1, self.n_mels, self.frames)

    @property
    def clip_samples(self) -> int:
        """Samples of a clip before the transform: what T centred frames span, or L."""
        return self.wav_samples if self.representation == "wave" else (self.frames - 1) * self.hop

    @property
    def clip_seconds(self) -> float:
        return self.clip_samples / self.sample_rate

    @property
    def wav_samples(self) -> int:
        """Samples of a written WAV: every frame becomes one hop."""
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


# The default: conditional WGAN-GP with a spectral-norm and GroupNorm critic, two time scales and an
# L1 term, on the very log-mels that HiFi-GAN was trained on.
SN_WGAN_GP = Config(
    recipe="sn-wgan-gp",
    epochs=300,
    vocoder="speechbrain/tts-hifigan-libritts-22050Hz",
    representation="mel",
    cut="first",
    sample_rate=22050,
    n_fft=1024,
    hop=256,
    frames=352,
    n_mels=80,
    f_min=0.0,
    f_max=8000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power=1.0,
    compression="ln",
    compression_constant=1e-5,
    conditional=True,
    latent="normal",
    latent_dim=100,
    latent_spread=1.0,
    init_std=0.02,
    stride=2,
    norm_groups=8,
    blocks="plain",
    patch=0,
    style_dim=0,
    critic_features=0,
    standardise=False,
    attention=0,
    generator_channels=(256, 128, 64, 32),
    generator_kernel=4,
    upsampling="transposed",
    generator_norm="group",
    generator_activation="leaky_relu",
    generator_bias=True,
    project_activation=False,
    norm_output=False,
    output="clamp",
    output_range=(-15.0, 1.0),
    critic_channels=(32, 64, 128, 256),
    critic_kernel=4,
    critic_norm="group",
    spectral_norm=True,
    critic_dropout=(),
    phase_shuffle=0,
    critic_head="full",
    label_map_scale=0.1,
    objective="wgan-gp",
    gp_weight=4.0,
    zero_weight=0.0,
    zero_every=1,
    aux_weight=0.0,
    recall_weight=0.0,
    vary=0.0,
    augment=0.0,
    average=0.0,
    weight_clip=0.0,
    l1_weight=1.0,
    critic_steps=3,
    fresh_batches=False,
    balance=False,
    optimiser="adam",
    generator_lr=1e-4,
    critic_lr=2e-5,
    betas=(0.0, 0.99),
    precision="fp32",
    batch_size=16,
)

# Conditional GAN with a PatchGAN discriminator and cross-entropy, in mixed precision.
CGAN = Config(
    recipe="cgan",
    epochs=200,
    vocoder=GRIFFIN_LIM,
    representation="mel",
    cut="first",
    sample_rate=22050,
    n_fft=1024,
    hop=256,
    frames=512,
    n_mels=128,
    f_min=0.0,
    f_max=11025.0,
    mel_scale="htk",
    mel_norm="none",
    power=2.0,
    compression="log1p",
    compression_constant=1.0,
    conditional=True,
    latent="normal",
    latent_dim=100,
    latent_spread=1.0,
    init_std=0.0,
    stride=2,
    norm_groups=8,
    blocks="plain",
    patch=0,
    style_dim=0,
    critic_features=0,
    standardise=False,
    attention=0,
    generator_channels=(256, 128, 64, 32),
    generator_kernel=4,
    upsampling="transposed",
    generator_norm="batch",
    generator_activation="relu",
    generator_bias=True,
    project_activation=False,
    norm_output=False,
    output="relu",
    output_range=None,
    critic_channels=(32, 64, 128, 256),
    critic_kernel=4,
    critic_norm="batch",
    spectral_norm=False,
    critic_dropout=(),
    phase_shuffle=0,
    critic_head="patch",
    label_map_scale=1.0,
    objective="bce",
    gp_weight=0.0,
    zero_weight=0.0,
    zero_every=1,
    aux_weight=0.0,
    recall_weight=0.0,
    vary=0.0,
    augment=0.0,
    average=0.0,
    weight_clip=0.0,
    l1_weight=0.0,
    critic_steps=1,
    fresh_batches=False,
    balance=False,
    optimiser="adam",
    generator_lr=2e-4,
    critic_lr=2e-4,
    betas=(0.5, 0.999),
    precision="fp16",
    batch_size=32,
    sample_every=1,
)

# Conditional WGAN-GP without normalisation in the critic, on the grid of a HiFi-GAN voice.
FREQUENCY_QUEST = Config(
    recipe="frequency-quest",
    epochs=200,
    vocoder="speechbrain/tts-hifigan-ljspeech",
    representation="mel",
    cut="first",
    sample_rate=22050,
    n_fft=1024,
    hop=256,
    frames=512,
    n_mels=80,
    f_min=0.0,
    f_max=8000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power=1.0,
    compression="log1p",
    compression_constant=1000.0,
    conditional=True,
    latent="normal",
    latent_dim=100,
    latent_spread=1.0,
    init_std=0.0,
    stride=2,
    norm_groups=8,
    blocks="plain",
    patch=0,
    style_dim=0,
    critic_features=0,
    standardise=False,
    attention=0,
    generator_channels=(256, 128, 64, 32),
    generator_kernel=4,
    upsampling="transposed",
    generator_norm="batch",
    generator_activation="relu",
    generator_bias=True,
    project_activation=False,
    norm_output=False,
    output="relu",
    output_range=None,
    critic_channels=(32, 64, 128, 256),
    critic_kernel=4,
    critic_norm="none",
    spectral_norm=False,
    critic_dropout=(),
    phase_shuffle=0,
    critic_head="full",
    label_map_scale=1.0,
    objective="wgan-gp",
    gp_weight=10.0,
    zero_weight=0.0,
    zero_every=1,
    aux_weight=0.0,
    recall_weight=0.0,
    vary=0.0,
    augment=0.0,
    average=0.0,
    weight_clip=0.0,
    l1_weight=0.0,
    critic_steps=5,
    fresh_batches=True,
    balance=False,
    optimiser="adam",
    generator_lr=2e-4,
    critic_lr=2e-4,
    betas=(0.5, 0.999),
    precision="fp32",
    batch_size=128,
    sample_every=1,
)

# Unconditional WGAN-GP for music: long recordings, square dB spectrograms, nearest upsampling.
LOFI_WGAN = Config(
    recipe="lofi-wgan",
    epochs=30,
    vocoder=LIBROSA,
    representation="mel",
    cut="consecutive",
    sample_rate=22050,
    n_fft=2048,
    hop=512,
    frames=256,
    n_mels=256,
    f_min=0.0,
    f_max=11025.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power=2.0,
    compression="db",
    compression_constant=80.0,
    conditional=False,
    latent="normal",
    latent_dim=128,
    latent_spread=1.0,
    init_std=0.0,
    stride=2,
    norm_groups=8,
    blocks="plain",
    patch=0,
    style_dim=0,
    critic_features=0,
    standardise=False,
    attention=0,
    generator_channels=(1024, 512, 256, 128, 64),
    generator_kernel=3,
    upsampling="nearest",
    generator_norm="batch",
    generator_activation="leaky_relu",
    generator_bias=False,
    project_activation=True,
    norm_output=True,
    output="tanh",
    output_range=None,
    critic_channels=(64, 128, 256, 512),
    critic_kernel=5,
    critic_norm="none",
    spectral_norm=False,
    critic_dropout=(0.0, 0.3, 0.3, 0.2),
    phase_shuffle=0,
    critic_head="full",
    label_map_scale=1.0,
    objective="wgan-gp",
    gp_weight=10.0,
    zero_weight=0.0,
    zero_every=1,
    aux_weight=0.0,
    recall_weight=0.0,
    vary=0.0,
    augment=0.0,
    average=0.0,
    weight_clip=0.0,
    l1_weight=0.0,
    critic_steps=3,
    fresh_batches=False,
    balance=False,
    optimiser="adam",
    generator_lr=2e-4,
    critic_lr=2e-4,
    betas=(0.5, 0.9),
    precision="fp32",
    batch_size=16,
    sample_every=1,
)

# Unconditional WGAN on raw audio, one second at 16 384 Hz.
WAVEGAN = Config(
    recipe="wavegan",
    epochs=200,
    vocoder=NO_VOCODER,
    representation="wave",
    cut="consecutive",
    sample_rate=16384,
    n_fft=512,
    hop=128,
    frames=128,
    n_mels=64,
    f_min=0.0,
    f_max=8192.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power=1.0,
    compression="ln",
    compression_constant=1e-5,
    conditional=False,
    latent="uniform",
    latent_dim=100,
    latent_spread=1.0,
    init_std=0.0,
    stride=4,
    norm_groups=8,
    blocks="plain",
    patch=0,
    style_dim=0,
    critic_features=0,
    standardise=False,
    attention=0,
    generator_channels=(1024, 512, 256, 128, 64),
    generator_kernel=25,
    upsampling="transposed",
    generator_norm="none",
    generator_activation="relu",
    generator_bias=True,
    project_activation=True,
    norm_output=False,
    output="tanh",
    output_range=None,
    critic_channels=(64, 128, 256, 512, 1024),
    critic_kernel=25,
    critic_norm="none",
    spectral_norm=False,
    critic_dropout=(),
    phase_shuffle=2,
    critic_head="full",
    label_map_scale=1.0,
    objective="wgan-clip",
    gp_weight=0.0,
    zero_weight=0.0,
    zero_every=1,
    aux_weight=0.0,
    recall_weight=0.0,
    vary=0.0,
    augment=0.0,
    average=0.0,
    weight_clip=0.01,
    l1_weight=0.0,
    critic_steps=5,
    fresh_batches=True,
    balance=False,
    optimiser="rmsprop",
    generator_lr=5e-5,
    critic_lr=5e-5,
    betas=(0.0, 0.99),
    precision="fp32",
    batch_size=64,
)

# What this project recommends: the same log-mels and vocoder as the default, with what has been
# found to matter with few clips. Relativistic loss with zero-centred penalties (Huang et al. 2024,
# R3GAN), residual networks with a style code (Karras et al. 2019) and a projection critic that
# also tells classes (Miyato & Koyama 2018; Odena et al. 2017) and latents (Chen et al. 2016), the
# same random changes of real and generated clips (Zhao et al. 2020), averaged weights (Yazici et
# al. 2019). Small networks on patches, small batches and bf16: many updates count for more.
BEST = Config(
    recipe="best",
    epochs=600,
    vocoder="speechbrain/tts-hifigan-libritts-22050Hz",
    representation="mel",
    cut="first",
    sample_rate=22050,
    n_fft=1024,
    hop=256,
    frames=352,
    n_mels=80,
    f_min=0.0,
    f_max=8000.0,
    mel_scale="slaney",
    mel_norm="slaney",
    power=1.0,
    compression="ln",
    compression_constant=1e-5,
    conditional=True,
    latent="normal",
    latent_dim=32,
    latent_spread=1.2,
    init_std=0.0,
    stride=2,
    norm_groups=8,
    blocks="residual",
    patch=4,
    style_dim=192,
    critic_features=256,
    standardise=True,
    attention=0,
    generator_channels=(160, 96, 64),
    generator_kernel=3,
    upsampling="nearest",
    generator_norm="group",
    generator_activation="leaky_relu",
    generator_bias=True,
    project_activation=False,
    norm_output=False,
    output="clamp",
    output_range=(-11.512925464970229, 4.0),
    critic_channels=(48, 96, 160),
    critic_kernel=3,
    critic_norm="none",
    spectral_norm=False,
    critic_dropout=(),
    phase_shuffle=0,
    critic_head="full",
    label_map_scale=0.0,
    objective="relativistic",
    gp_weight=0.0,
    zero_weight=100.0,
    zero_every=4,
    aux_weight=0.1,
    recall_weight=1.0,
    vary=1.0,
    augment=0.6,
    average=2000.0,
    weight_clip=0.0,
    l1_weight=0.0,
    critic_steps=1,
    fresh_batches=False,
    balance=True,
    optimiser="adam",
    generator_lr=6e-4,
    critic_lr=6e-4,
    betas=(0.0, 0.99),
    precision="bf16",
    batch_size=8,
)

RECIPES: dict[str, Config] = {
    cfg.recipe: cfg for cfg in (SN_WGAN_GP, CGAN, FREQUENCY_QUEST, LOFI_WGAN, WAVEGAN, BEST)
}

SUMMARIES = {
    "sn-wgan-gp": "conditional WGAN-GP, spectral-norm + GroupNorm critic, TTUR, L1 (default)",
    "cgan": "conditional GAN, PatchGAN discriminator, cross-entropy, mixed precision",
    "frequency-quest": "conditional WGAN-GP, plain critic, BatchNorm generator",
    "lofi-wgan": "unconditional WGAN-GP for music: long recordings, dB spectrograms",
    "wavegan": "unconditional WGAN with clipped weights on raw audio",
    "best": "conditional, residual networks, relativistic loss, augmentation: for few clips",
}

FREE = ("epochs", "vocoder", "latent_spread")  # of a recipe, what may change


def must_match(a: dict, b: dict) -> list[str]:
    """Names of the constants that make two configurations different trainings.

    Those are the recipe's fields (the ones without a default) except those in FREE; the seed,
    which a continued run would silently ignore; and what is held out, which it must never have
    seen.
    """
    recipe = [f.name for f in dataclasses.fields(Config) if f.default is dataclasses.MISSING]
    names = [n for n in recipe if n not in FREE]
    names += ["seed", "holdout", "holdout_dir"]
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
    cfg = Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    try:
        check(cfg)
    except (TypeError, AttributeError) as error:  # "64" for 64
        raise UserError(f"{where} is damaged: a constant has the wrong type ({error}).") from error
    return cfg


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
    for name in ("generator_lr", "critic_lr", "compression_constant", "power"):
        value = getattr(cfg, name)
        need(math.isfinite(value) and value > 0, name, "must be a positive number")
    weights = [name for name in vars(cfg) if name.endswith("_weight")]
    for name in (*weights, "weight_clip", "init_std"):
        value = getattr(cfg, name)
        need(math.isfinite(value) and value >= 0, name, "must be zero or a positive number")
    need(cfg.zero_every >= 1, "zero_every", "must be at least 1")
    need(0 <= cfg.augment <= 1, "augment", "must be a chance from 0 to 1")
    need(cfg.average >= 0, "average", "must be 0 (none) or a number of updates")
    need(math.isfinite(cfg.label_map_scale), "label_map_scale", "must be a number")
    need(0 < cfg.latent_spread <= 10, "latent_spread", "must be over 0 and at most 10")
    need(0 <= cfg.seed < 2**63, "seed", "must be a whole number from 0 to 2**63 - 1")
    need(0 <= cfg.holdout <= 0.5, "holdout", "must be a share from 0 (none) to 0.5")
    need(cfg.score_every >= 0, "score_every", "must be 0 (never) or more")
    need(cfg.score_clips >= 2, "score_clips", "must be at least 2")
    need(cfg.decode_threads >= 0, "decode_threads", "must be 0 or more")
    need(all(0 <= b < 1 for b in cfg.betas), "betas", "must lie in [0, 1)")
    need(cfg.hop <= cfg.n_fft, "hop", f"must not exceed n_fft ({cfg.n_fft})")
    need(0 <= cfg.f_min < cfg.f_max, "f_min", f"must lie between 0 and f_max ({cfg.f_max})")
    need(cfg.f_max <= cfg.sample_rate / 2, "f_max", "must not exceed half the sample rate")
    need(
        cfg.clip_samples > cfg.n_fft // 2,
        "frames",
        "too short for one Fourier window: raise it, or lower n_fft",
    )
    _check_residual(cfg, need)
    _check_networks(cfg, need)
    _check_objective(cfg, need)
    bad_name = Path(cfg.run_name).name != cfg.run_name or cfg.run_name.startswith(".")
    need(not bad_name, "run_name", "must be a plain folder name that starts with no dot")


def _check_networks(cfg: Config, need: Callable[[bool, str, str], None]) -> None:
    wave = cfg.representation == "wave"
    need(cfg.stride >= 2, "stride", "must be at least 2")
    sizes = {"samples": cfg.wav_samples} if wave else {"n_mels": cfg.n_mels, "frames": cfg.frames}
    said = " and ".join(f"{name} ({size})" for name, size in sizes.items())
    for name in ("generator_channels", "critic_channels"):
        channels = getattr(cfg, name)
        need(len(channels) >= 2 and min(channels) >= 1, name, "needs at least two positive numbers")
        scale = cfg.stride ** len(channels)
        if cfg.blocks == "residual":  # the largest map has one place a patch
            scale = cfg.patch * 2 ** (len(channels) - 1)
        fits = all(size % scale == 0 for size in sizes.values())
        need(fits, name, f"{len(channels)} rungs need {said} to be multiples of {scale}")
        grouped = getattr(cfg, name.replace("channels", "norm")) == "group"
        need(
            not grouped or all(c % cfg.norm_groups == 0 for c in channels[1:]),
            name,
            f"channels after the first must be multiples of norm_groups ({cfg.norm_groups})",
        )
    for name, odd in (("generator_kernel", cfg.upsampling == "nearest"), ("critic_kernel", False)):
        kernel = getattr(cfg, name)
        least = 1 if odd else cfg.stride
        need(kernel >= least, name, f"must be at least {least}")
        need(not odd or kernel % 2 == 1, name, "must be odd with nearest upsampling")
    clamped = cfg.output == "clamp"
    good = cfg.output_range is not None and cfg.output_range[0] < cfg.output_range[1]
    need(good or not clamped, "output_range", "must be two rising numbers where output is clamp")
    rates = cfg.critic_dropout
    need(all(0 <= rate < 1 for rate in rates), "critic_dropout", "must lie in [0, 1)")
    rungs = len(cfg.critic_channels)
    need(
        len(rates) in (0, rungs), "critic_dropout", f"needs one rate a rung of the critic ({rungs})"
    )
    shift = cfg.phase_shuffle
    need(shift == 0 or wave, "phase_shuffle", "is for raw audio only: 0 otherwise")
    need(shift >= 0, "phase_shuffle", "must be 0 or more")
    deepest = len(cfg.generator_channels)
    need(
        cfg.attention == 0 or max(1, deepest - rungs) <= cfg.attention < deepest,
        "attention",
        f"must be 0 (none) or a rung from {max(1, deepest - rungs)} to {deepest - 1}",
    )


def _check_residual(cfg: Config, need: Callable[[bool, str, str], None]) -> None:
    residual, mel = cfg.blocks == "residual", cfg.representation == "mel"
    needed = ("patch", "style_dim", "critic_features")
    for name in (*needed, "aux_weight", "recall_weight"):
        value = getattr(cfg, name)
        need(residual or value == 0, name, "is for residual blocks: 0 with plain ones")
        need(value > 0 or not residual or name not in needed, name, "residual blocks need it")
    need(cfg.aux_weight == 0 or cfg.conditional, "aux_weight", "needs labels (--conditional)")
    need(mel or not residual, "blocks", "residual ones are for spectrograms")
    need(mel or not cfg.standardise, "standardise", "is for spectrograms")
    need(mel or cfg.augment == 0, "augment", "is for spectrograms: 0 otherwise")
    need(cfg.vary >= 0, "vary", "must be zero or a positive number")
    need(cfg.compression == "ln" or cfg.vary == 0, "vary", "is for natural logarithms: 0 otherwise")
    if residual:
        need(cfg.stride == 2, "stride", "residual blocks need 2")
        need(cfg.patch % 2 == 0, "patch", "must be even")
        need(cfg.output == "clamp", "output", "residual blocks need clamp")
        need(cfg.attention == 0, "attention", "residual blocks have none: 0")
        first = cfg.generator_channels[0]
        need(
            first % cfg.norm_groups == 0,
            "generator_channels",
            f"with residual blocks all must be multiples of norm_groups ({cfg.norm_groups})",
        )


def _check_objective(cfg: Config, need: Callable[[bool, str, str], None]) -> None:
    need(
        cfg.objective != "wgan-gp" or cfg.critic_norm != "batch",
        "critic_norm",
        "the gradient penalty needs a critic that judges each clip by itself: group or none",
    )
    need(
        cfg.zero_weight == 0 or cfg.critic_norm != "batch",
        "zero_weight",
        "the zero-centred penalty needs a critic that judges each clip by itself (critic_norm)",
    )
    need(cfg.objective != "wgan-gp" or cfg.gp_weight > 0, "gp_weight", "wgan-gp needs a weight")
    clip = cfg.objective == "wgan-clip"
    need(not clip or cfg.weight_clip > 0, "weight_clip", "wgan-clip needs a positive bound")
    raw = cfg.representation == "wave"
    need(
        raw == (cfg.vocoder == NO_VOCODER),
        "vocoder",
        f"raw audio needs no vocoder ({NO_VOCODER})" if raw else "spectrograms need a vocoder",
    )
