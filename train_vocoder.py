"""A vocoder of your own sounds: HiFi-GAN, trained further or from scratch, or a small one.

    python train_vocoder.py --kind istft
    python train_vocoder.py --from speechbrain/tts-hifigan-libritts-22050Hz
    python train.py --vocoder outputs/vocoder

No model sounds better than what its vocoder makes of real clips. Where that is what limits
(`samples/real` of a run, `python benchmarks/ceiling.py`), this trains the vocoder on the clips
themselves. The folder it writes is of the form that any run can name, and every few steps it is a
better one. There are two kinds (`--kind`): `hifigan` (Kong, Kim & Bae 2020), SpeechBrain's
generator and discriminators with SpeechBrain's losses, for a GPU; and `istft`, a small network
after Vocos (Siuzdak 2023), for minutes on a CPU, for the clips of any recipe.

What training holds out is held out here too, by the same rule, so that the ceiling of held-out
clips stays an honest one.

Exit codes as of `train.py`: 0 finished, 2 something to mend, 3 diverged, 75 interrupted and saved.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

if __name__ == "__main__":
    from soundgan import startup

    startup.leave_on_interrupt()  # during the imports below, which take seconds

import tyro

from soundgan import command_line
from soundgan.console import friendly
from soundgan.dataset.demo import HOME as DEMO_FOLDER
from soundgan.errors import UserError, nearest
from soundgan.settings import Config
from soundgan.training import continuing
from soundgan.vocoder_training.settings import (
    Common,
    IstftOptions,
    Options,
    check,
    waveforms_of,
)
from soundgan.vocoder_training.training import train

SHARED = (  # what a vocoder has in common with the runs that play through it
    *("data_dir", "output_dir", "seed", "holdout", "holdout_dir"),
    *("device", "deterministic", "tf32", "decode_threads"),
)

KINDS = {"hifigan": Options, "istft": IstftOptions}


def usual(kind: str = "hifigan") -> Common:
    """The defaults: what is shared with a run is what config.py says of runs."""
    config = command_line.imported("config")
    shared = {name: config.RUN[name] for name in SHARED}
    return KINDS[kind](recipe=config.RECIPE, **shared)


def kind_asked(argv: Sequence[str]) -> str:
    """The kind that a command line names; raises UserError for one that there is not."""
    words = " ".join(argv).replace("=", " ").split()
    kinds = [kind for flag, kind in pairwise(words) if flag == "--kind"]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"There is no kind {unknown[0]!r} (--kind): {nearest(unknown[0], KINDS)}")
    return kinds[-1] if kinds else "hifigan"


def asked(
    argv: Sequence[str], recipes: Mapping[str, Config]
) -> tuple[Common, Mapping[str, Config], bool]:
    """What a command line asks for, and whether the synthetic set may be written; see train.py."""
    kind = kind_asked(argv)
    options = tyro.cli(KINDS[kind], default=usual(kind), args=argv, description=__doc__)
    names = ("data_dir", "output_dir", "holdout_dir", "source")
    paths = {name: command_line.expanded_path(getattr(options, name)) for name in names}
    options = replace(options, **paths)
    check(options, recipes)
    named = [name for name in continuing.OF_DATA if command_line.given(argv, name)]
    run_dir = waveforms_of(options, recipes[options.recipe]).run_dir
    own, fresh = continuing.own_data(run_dir, options.data_dir, named)
    demo = fresh and "data_dir" not in named and options.data_dir == DEMO_FOLDER
    return replace(options, **own), recipes, demo


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    with friendly() as outcome:
        argv = sys.argv[1:] if argv is None else argv
        recipes = command_line.imported("config").RECIPES
        train(*asked(argv, recipes))
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
