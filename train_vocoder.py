"""A vocoder of your own sounds: HiFi-GAN (Kong, Kim & Bae 2020), trained further or from scratch.

    python train_vocoder.py --from speechbrain/tts-hifigan-libritts-22050Hz
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

import sys
from collections.abc import Sequence

import tyro

from soundgan.console import friendly
from soundgan.vocoder_training.settings import Options
from soundgan.vocoder_training.training import train

SHARED = (  # what a vocoder has in common with the runs that play through it
    *("data_dir", "output_dir", "seed", "holdout", "holdout_dir"),
    *("device", "deterministic", "tf32", "decode_threads"),
)


def usual() -> Options:
    """The defaults: what is shared with a run is what config.py says of runs."""
    import config  # here, so that a wrong constant in it is one sentence

    return Options(recipe=config.RECIPE, **{name: config.RUN[name] for name in SHARED})


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with friendly() as outcome:
        import config

        options = tyro.cli(Options, default=usual(), args=argv, description=__doc__)
        train(options, config.RECIPES)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
