"""Waveforms <-> clips as the networks see them: files, transform, vocoders."""

from soundgan.audio.files import BadClip, opened, read_clip, read_clips, write_wav
from soundgan.audio.loading import BadVocoder, load_hifigan, load_vocoder, open_vocoder
from soundgan.audio.transform import Transform, compress, expand
from soundgan.audio.vocoders import BigVgan, GriffinLim, HifiGan, Librosa, RawAudio, Vocoder

__all__ = [
    "BadClip",
    "BadVocoder",
    "BigVgan",
    "GriffinLim",
    "HifiGan",
    "Librosa",
    "RawAudio",
    "Transform",
    "Vocoder",
    "compress",
    "expand",
    "load_hifigan",
    "load_vocoder",
    "open_vocoder",
    "opened",
    "read_clip",
    "read_clips",
    "write_wav",
]
