"""Commands of the program in a notebook: as in a terminal, and the stop button lets them save."""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
import sys


def run_command(*words: str) -> int:
    """Run `python WORDS ...`, show what it says as it says it, and return its exit code.

    No shell reads the words, so that each of them may hold spaces, quotes, `$` and braces. A
    KeyboardInterrupt (the stop button) is passed on, and the command is waited for: training saves
    before it ends. A second one has it end without.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    process = subprocess.Popen(
        [sys.executable, "-u", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:backslashreplace"},
        start_new_session=True,  # a signal to all of the kernel's processes would come twice
    )
    with process:
        while True:
            try:
                if not (piece := os.read(process.stdout.fileno(), 1 << 16)):
                    return process.wait()
                print(decoder.decode(piece), end="", flush=True)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
