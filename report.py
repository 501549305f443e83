"""What one sees of a run: spectrograms with Hz and seconds, the curves of its log, its page."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator

from config import Config
from page import show as show
from page import write_overview as write_overview
from page import write_page as write_page

# Fonts that hold Chinese, Japanese and Korean, in order of preference; Matplotlib's own has none.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
    "Arial Unicode MS",
)
HZ_TICKS = (0, 250, 500, 1000, 2000, 4000, 8000, 16000)
PIXELS_AN_INCH = 100


# ---- names that any font can draw ---------------------------------------------------------------


@functools.cache
def _fonts() -> tuple[list[str], frozenset[int]]:
    """Families to draw with (Matplotlib falls back glyph by glyph), and what they cover."""
    installed = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    default = matplotlib.rcParams["font.sans-serif"][0]
    families = [default, *(name for name in CJK_FONTS if name in installed)]
    covered: set[int] = set()
    for name in families:
        path = installed.get(name) or font_manager.findfont(name)
        with suppress(OSError, RuntimeError):  # Matplotlib's list may name a font that is gone
            covered.update(FT2Font(path).get_charmap())
    return families, frozenset(covered)


def legible(text: str) -> str:
    """`text` as the installed fonts can draw it: what they lack is written as its code point."""
    _, covered = _fonts()
    return "".join(c if ord(c) in covered and c.isprintable() else f"<{ord(c):X}>" for c in text)


def _title(axes: matplotlib.axes.Axes, text: str) -> None:
    # A class may be called "$1_000": that is no formula.
    axes.set_title(legible(text), family=_fonts()[0], fontsize=10, parse_math=False)


# ---- clips --------------------------------------------------------------------------------------


def draw_clips(path: str | Path, panels: Mapping[str, np.ndarray], cfg: Config) -> None:
    """Draw clips side by side, by title, on one colour scale, into a PNG.

    Spectrograms `(M, T)` are drawn as they are; raw audio `(L,)` as a waveform with its spectrogram
    below. One scale is what makes panels comparable: it spans all of them, from silence up.
    """
    raw = cfg.representation == "wave"
    pictures = [_stft(x, cfg) if raw else x for x in panels.values()]
    low = cfg.quietest
    high = max(low + 1, *(float(picture.max()) for picture in pictures))
    seconds = pictures[0].shape[1] * cfg.hop / cfg.sample_rate
    # Fixed margins, in inches: laying each figure out anew would double the time it takes.
    width, height = 1.6 + 4.2 * len(panels), 4.2 if raw else 3.0
    figure = Figure(figsize=(width, height), dpi=PIXELS_AN_INCH)
    FigureCanvasAgg(figure)
    margins = {"left": 0.75, "right": width - 1.0, "bottom": 0.5, "top": height - 0.35}
    grid = {k: v / (width if k in ("left", "right") else height) for k, v in margins.items()}
    ratios = {"height_ratios": [1, 2]} if raw else {}
    rows = figure.subplots(
        2 if raw else 1,
        len(panels),
        sharey="row",
        squeeze=False,
        gridspec_kw=grid | {"wspace": 0.08, "hspace": 0.15} | ratios,
    )
    for axes, picture in zip(rows[-1], pictures):
        image = axes.imshow(
            picture,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            vmin=low,
            vmax=high,
            extent=(0, seconds, 0, len(picture)),
        )
        axes.set_xlabel("seconds")
    for axes, title in zip(rows[0], panels):
        _title(axes, title)
    if raw:
        for axes, wave in zip(rows[0], panels.values()):
            axes.plot(np.arange(len(wave)) / cfg.sample_rate, wave, linewidth=0.4)
            axes.set(xlim=(0, seconds), ylim=(-1, 1), xticklabels=[])
        rows[0][0].set_ylabel("amplitude")
    ticks = [hz for hz in HZ_TICKS if cfg.f_min <= hz <= cfg.f_max]
    rows[-1][0].set_yticks([_band_of(hz, cfg) for hz in ticks], [str(hz) for hz in ticks])
    rows[-1][0].set_ylabel("Hz")
    place = rows[-1][0].get_position()
    scale = figure.add_axes((1 - 0.9 / width, place.y0, 0.15 / width, place.height))
    figure.colorbar(image, cax=scale, label=_unit(cfg))
    figure.savefig(path)


def _unit(cfg: Config) -> str:
    quantity = "magnitude" if cfg.power == 1 else "power"
    if cfg.compression == "log1p":
        return f"ln(1 + {cfg.compression_constant:g} x {quantity})"
    return f"ln {quantity}" if cfg.compression == "ln" else "level (1: loudest, -1: floor)"


def _stft(wave: np.ndarray, cfg: Config) -> np.ndarray:
    """Log-mel picture `(M, T)` of raw audio `(L,)`, only to look at."""
    import librosa

    mel = librosa.feature.melspectrogram(
        y=wave.astype(np.float32),
        sr=cfg.sample_rate,
        n_fft=cfg.n_fft,
        hop_length=cfg.hop,
        power=cfg.power,
        n_mels=cfg.n_mels,
        fmin=cfg.f_min,
        fmax=cfg.f_max,
        htk=cfg.mel_scale == "htk",
    )
    return np.log(np.maximum(mel, cfg.compression_constant))


def _band_of(hz: float, cfg: Config) -> float:
    """Height of a frequency on an axis of mel bands, band k filling [k, k + 1]."""
    import librosa

    low, high, mel = librosa.hz_to_mel([cfg.f_min, cfg.f_max, hz], htk=cfg.mel_scale == "htk")
    # M triangles have M + 2 evenly spaced corners; band k is centred on corner k + 1.
    band = (mel - low) / (high - low) * (cfg.n_mels + 1) - 0.5
    return float(np.clip(band, 0, cfg.n_mels))


# ---- curves -------------------------------------------------------------------------------------


def draw_curves(path: str | Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw each column of the log over epochs (one row an epoch, as in log.csv) into a PNG."""
    names = [n for n in rows[0] if n not in ("epoch", "step", "seconds")]
    epochs = [row["epoch"] for row in rows]
    columns = 4
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * lines), dpi=PIXELS_AN_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False).flat
    for axes, name in zip(grid, names):
        axes.plot(epochs, [row[name] for row in rows], linewidth=1, marker="." * (len(rows) < 20))
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in grid[len(names) :]:
        axes.remove()
    figure.supxlabel("epoch", fontsize=9)
    figure.savefig(path)
