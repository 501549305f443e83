"""Waveforms <-> clips as the networks see them: files, transform, vocoders."""

from soundgan.audio.files import (
    BadClip,
    Extent,
    SilentClip,
    extent,
    read_clip,
    read_clips,
    write_wav,
)
from soundgan.audio.loading import (
    BadVocoder,
    load_hifigan,
    load_istft,
    load_vocoder,
    may_fetch,
    open_vocoder,
)
from soundgan.audio.transform import Transform, compress, expand
from soundgan.audio.vocoders import BigVgan, GriffinLim, HifiGan, Istft, Librosa, RawAudio, Vocoder

__all__ = [
    "BadClip",
    "BadVocoder",
    "BigVgan",
    "Extent",
    "GriffinLim",
    "HifiGan",
    "Istft",
    "Librosa",
    "RawAudio",
    "SilentClip",
    "Transform",
    "Vocoder",
    "compress",
    "expand",
    "extent",
    "load_hifigan",
    "load_istft",
    "load_vocoder",
    "may_fetch",
    "open_vocoder",
    "read_clip",
    "read_clips",
    "write_wav",
]
