"""Pictures of a run: spectrograms with Hz and seconds, and the curves of its log."""

from __future__ import annotations

import functools
import io
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torchaudio
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from soundgan import files
from soundgan.audio.transform import mel_bands
from soundgan.settings import Config, Sound, Spectrogram

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
TITLE_COLUMNS = 60  # letters that fit above a panel
RAW_AUDIO = {  # the spectrogram that is drawn of raw audio, up to half its rate
    "n_fft": 512,
    "hop": 128,
    "n_mels": 64,
    "compression": "ln",
    "compression_constant": 1e-5,
}
PNG_EFFORT = 1  # of 9: as small as with the usual 6, where there is noise, and sooner


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


def _shortened(text: str) -> str:
    """`text`, without its middle where it is wider than a panel; CJK counts twice."""
    wide = sum(unicodedata.east_asian_width(c) in "FW" for c in text)
    most = TITLE_COLUMNS * len(text) // (len(text) + wide) if text else 0
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 3 :]}"


def _title(axes: Axes) -> Text:
    # A class may be called "$1_000": that is no formula.
    return axes.set_title("", family=_fonts()[0], fontsize=10, parse_math=False)


# ---- clips --------------------------------------------------------------------------------------


def draw_set(
    paths: Sequence[str | Path], pictures: Sequence[Mapping[str, np.ndarray]], cfg: Config
) -> None:
    """Draw pictures of equally many panels: clips side by side, by title, into one PNG each.

    Spectrograms `(M, T)` are drawn as they are; raw audio `(L,)` as a waveform with its spectrogram
    below. A picture has one colour scale, which is what makes its panels comparable: it spans all
    of them, from silence up.
    """
    sheet = _sheet(cfg.sound, len(pictures[0]))
    for path, panels in zip(paths, pictures):
        sheet.draw(path, panels)


@functools.lru_cache(maxsize=2)  # of one panel and of two
def _sheet(sound: Sound, panels: int) -> Sheet:
    return Sheet(sound, panels)


def _drawn(sound: Sound) -> Spectrogram:
    """The spectrogram that is drawn: a clip's own, or that of raw audio."""
    if not sound.raw:
        return sound
    rate, frames = sound.sample_rate, -(-sound.wav_samples // RAW_AUDIO["hop"])
    return Spectrogram(sample_rate=rate, frames=frames, f_max=rate / 2, **RAW_AUDIO)


class Sheet:
    """A figure whose axes are drawn once; each picture puts its clips, titles and scale into it.

    Most of the time of a picture goes into its ticks and words, which are the same in all of them.
    """

    def __init__(self, sound: Sound, panels: int) -> None:
        self.sound, self.mel = sound, _drawn(sound)
        self.seconds = sound.wav_samples / sound.sample_rate
        raw, mel = sound.raw, self.mel
        # Fixed margins, in inches: laying each figure out anew would double the time it takes.
        width, height = 1.6 + 4.2 * panels, 4.2 if raw else 3.0
        self.figure = Figure(figsize=(width, height), dpi=PIXELS_AN_INCH)
        self.canvas = FigureCanvasAgg(self.figure)
        margins = {"left": 0.75, "right": width - 1.0, "bottom": 0.5, "top": height - 0.35}
        grid = {k: v / (width if k in ("left", "right") else height) for k, v in margins.items()}
        ratios = {"height_ratios": [1, 2]} if raw else {}
        self.rows = self.figure.subplots(
            2 if raw else 1,
            panels,
            sharey="row",
            squeeze=False,
            gridspec_kw=grid | {"wspace": 0.08, "hspace": 0.15} | ratios,
        )
        self.images = [self._image(axes) for axes in self.rows[-1]]
        self.waves = [self._wave(axes) for axes in self.rows[0]] if raw else []
        self.titles = [_title(axes) for axes in self.rows[0]]
        ticks = [hz for hz in HZ_TICKS if mel.f_min <= hz <= mel.f_max]
        first = self.rows[-1][0]
        first.set_yticks([band_of(hz, mel) for hz in ticks], [str(hz) for hz in ticks])
        first.set_ylabel("Hz")
        if raw:
            self.rows[0][0].set_ylabel("amplitude")
        place = first.get_position()
        self.scale = self.figure.add_axes((1 - 0.9 / width, place.y0, 0.15 / width, place.height))
        self.bar = self.figure.colorbar(self.images[0], cax=self.scale, label=_unit(mel))
        spines = [spine for row in self.rows for axes in row for spine in axes.spines.values()]
        # In the order in which they are drawn: the frames lie over the images.
        self.changing = [*self.images, *self.waves, *self.titles, *spines, self.scale]
        for artist in self.changing:
            artist.set_animated(True)
        self.canvas.draw()
        self.unchanging = self.canvas.copy_from_bbox(self.figure.bbox)

    def _image(self, axes: Axes) -> AxesImage:
        bands = self.mel.n_mels
        axes.set_xlabel("seconds")
        return axes.imshow(
            np.zeros((bands, 1)),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, self.seconds, 0, bands),
        )

    def _wave(self, axes: Axes) -> Line2D:
        axes.set(xlim=(0, self.seconds), ylim=(-1, 1), xticklabels=[])
        return axes.plot([], [], linewidth=0.4)[0]

    def draw(self, path: str | Path, panels: Mapping[str, np.ndarray]) -> None:
        """Draw as many clips as the sheet has panels, by title, into a PNG."""
        mel, rate = self.mel, self.sound.sample_rate
        pictures = [_stft(x, mel) if self.sound.raw else x for x in panels.values()]
        low = mel.quietest
        high = max(low + 1, *(float(picture.max()) for picture in pictures))
        for image, picture in zip(self.images, pictures):
            seconds = picture.shape[1] * mel.hop / rate
            image.set_data(picture)
            image.set_extent((0, seconds, 0, len(picture)))
            image.set_clim(low, high)
        for line, wave in zip(self.waves, panels.values()):
            line.set_data(np.arange(len(wave)) / rate, wave)
        for title, text in zip(self.titles, panels):
            title.set_text(_shortened(legible(text)))
        self.canvas.restore_region(self.unchanging)
        for artist in self.changing:
            self.figure.draw_artist(artist)
        picture = Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3])
        content = io.BytesIO()  # a full disk would leave half a picture
        picture.save(content, format="PNG", compress_level=PNG_EFFORT)
        files.write_bytes(Path(path), content.getbuffer(), durable=False)


def _unit(mel: Spectrogram) -> str:
    quantity = "magnitude" if mel.power == 1 else "power"
    if mel.compression == "log1p":
        return f"ln(1 + {mel.compression_constant:g} x {quantity})"
    return f"ln {quantity}" if mel.compression == "ln" else "level (1: loudest, -1: floor)"


def _stft(wave: np.ndarray, mel: Spectrogram) -> np.ndarray:
    """Log-mel picture `(M, T)` of raw audio `(L,)`, only to look at."""
    bands = torchaudio.transforms.MelSpectrogram(
        n_fft=mel.n_fft,
        hop_length=mel.hop,
        power=mel.power,
        pad_mode="constant",
        **mel_bands(mel),
    )
    picture = bands(torch.from_numpy(wave.astype(np.float32)))
    return picture.clamp(min=mel.compression_constant).log().numpy()


def band_of(hz: float, mel: Spectrogram) -> float:
    """Height of a frequency (whole Hz) on an axis of mel bands, band k filling [k, k + 1].

    Where the filters put it: each falls to nothing at the centres of its neighbours, so that the
    weights of a tone add up to one, and are those of the two bands it lies between.
    """
    bands = mel_bands(mel) | {"norm": None, "sample_rate": 2 * hz}
    with warnings.catch_warnings():  # of the bands that one tone does not reach
        warnings.simplefilter("ignore")
        weights = torchaudio.functional.melscale_fbanks(n_freqs=2, **bands)[1].double()  # (M,)
    rest = float(1 - weights.sum())  # at the ends of the axis, of a band beyond the last one
    beyond = -0.5 if 2 * hz < mel.f_min + mel.f_max else mel.n_mels + 0.5
    band = float(weights @ (torch.arange(mel.n_mels) + 0.5).double()) + rest * beyond
    return min(max(band, 0.0), float(mel.n_mels))


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
    content = io.BytesIO()
    figure.savefig(content, format="png")
    files.write_bytes(Path(path), content.getbuffer(), durable=False)
