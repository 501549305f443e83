"""Folders of sounds -> decoded clips: found, decoded once, split, reported."""

from soundgan.dataset.cache import decoded_constants, load_clips, open_clips
from soundgan.dataset.decoding import Clips
from soundgan.dataset.discovery import Found, find_files
from soundgan.dataset.fingerprint import differ
from soundgan.dataset.loading import band_statistics, find_clips, list_left_out, load
from soundgan.dataset.splitting import Recording, Split, recordings, source_in_name, split
from soundgan.dataset.summary import describe

__all__ = [
    "Clips",
    "Found",
    "Recording",
    "Split",
    "band_statistics",
    "decoded_constants",
    "describe",
    "differ",
    "find_clips",
    "find_files",
    "list_left_out",
    "load",
    "load_clips",
    "open_clips",
    "recordings",
    "source_in_name",
    "split",
]
