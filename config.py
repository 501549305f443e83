"""The constants to edit: which recipe to train, what a run does, and the six recipes.

`python train.py --help` says what each constant means, and every one of them can be given on the
command line instead: `--epochs 20`, `--optimiser.critic-lr 1e-4`. A run can only be continued with
the recipe it began with. What is not stated here is off, or usual (soundgan/settings.py).
"""

from dataclasses import replace

from soundgan.models.convolutional import ConvolutionalCritic, ConvolutionalGenerator
from soundgan.models.residual import ProjectionCritic, ResidualGenerator
from soundgan.settings import GRIFFIN_LIM, LIBROSA, NO_VOCODER, Config, Spectrogram, Waveform
from soundgan.training.objectives import CrossEntropy, Relativistic, WassersteinClip, WassersteinGP
from soundgan.training.optimisers import Adam, RMSprop

RECIPE = "sn-wgan-gp"  # what `python train.py` trains when no recipe is named

# ---- a run --------------------------------------------------------------------------------------

RUN = {
    "data_dir": "data",  # folder of your sounds: data/<class>/*.wav
    "output_dir": "outputs",  # folder that holds the runs
    "run_name": "",  # folder of the run below it; "": the recipe's name
    "sample_every": "auto",  # epochs between two sets of sounds; auto: 10, or as time allows
    "score_every": "auto",  # epochs between two scorings; 0: never; auto: 50, or as time allows
    "score_clips": 16,  # sounds a class that are generated for a scoring
    "checkpoint_every": 1,  # epochs between two checkpoints
    "holdout": 0.1,  # share of each class that is scored against and never trained on
    "holdout_dir": "",  # or a folder of class folders to score against
    "seed": 42,
    "device": "auto",  # auto, cuda, cuda:1, cpu
    "deterministic": False,  # on CUDA: bit-identical runs, slower
    "tf32": True,  # on CUDA: float32 products in TF32
    "graph": True,  # on CUDA: replay a step as one graph
    "compile": True,  # on CUDA: GroupNorm's second derivatives as one kernel
    "background": "auto",  # samples and scores in a second process: auto, on, off
    "decode_threads": 0,  # 0: one a processor core
    "tensorboard": False,
}

# ---- sn-wgan-gp, the default --------------------------------------------------------------------
# Conditional WGAN-GP with a spectral-norm and GroupNorm critic, two time scales and an L1 term, on
# the very log-mels that HiFi-GAN was trained on.

SN_WGAN_GP = Config(
    **RUN,
    recipe="sn-wgan-gp",
    epochs=300,
    batch_size=16,
    vocoder="speechbrain/tts-hifigan-libritts-22050Hz",
    sound=Spectrogram(
        sample_rate=22050,
        n_fft=1024,
        hop=256,
        frames=352,  # 4.1 s
        n_mels=80,
        f_max=8000.0,
        compression="ln",
        compression_constant=1e-5,
    ),
    generator=ConvolutionalGenerator(
        latent_dim=100,
        channels=(256, 128, 64, 32),
        kernel=4,
        norm="group",
        activation="leaky_relu",
        output="clamp",
        output_range=(-15.0, 1.0),
        init_std=0.02,
    ),
    critic=ConvolutionalCritic(
        channels=(32, 64, 128, 256),
        kernel=4,
        norm="group",
        spectral_norm=True,
        label_map_scale=0.1,
        init_std=0.02,
    ),
    objective=WassersteinGP(gp_weight=4.0, l1_weight=1.0),
    optimiser=Adam(generator_lr=1e-4, critic_lr=2e-5, betas=(0.0, 0.99), critic_steps=3),
)

# ---- cgan ---------------------------------------------------------------------------------------
# Conditional GAN with a PatchGAN discriminator and cross-entropy, in mixed precision.

CGAN = Config(
    **RUN,
    recipe="cgan",
    epochs=200,
    batch_size=32,
    vocoder=GRIFFIN_LIM,
    sound=Spectrogram(
        sample_rate=22050,
        n_fft=1024,
        hop=256,
        frames=512,  # 5.9 s
        n_mels=128,
        f_max=11025.0,
        mel_scale="htk",
        mel_norm="none",
        power=2.0,
        compression="log1p",
        compression_constant=1.0,
    ),
    generator=ConvolutionalGenerator(
        latent_dim=100,
        channels=(256, 128, 64, 32),
        kernel=4,
        norm="batch",
        activation="relu",
        output="relu",
    ),
    critic=ConvolutionalCritic(channels=(32, 64, 128, 256), kernel=4, norm="batch", head="patch"),
    objective=CrossEntropy(),
    optimiser=Adam(generator_lr=2e-4, critic_lr=2e-4, betas=(0.5, 0.999), precision="fp16"),
)

# ---- frequency-quest ----------------------------------------------------------------------------
# Conditional WGAN-GP without normalisation in the critic, on the mels of HiFi-GAN.

FREQUENCY_QUEST = Config(
    **RUN,
    recipe="frequency-quest",
    epochs=200,
    batch_size=128,
    vocoder="speechbrain/tts-hifigan-ljspeech",
    sound=Spectrogram(
        sample_rate=22050,
        n_fft=1024,
        hop=256,
        frames=512,
        n_mels=80,
        f_max=8000.0,
        compression="log1p",
        compression_constant=1000.0,
    ),
    generator=ConvolutionalGenerator(
        latent_dim=100,
        channels=(256, 128, 64, 32),
        kernel=4,
        norm="batch",
        activation="relu",
        output="relu",
    ),
    critic=ConvolutionalCritic(channels=(32, 64, 128, 256), kernel=4),
    objective=WassersteinGP(gp_weight=10.0),
    optimiser=Adam(
        generator_lr=2e-4, critic_lr=2e-4, betas=(0.5, 0.999), critic_steps=5, fresh_batches=True
    ),
)

# ---- lofi-wgan ----------------------------------------------------------------------------------
# Unconditional WGAN-GP for music: long recordings, square dB spectrograms, nearest upsampling.

LOFI_WGAN = Config(
    **RUN,
    recipe="lofi-wgan",
    epochs=30,
    batch_size=16,
    conditional=False,
    vocoder=LIBROSA,
    sound=Spectrogram(
        cut="consecutive",
        sample_rate=22050,
        n_fft=2048,
        hop=512,
        frames=256,
        n_mels=256,
        f_max=11025.0,
        power=2.0,
        compression="db",
        compression_constant=80.0,
    ),
    generator=ConvolutionalGenerator(
        latent_dim=128,
        channels=(1024, 512, 256, 128, 64),
        kernel=3,
        upsampling="nearest",
        norm="batch",
        activation="leaky_relu",
        bias=False,
        project_activation=True,
        norm_output=True,
        output="tanh",
    ),
    critic=ConvolutionalCritic(
        channels=(64, 128, 256, 512), kernel=5, dropout=(0.0, 0.3, 0.3, 0.2)
    ),
    objective=WassersteinGP(gp_weight=10.0),
    optimiser=Adam(generator_lr=2e-4, critic_lr=2e-4, betas=(0.5, 0.9), critic_steps=3),
)

# ---- wavegan ------------------------------------------------------------------------------------
# Unconditional WGAN with clipped weights on raw audio, one second at 16 384 Hz.

WAVEGAN = Config(
    **RUN,
    recipe="wavegan",
    epochs=200,
    batch_size=64,
    conditional=False,
    vocoder=NO_VOCODER,
    sound=Waveform(cut="consecutive", sample_rate=16384, samples=16384),
    generator=ConvolutionalGenerator(
        latent="uniform",
        latent_dim=100,
        channels=(1024, 512, 256, 128, 64),
        kernel=25,
        stride=4,
        norm="none",
        activation="relu",
        project_activation=True,
        output="tanh",
    ),
    critic=ConvolutionalCritic(
        channels=(64, 128, 256, 512, 1024), kernel=25, stride=4, phase_shuffle=2
    ),
    objective=WassersteinClip(weight_clip=0.01),
    optimiser=RMSprop(generator_lr=5e-5, critic_lr=5e-5, critic_steps=5, fresh_batches=True),
)

# ---- best, for your own sounds ------------------------------------------------------------------
# What this project recommends: the log-mels and vocoder of the default, with what was found to
# matter with few clips. Relativistic loss with zero-centred penalties (Huang et al. 2024, R3GAN),
# residual networks with a style code (Karras et al. 2019) and a projection critic with an auxiliary
# classifier (Miyato & Koyama 2018; Odena et al. 2017) and latent reconstruction (Chen et al. 2016),
# the same random changes of real and generated clips (Zhao et al. 2020), averaged weights (Yazici
# et al. 2019). Small networks on patches, small batches and bf16: many updates count for more.

BEST = Config(
    **RUN,
    recipe="best",
    epochs=600,
    batch_size=8,
    balance=True,
    vocoder="speechbrain/tts-hifigan-libritts-22050Hz",
    sound=replace(SN_WGAN_GP.sound, standardise=True, jitter=1.0),
    generator=ResidualGenerator(
        latent_dim=32,
        latent_spread=1.2,
        channels=(160, 96, 64),
        patch=4,
        style_dim=192,
        output_range=(-11.512925464970229, 4.0),  # ln 1e-5, the floor of the log-mels
        denoiser_channels=(48, 96),
        denoiser_noise=1.5,
    ),
    critic=ProjectionCritic(channels=(48, 96, 160), patch=4, features=256, augment=0.6),
    objective=Relativistic(r1_r2_weight=100.0, r1_r2_every=4, class_weight=0.1, latent_weight=1.0),
    optimiser=Adam(
        generator_lr=6e-4,
        critic_lr=6e-4,
        betas=(0.0, 0.99),
        precision="bf16",
        ema_half_life=2000.0,
    ),
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
