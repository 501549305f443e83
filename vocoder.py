"""A vocoder of your own sounds: HiFi-GAN (Kong, Kim & Bae 2020), trained further or from scratch.

    python vocoder.py --from speechbrain/tts-hifigan-libritts-22050Hz
    python train.py --vocoder outputs/vocoder

No model sounds better than what its vocoder makes of real clips. Where that is what limits
(`samples/real` of a run, `python benchmarks/ceiling.py`), this trains the vocoder on the clips
themselves: SpeechBrain's generator and discriminators, with SpeechBrain's losses. The folder it
writes is of the form that any run can name, and every few steps it is a better one.

What training holds out is held out here too, by the same rule, so that the ceiling of held-out
clips stays an honest one.

Exit codes as of `train.py`: 0 finished, 2 something to mend, 3 diverged, 75 interrupted and saved.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn
from tqdm.auto import tqdm

import audio
import config
import dataset
import runs
import scores
from batches import Batches
from config import Config, UserError
from desk import interrupted
from train import Diverged

METRICS = ("critic_loss", "generator_loss", "adversarial", "features", "mel")
SHORT_METRICS = ("D", "G", "adv", "fm", "mel")  # in the progress bar
COLUMNS = ("step", "epoch", "seconds", *METRICS, "held_out_mel")


# ---- constants ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a HiFi-GAN on your sounds, or continue where it stopped."""

    # ---- the run: may change whenever it is continued -------------------------------------------

    data_dir: str = Config.data_dir
    """Folder of your sounds, as for train.py."""
    output_dir: str = Config.output_dir
    """Folder that holds the runs, and the cache of decoded sounds."""
    run_name: str = "vocoder"
    """Folder below OUTPUT_DIR: what --vocoder of train.py is to name then."""
    steps: int = 100_000
    """Steps of the whole run (the paper took 100 000 for fine-tuning, and 2 500 000 from
    scratch); raise it to extend a finished one."""
    save_every: int = 500
    """Steps between two writings of the folder, a row of log.csv and a checkpoint (1 GB each at the
    published sizes; two are kept)."""
    sample_every: int = 2500
    """Steps between two sets of sounds: a real clip of each class through the vocoder."""
    judge_clips: int = 32
    """Held-out clips of which log.csv's held_out_mel is the mean."""
    device: str = Config.device
    """auto (CUDA where there is one), cuda, cuda:1, cpu."""
    deterministic: bool = Config.deterministic
    """On CUDA: two runs with one seed are identical, and slower (the CPU always is identical)."""
    tf32: bool = Config.tf32
    """On CUDA: let matrix units round float32 factors to TF32 (10-bit mantissa)."""
    decode_threads: int = Config.decode_threads
    """Threads that decode files the first time; 0: one a processor core."""

    # ---- what a checkpoint must agree on --------------------------------------------------------

    source: Annotated[str, tyro.conf.arg(name="from")] = ""
    """Hub name or folder of a HiFi-GAN to begin with; empty: from scratch."""
    recipe: str = config.RECIPE
    """Recipe whose clips these are (their length, and what of a long file is used)."""
    seed: int = Config.seed
    """Decides initial weights, order of clips and segments."""
    holdout: float = Config.holdout
    """Share of each class (of 20 clips or more) to judge by and not train on: that of your runs."""
    holdout_dir: str = Config.holdout_dir
    """Folder of class folders to judge by; then all of DATA_DIR is trained on."""
    batch_size: int = 16
    """Clips a step, one segment of each."""
    segment: int = 8192
    """Samples of a segment; a multiple of the hop (256)."""
    learning_rate: float = 2e-4
    """AdamW's rate at the start, of both networks."""
    betas: tuple[float, float] = (0.8, 0.99)
    """AdamW's decay rates."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    decay: float = 0.999
    """Factor on the rate every DECAY_EVERY steps."""
    decay_every: int = 1000
    """Steps between two of these (the paper's epochs had about 800, whatever yours have)."""
    mel_weight: float = 45.0
    """Weight of the L1 distance of log-mels (the paper's lambda_mel)."""
    feature_weight: float = 2.0
    """Weight of the distances of the discriminators' features, summed over their layers (the
    paper's lambda_fm)."""
    loss_f_max: float = 11025.0
    """Upper edge (Hz) of the mels that are compared; the vocoder is told of those up to 8000 Hz."""
    channels: int = 512
    """Channels of the generator before its first rung; each rung halves them."""
    upsample_factors: tuple[int, ...] = (8, 8, 2, 2)
    """Upsampling of each rung; their product must be the hop (256)."""
    upsample_kernels: tuple[int, ...] = (16, 16, 4, 4)
    """Kernel of each rung's transposed convolution: its factor plus an even number."""
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    """Kernels of the residual blocks that work side by side in each rung."""
    resblock_dilations: tuple[int, int, int] = (1, 3, 5)
    """Dilations of each residual block's convolutions."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Periods of the multi-period discriminator."""
    scales: int = 3
    """Scales of the multi-scale discriminator, 0 to 3."""

    @property
    def shape(self) -> dict[str, object]:
        """Arguments of SpeechBrain's HifiganGenerator."""
        kernels = list(self.resblock_kernels)
        return {
            "in_channels": config.HIFIGAN_GRID["n_mels"],
            "out_channels": 1,
            "resblock_type": "1",
            "resblock_dilation_sizes": [list(self.resblock_dilations) for _ in kernels],
            "resblock_kernel_sizes": kernels,
            "upsample_kernel_sizes": list(self.upsample_kernels),
            "upsample_initial_channel": self.channels,
            "upsample_factors": list(self.upsample_factors),
            "inference_padding": 5,
            "cond_channels": 0,
            "conv_post_bias": True,
        }

    @property
    def mels(self) -> Config:
        """The recipe with the logarithm that HiFi-GAN was made for."""
        natural = {"compression": "ln", "compression_constant": config.HIFIGAN_FLOOR}
        return replace(config.RECIPES[self.recipe], **natural)

    @property
    def waves(self) -> Config:
        """The very waveforms of which the recipe's spectrograms are made, and where this run is."""
        shared = {f.name for f in dataclasses.fields(self)} & {
            *("data_dir", "output_dir", "run_name", "seed", "device", "deterministic", "tf32"),
            *("holdout", "holdout_dir", "decode_threads", "batch_size"),
        }
        own = {name: getattr(self, name) for name in shared}
        recipe = self.mels
        # L = T * hop, where a spectrogram's T centred frames span one hop less.
        shape = {"representation": "wave", "vocoder": config.NO_VOCODER}
        return replace(recipe, **own, **shape, frames=recipe.frames - 1)


MAY_CHANGE = (
    *("data_dir", "output_dir", "run_name", "steps", "save_every", "sample_every", "judge_clips"),
    *("device", "deterministic", "tf32", "decode_threads"),
)


def check(options: Options) -> None:
    """Raise UserError naming the first constant whose value cannot work, and why."""

    def need(ok: bool, name: str, why: str) -> None:
        if not ok:
            flag = "--" + ("from" if name == "source" else name.replace("_", "-"))
            raise UserError(f"{name} = {getattr(options, name)!r}: {why} ({flag}).")

    o, grid = options, config.HIFIGAN_GRID
    hop = grid["hop"]
    on_grid = [
        n for n, r in config.RECIPES.items() if all(getattr(r, k) == v for k, v in grid.items())
    ]
    need(o.recipe in on_grid, "recipe", f"must be one on HiFi-GAN's grid: {', '.join(on_grid)}")
    bad_name = not o.run_name or Path(o.run_name).name != o.run_name or o.run_name[0] == "."
    need(not bad_name, "run_name", "must be a plain folder name that starts with no dot")
    for name in ("steps", "save_every", "sample_every", "judge_clips", "batch_size", "decay_every"):
        need(getattr(o, name) >= 1, name, "must be at least 1")
    need(o.decode_threads >= 0, "decode_threads", "must be 0 or more")
    need(0 <= o.seed < 2**63, "seed", "must be a whole number from 0 to 2**63 - 1")
    need(0 <= o.holdout <= 0.5, "holdout", "must be a share from 0 (none) to 0.5")
    need(o.segment % hop == 0, "segment", f"must be a multiple of the hop ({hop})")
    most = o.waves.clip_samples
    need(grid["n_fft"] <= o.segment <= most, "segment", f"must be {grid['n_fft']} to {most}")
    for name in ("learning_rate", "decay"):
        value = getattr(o, name)
        need(math.isfinite(value) and value > 0, name, "must be a positive number")
    for name in ("weight_decay", "mel_weight", "feature_weight"):
        value = getattr(o, name)
        need(math.isfinite(value) and value >= 0, name, "must be zero or a positive number")
    need(all(0 <= b < 1 for b in o.betas), "betas", "must lie in [0, 1)")
    top = grid["sample_rate"] / 2
    need(0 < o.loss_f_max <= top, "loss_f_max", f"must be above 0 and at most {top} Hz")
    _check_networks(o, need, hop)


def _check_networks(o: Options, need: Callable[[bool, str, str], None], hop: int) -> None:
    factors, kernels = o.upsample_factors, o.upsample_kernels
    whole = bool(factors) and min(factors) >= 1 and math.prod(factors) == hop
    need(whole, "upsample_factors", f"must multiply to {hop}")
    fit = len(kernels) == len(factors) and all(
        k >= f and (k - f) % 2 == 0 for k, f in zip(kernels, factors)
    )
    need(fit, "upsample_kernels", "needs one a rung, each its factor plus an even number")
    scale = 2 ** len(factors)
    fits = o.channels >= scale and o.channels % scale == 0
    need(
        fits, "channels", f"must be a multiple of {scale} (halved in each of {len(factors)} rungs)"
    )
    odd = bool(o.resblock_kernels) and all(k >= 1 and k % 2 for k in o.resblock_kernels)
    need(odd, "resblock_kernels", "must be odd numbers, at least one")
    need(min(o.resblock_dilations) >= 1, "resblock_dilations", "must be at least 1")
    need(all(p >= 1 for p in o.periods), "periods", "must be at least 1 each")
    need(0 <= o.scales <= 3, "scales", "must be 0 to 3")
    need(bool(o.periods) or o.scales > 0, "periods", "at least one period or one scale is needed")


# ---- networks and losses ------------------------------------------------------------------------


def build(options: Options) -> tuple[nn.Module, nn.Module]:
    """Generator `(B, M, T) -> (B, 1, T * hop)` and discriminators, from SpeechBrain.

    The discriminators' scores and features are lists, one entry a period or scale.
    """
    from speechbrain.lobes.models import HifiGAN as hifigan  # a second to import: when wanted

    generator = hifigan.HifiganGenerator(**options.shape)
    critic = hifigan.HifiganDiscriminator()
    if options.periods != Options.periods:
        some = [hifigan.DiscriminatorP(period) for period in options.periods]
        critic.mpd.discriminators = nn.ModuleList(some)
    critic.msd.discriminators = critic.msd.discriminators[: options.scales]
    return generator, critic


class Losses:
    """SpeechBrain's losses of HiFi-GAN, weighted as in the paper (equations 1 to 8).

    SpeechBrain takes the mean over the features of all layers where the paper sums them up; here
    the mean counts as often as there are layers. Its L1SpecLoss builds a filter bank at every call:
    `audio.Transform` gives the same numbers with one.
    """

    def __init__(self, options: Options, device: torch.device) -> None:
        from speechbrain.lobes.models import HifiGAN as hifigan

        self.options = options
        self.fooled, self.features = hifigan.MSEGLoss(), hifigan.MelganFeatureLoss()
        self.told = hifigan.MSEDLoss()
        self.transform = audio.Transform(replace(options.mels, f_max=options.loss_f_max)).to(device)

    def critic(self, on_real: list[Tensor], on_fake: list[Tensor]) -> Tensor:
        """Scores of real and generated segments -> the discriminators' loss (equation 8)."""
        return sum(self.told(fake, real)[0] for real, fake in zip(on_real, on_fake))

    def generator(
        self, fake: Tensor, real: Tensor, on_fake: tuple[list, list], on_real: tuple[list, list]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Segments `(B, 1, L)`, and what the discriminators say of both: (scores, features).

        Returns the whole loss (equation 7) and its parts: adversarial, features, mel.
        """
        adversarial = sum(self.fooled(score) for score in on_fake[0])
        layers = sum(map(len, on_fake[1]))
        features = self.features(on_fake[1], on_real[1]) * layers
        mel = nn.functional.l1_loss(self.transform(fake[:, 0]), self.transform(real[:, 0]))
        o = self.options
        whole = adversarial + o.feature_weight * features + o.mel_weight * mel
        return whole, adversarial, features, mel


# ---- steps --------------------------------------------------------------------------------------
# Pure tensor work: nothing here reads a number back from the device.


@dataclass
class Run:
    """Everything that training changes, and that a checkpoint therefore holds."""

    options: Options
    device: torch.device
    generator: nn.Module
    critic: nn.Module
    generator_optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer
    losses: Losses
    transform: audio.Transform  # what the generator is told
    sums: Tensor  # of METRICS since the last row of the log
    step: int = 0  # finished steps
    epoch: int = 0  # finished epochs
    step_in_epoch: int = 0
    since: int = 0  # steps since the last row of the log
    seconds: float = 0.0  # the same
    data: str = ""  # fingerprint of the files

    @classmethod
    def start(cls, options: Options, device: torch.device) -> Run:
        """Seed every random state and build networks, optimisers and losses."""
        runs.seed_everything(options.seed)
        networks = [network.to(device) for network in build(options)]
        how = {"betas": options.betas, "weight_decay": options.weight_decay, "fused": True}
        optimisers = [
            torch.optim.AdamW(network.parameters(), lr=options.learning_rate, **how)
            for network in networks
        ]
        transform = audio.Transform(options.mels).to(device)
        sums = torch.zeros(len(METRICS), device=device)
        losses = Losses(options, device)
        return cls(options, device, *networks, *optimisers, losses, transform, sums)

    @property
    def run_dir(self) -> Path:
        return self.options.waves.run_dir


def segments(run: Run, x: Tensor) -> tuple[Tensor, Tensor]:
    """A random segment of each clip `x (B, 1, L)`: `(B, 1, segment)`, and its log-mels `(B, M, T)`.

    The mels are those of the whole clip, with what lies before and after the segment in their
    windows, as when the vocoder is used: frame t is centred on the segment's sample t * hop.
    """
    cfg, length = run.transform.cfg, run.options.segment
    edge = cfg.n_fft // 2
    clips = nn.functional.pad(x[:, 0], (edge, edge), mode="reflect")  # (B, L + n_fft)
    starts = torch.randint(x.shape[2] - length + 1, (len(x), 1), device=x.device)
    wide = clips.gather(1, starts + torch.arange(length + cfg.n_fft, device=x.device))
    mel = audio.compress(run.transform.mel_within(wide), cfg)[..., : length // cfg.hop]
    return wide[:, None, edge : edge + length], mel


def full_step(run: Run, x: Tensor) -> Tensor:
    """One update of the discriminators and one of the generator on clips `x (B, 1, L)`; METRICS."""
    real, mel = segments(run, x)
    rate = run.options.learning_rate * run.options.decay ** (run.step // run.options.decay_every)
    for optimiser in (run.generator_optimiser, run.critic_optimiser):
        for group in optimiser.param_groups:
            group["lr"] = rate
    fake = run.generator(mel)  # (B, 1, segment)
    scores_real, scores_fake = run.critic(real)[0], run.critic(fake.detach())[0]
    critic_loss = run.losses.critic(scores_real, scores_fake)
    _update(run.critic_optimiser, critic_loss)
    run.critic.requires_grad_(False)  # it only judges here: no gradients of its weights
    with torch.no_grad():
        on_real = run.critic(real)
    whole, *parts = run.losses.generator(fake, real, run.critic(fake), on_real)
    _update(run.generator_optimiser, whole)
    run.critic.requires_grad_(True)
    return torch.stack([critic_loss, whole, *parts]).detach()


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


# ---- what it makes of real clips ----------------------------------------------------------------


@torch.no_grad()
def copies(run: Run, waves: Tensor) -> Tensor:
    """Clips `(B, (T - 1) * hop)` -> mels -> sound `(B, T * hop)`, on the CPU, as a run hears it."""
    parts, hop = [], run.transform.cfg.hop
    edge = run.generator.inference_padding * hop
    for part in waves.split(config.VOCODER_BATCH):
        mel = run.transform(part.to(run.device))[:, 0]  # (B, M, T)
        wave = run.generator.inference(mel)[:, 0]
        parts.append(wave[:, edge : edge + mel.shape[2] * hop].cpu())
    return torch.cat(parts)


class Judge:
    """Real clips that the vocoder never sees: how near it comes, and what that sounds like.

    Where nothing is held out they are clips that it trains on, and `held_out_mel` flatters.
    """

    def __init__(self, options: Options, clips: dataset.Clips, split: dataset.Split) -> None:
        self.options, cfg = options, options.waves
        trained_on = dataset.recordings(clips, split.training)
        apart = split.held_out or trained_on
        self.names = list(clips.classes)
        firsts = [
            next(r for r in (*apart, *trained_on) if r.label == label)
            for label in range(len(self.names))
        ]
        some = scores.spread_out(apart, options.judge_clips)
        self.firsts, self.waves = (
            torch.stack([audio.read_clip(cfg, r.path, r.number) for r in which])
            for which in (firsts, some)
        )  # (K, L), (judge_clips, L)

    def distance(self, run: Run) -> float:
        """Mean absolute difference of log-mels, real and copy, in nepers (1 neper: 8.7 dB)."""
        total = 0.0
        for part in self.waves.split(config.VOCODER_BATCH):
            pair = (part.to(run.device), copies(run, part)[:, : part.shape[1]].to(run.device))
            real, copy = map(run.transform, pair)
            total += float((real - copy).abs().mean()) * len(part)
        return total / len(self.waves)

    def write_originals(self, run_dir: Path) -> None:
        self._write(run_dir / "samples" / "original", self.firsts)

    def write(self, run: Run) -> None:
        """One clip of each class through the vocoder; the same clip is in `samples/original`."""
        folder = run.run_dir / "samples" / f"step_{run.step:06d}"
        self._write(folder, copies(run, self.firsts)[:, : self.firsts.shape[1]])

    def _write(self, folder: Path, waves: Tensor) -> None:
        with runs.whole_folder(folder) as inside:
            for name, wave in zip(self.names, waves):
                audio.write_wav(inside / f"{name}.wav", wave, self.options.waves.sample_rate)


# ---- files --------------------------------------------------------------------------------------
# The folder is itself a vocoder: hyperparams.yaml, which never changes, and generator.ckpt, which
# is replaced as a whole.


def hyperparams(options: Options) -> str:
    """The `hyperparams.yaml` from which SpeechBrain builds the generator and fills it."""
    lines = ["generator: !new:speechbrain.lobes.models.HifiGAN.HifiganGenerator"]
    lines += [f"    {name}: {json.dumps(value)}" for name, value in options.shape.items()]
    lines += ["modules:", "    generator: !ref <generator>"]
    lines += ["pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer"]
    lines += ["    loadables:", "        generator: !ref <generator>"]
    return "\n".join(lines) + "\n"


def write_vocoder(run: Run) -> None:
    """Write the generator as it is now: what `--vocoder RUN_DIR` plays through."""
    weights = {k: v.detach().cpu() for k, v in run.generator.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    runs.write_bytes(run.run_dir / "generator.ckpt", buffer.getbuffer())


def load_source(options: Options, generator: nn.Module) -> None:
    """Fill a generator with the weights of `--from`; raises UserError where that cannot be."""
    name = options.source
    try:
        found = audio.load_hifigan(replace(options.mels, vocoder=name), torch.device("cpu"))
    except audio.BadVocoder as reason:
        raise UserError(
            f"--from {name} cannot be used: {reason}. Name a folder that holds hyperparams.yaml "
            f"and generator.ckpt, or one of {', '.join(config.VOCODER_REVISIONS)} where there is "
            "a network; without --from, training starts from scratch."
        ) from reason
    try:
        generator.load_state_dict(found.model.hparams.generator.state_dict())
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines()[1:2]] or [str(error)]
        raise UserError(
            f"--from {name}: its generator has other sizes than this run's constants "
            f"({first[0][:150]}): give those it was trained with (--channels, "
            "--upsample-factors, --upsample-kernels, --resblock-kernels, --resblock-dilations)."
        ) from error


NETWORKS = ("generator", "critic", "generator_optimiser", "critic_optimiser")
COUNTERS = ("step", "epoch", "step_in_epoch", "since", "seconds", "data")


def state_of(run: Run) -> dict:
    """The content of a checkpoint."""
    state = {name: getattr(run, name).state_dict() for name in NETWORKS}
    state |= {name: getattr(run, name) for name in (*COUNTERS, "sums")}
    return state | {"options": _plain(run.options), "random": runs.random_state(run.device)}


def restore(run: Run, state: dict) -> None:
    """Put a run where a checkpoint left it; raises UserError naming whatever differs."""
    if lacking := [n for n in (*NETWORKS, *COUNTERS, "sums", "options") if n not in state]:
        raise UserError(
            f"The checkpoint in {run.run_dir} is none of a vocoder of this version (it lacks "
            f"{', '.join(lacking)}): start another run with --run-name NAME."
        )
    old, new = state["options"], _plain(run.options)
    changes = [
        f"{'from' if n == 'source' else n} {old.get(n)} -> {new[n]}"
        for n in new
        if n not in MAY_CHANGE and old.get(n) != new[n]
    ]
    if changes:
        raise UserError(
            f"{run.run_dir} was trained with other values: {'; '.join(changes)}. Continue it with "
            "the old ones, or start another run beside it with --run-name NAME."
        )
    for name in NETWORKS:
        getattr(run, name).load_state_dict(state[name])
    for name in COUNTERS:
        setattr(run, name, state[name])
    run.sums.copy_(state["sums"])
    runs.set_random_state(state["random"], run.device)


def _plain(options: Options) -> dict:
    values = dataclasses.asdict(options).items()
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values}


# ---- training -----------------------------------------------------------------------------------


def train(options: Options) -> Run:
    """Train, or continue, a vocoder; returns the run, finished.

    Raises UserError (something to mend), Diverged, or Interrupted after saving.
    """
    check(options)
    cfg = options.waves
    device = runs.pick_device(cfg)
    found = dataset.find_clips(cfg)
    with runs.locked(cfg.run_dir):
        clips = dataset.load(cfg, found)
        state = runs.load_checkpoint(cfg.run_dir)
        advice = f"lower batch_size (now {options.batch_size}) or segment (now {options.segment})"
        advice += ", in a run of its own with --run-name NAME"
        with runs.StopSignal() as stop, runs.explain_memory(advice):
            run = start_or_continue(options, clips, device, state)
            split = make_room(run, clips, state)
            batches = Batches(clips, split.training, cfg, device)
            judge = Judge(options, clips, split)
            judge.write_originals(run.run_dir)
            log = runs.Log(run.run_dir / "log.csv", COLUMNS, run.step, by="step")
            if run.step >= options.steps:
                print(f"{run.run_dir} is finished after step {run.step}. {_what_next(run)}")
                return run
            train_steps(run, batches, judge, log, stop)
    print(f"Finished after step {run.step}. {_what_next(run)}")
    return run


def start_or_continue(
    options: Options, clips: dataset.Clips, device: torch.device, state: dict | None
) -> Run:
    """A fresh run, or the one that a checkpoint holds."""
    run = Run.start(options, device)
    if state:
        restore(run, state)
        print(f"Continuing {run.run_dir} after step {run.step}.", flush=True)
        if run.data != clips.fingerprint:
            print("The files are not those of the checkpoint: it goes on with what is there now.")
    elif options.source:
        load_source(options, run.generator)
    run.data = clips.fingerprint
    return run


def make_room(run: Run, clips: dataset.Clips, state: dict | None) -> dataset.Split:
    """Clear the folder of what comes after the checkpoint, part the clips, write what is known."""
    options, folder = run.options, run.run_dir
    dataset.list_left_out(clips, folder)
    split = dataset.split(options.waves, clips, known=state is not None)
    print(split.said, flush=True)
    runs.forget_after(folder, run.step, fresh=state is None, unit="step")
    if state is None:  # its sizes may have been others
        (folder / "generator.ckpt").unlink(missing_ok=True)
    runs.write_bytes(folder / "hyperparams.yaml", hyperparams(options).encode())
    about = {"options": _plain(options), "classes": clips.classes, "split": split.said}
    runs.write_bytes(folder / "vocoder.json", json.dumps(about | runs.program(), indent=2).encode())
    return split


def train_steps(
    run: Run, batches: Batches, judge: Judge, log: runs.Log, stop: runs.StopSignal
) -> None:
    """All steps that are left, with what is written between them. Raises Diverged, Interrupted."""
    steps = run.options.steps
    if run.step_in_epoch >= batches.steps:  # there are fewer clips than when it was stopped
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
    with tqdm(total=steps, initial=run.step, unit="step", mininterval=0.5) as bar:
        shown = time.perf_counter()
        while run.step < steps:
            with closing(batches.epoch(run.epoch, run.step_in_epoch)) as coming:
                for x, _ in coming:
                    took = count_step(run, x, batches.steps)
                    if look := time.perf_counter() - shown > 1:
                        shown = time.perf_counter()
                    means = read_means(run) if look else {}
                    write_due(run, judge, log)
                    # Before anything is shown: the terminal may be closed by what stops the run.
                    if stop.name and run.step < steps:
                        save_and_stop(run, stop.name)
                    _show(run, bar, means, took)
                    if run.step == steps:
                        break


def count_step(run: Run, x: Tensor, an_epoch: int) -> float:
    """One step, counted; returns the seconds it took the host."""
    began = time.perf_counter()
    run.sums += full_step(run, x)
    run.step, run.since = run.step + 1, run.since + 1
    run.step_in_epoch += 1
    if run.step_in_epoch == an_epoch:
        run.epoch, run.step_in_epoch = run.epoch + 1, 0
    took = time.perf_counter() - began
    run.seconds += took
    return took


def write_due(run: Run, judge: Judge, log: runs.Log) -> None:
    """What is due after a step; the checkpoint last, so that a kill in between loses nothing."""
    options = run.options
    last = run.step == options.steps
    if last or run.step % options.sample_every == 0:
        judge.write(run)
    if last or run.step % options.save_every == 0:
        row = {"step": run.step, "epoch": run.epoch, "seconds": run.seconds} | read_means(run)
        log.add(row | {"held_out_mel": judge.distance(run)})
        log.write()
        run.sums.zero_()
        run.since, run.seconds = 0, 0.0
        save(run)


def save(run: Run) -> None:
    write_vocoder(run)
    runs.save_checkpoint(run.run_dir, state_of(run))


def save_and_stop(run: Run, signal: str) -> None:
    """Raises Interrupted after saving."""
    if run.since:
        read_means(run)  # never save what has diverged
    save(run)
    raise interrupted(run.options.waves, signal, run.step)


def read_means(run: Run) -> dict[str, float]:
    """Means of METRICS since the last row; raises Diverged if one is NaN or Inf."""
    means = {k: s / run.since for k, s in zip(METRICS, run.sums.tolist())}
    bad = [name for name, value in means.items() if not math.isfinite(value)]
    if bad:
        raise Diverged(
            f"{', '.join(bad)} became NaN or Inf at step {run.step} or just before; training "
            f"stops. {run.run_dir} holds the last good state, if one was saved. Start another run "
            f"(--run-name NAME) with a lower --learning-rate (now {run.options.learning_rate:g})."
        )
    return means


# ---- what is said -------------------------------------------------------------------------------


def _show(run: Run, bar: tqdm, means: dict[str, float], took: float) -> None:
    with suppress(OSError):  # the terminal may be gone
        if means:
            short = {k: f"{means[name]:.3g}" for k, name in zip(SHORT_METRICS, METRICS)}
            bar.set_postfix(short, refresh=False)
        bar.update()
        if run.device.type == "cpu" and bar.n - bar.initial == 3:
            bar.write(_estimate(run, took))


def _estimate(run: Run, seconds: float) -> str:
    left = runs.duration((run.options.steps - run.step) * seconds)
    return (
        f"On this CPU a step takes {seconds:.2g} s: the run needs another {left}. Shorter: "
        "--steps; smaller: --channels, --periods and --scales. A CUDA GPU is far quicker."
    )


def _what_next(run: Run) -> str:
    folder = run.run_dir
    return (
        f"Listen in {folder / 'samples'}; let a run play through it with --vocoder {folder}; "
        f"longer training: the same command with --steps {2 * run.step}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with runs.friendly() as outcome:
        train(tyro.cli(Options, args=argv, description=__doc__))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
