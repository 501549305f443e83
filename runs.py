"""A run's folder and its process: files that survive a crash, the log, random states, signals.

Nothing here knows what is trained; `train.py` says what goes into the files and when.
"""

from __future__ import annotations

import csv
import errno
import importlib.metadata
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

import config
from config import Config, UserError

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
PACKAGES = ("torchaudio", "speechbrain", "librosa", "soundfile", "soxr", "numpy")


# ---- files --------------------------------------------------------------------------------------
# Never overwritten in place: a new file is written beside the old one, flushed to the disk and
# renamed, so that a crash at any moment leaves a whole one.


def write_bytes(path: Path, content: bytes | memoryview, keep_as: str = "") -> None:
    """Replace a file by a whole new one; the old one is kept under the name `keep_as`, if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    with open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if keep_as and path.exists():
        os.replace(path, path.with_name(keep_as))
    os.replace(unfinished, path)


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Replace a CSV file; characters that UTF-8 lacks (broken file names) are escaped."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_bytes(path, text.getvalue().encode(errors="backslashreplace"))


def save_checkpoint(run_dir: Path, state: dict) -> None:
    """Write `checkpoints/last.pt`; what was last becomes `previous.pt`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(run_dir / "checkpoints" / "last.pt", buffer.getbuffer(), keep_as="previous.pt")


def load_checkpoint(run_dir: Path, put_aside: bool = True) -> dict | None:
    """The newest whole checkpoint of a run, or None where there is none.

    A damaged one is said and, with `put_aside`, renamed (left as last.pt, the next save would push
    it over the good one), and the one before it is taken. Raises UserError when none is whole.
    """
    folder = run_dir / "checkpoints"
    damaged = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        if not path.exists():
            continue
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load itself does not look at checksums
                if archive.testzip() is not None:
                    raise ValueError("checksum")
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file fails in whatever way it likes
            damaged.append(path.name)
            print(
                f"{path} is damaged ({type(error).__name__}: {error}); the one before it is used."
            )
            if put_aside:
                os.replace(path, path.with_name(f"damaged-{path.name}"))
    if damaged:
        raise UserError(
            f"No whole checkpoint in {folder} ({' and '.join(damaged)} damaged): copy one back "
            f"from a backup, or delete {folder} to train this run from the beginning."
        )
    return None


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder; raises UserError while another process trains in it.

    The system gives the lock back when a process ends, however it ends. Where there are no such
    locks (Windows, some network drives), nothing is held.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"Another process is training in {run_dir}: wait for it, stop it, or start a "
                    "run beside it with --run-name NAME."
                ) from error
            except OSError:
                pass
        yield


# ---- config.json --------------------------------------------------------------------------------


def write_config(cfg: Config, classes: Sequence[str], **facts: object) -> None:
    """Write `config.json`: recipe, classes, every constant, versions, git revision, and `facts`."""
    content = {
        "recipe": cfg.recipe,
        "classes": list(classes),
        "config": config.to_dict(cfg),
        "versions": {"python": platform.python_version(), "torch": torch.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_revision": git_revision(),
    }
    text = json.dumps(content | facts, indent=2)
    write_bytes(cfg.run_dir / "config.json", text.encode())


def read_config(run_dir: Path) -> dict:
    """The content of `config.json`; raises UserError where there is none or it is damaged."""
    path = run_dir / "config.json"
    try:
        content = json.loads(path.read_bytes())
        content["classes"], content["config"]["recipe"]
        return content
    except FileNotFoundError as error:
        raise UserError(f"{run_dir} is no run: it holds no config.json.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}).") from error


def git_revision() -> str | None:
    """Commit of this program, with '+changes' if tracked files differ; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


# ---- log.csv ------------------------------------------------------------------------------------


class Log:
    """`log.csv`, one row an epoch; opening drops the rows after `epoch` (the checkpoint's)."""

    def __init__(self, path: Path, columns: Sequence[str], epoch: int) -> None:
        self.path, self.columns = path, tuple(columns)
        self.rows: list[dict[str, float]] = []
        if path.exists():
            with open(path, newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    try:
                        values = {name: _number(row[name]) for name in self.columns}
                    except (KeyError, TypeError, ValueError):  # a row cut short
                        continue
                    if values["epoch"] <= epoch:
                        self.rows.append(values)
        self._write()

    def add(self, values: Mapping[str, float]) -> None:
        self.rows.append({name: _number(_text(values[name])) for name in self.columns})
        self._write()

    def _write(self) -> None:
        rows = [[_text(row[name]) for name in self.columns] for row in self.rows]
        write_csv(self.path, [self.columns, *rows])


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


# ---- random states ------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict:
    """Every random state of the process, in types that `weights_only` loading knows."""
    _, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict, device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


# ---- signals ------------------------------------------------------------------------------------


class StopSignal:
    """Turns Ctrl-C, SIGTERM and a closed terminal into a request (`name`) for the loop to honour.

    A second signal has its usual effect: it stops at once.
    """

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                if number := getattr(signal, name, None):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name
        self.__exit__()
        with suppress(OSError):  # the terminal may be gone
            tqdm.write(f"{self.name}: finishing this step and saving. Again to stop at once.")


# ---- the device and its memory ------------------------------------------------------------------


def pick_device(cfg: Config) -> torch.device:
    """The device that `cfg.device` names, with its precision and determinism set."""
    name = cfg.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device = {cfg.device!r} is none: auto, cuda, cuda:1 or cpu.") from error
    if device.type not in ("cuda", "cpu"):
        raise UserError(f"device = {cfg.device!r} is not supported: auto, cuda, cuda:1 or cpu.")
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"device = {cfg.device!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices "
                "here (--device cpu trains without)."
            )
        torch.backends.cuda.matmul.allow_tf32 = cfg.tf32
        torch.backends.cudnn.allow_tf32 = cfg.tf32
        torch.backends.cudnn.benchmark = not cfg.deterministic  # what it picks depends on timing
        if cfg.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
    return device


@contextmanager
def explain_memory(cfg: Config) -> Iterator[None]:
    """Turn running out of memory into a UserError that names the constant to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not full and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"Out of memory on {cfg.device}. Lower batch_size (now {cfg.batch_size}: --batch-size "
            f"{max(1, cfg.batch_size // 2)}, in a run of its own with --run-name NAME) or, if it "
            f"came while samples were made, VOCODER_BATCH (now {config.VOCODER_BATCH}) in "
            "config.py."
        ) from error


def peak_memory() -> int:
    """Most bytes that this process has held at a time; 0 where the system does not say."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> int:
    """Bytes that a process could still take; 0 where the system does not say (outside Linux)."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1])
    return 0


# ---- exit codes ---------------------------------------------------------------------------------


class Outcome:
    """Exit code of a command."""

    code = 0


@contextmanager
def friendly() -> Iterator[Outcome]:
    """Run a command: what a person can mend ends as one sentence and an exit code.

    What they cannot mend, a fault of the program, keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):  # a class name may be what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    outcome = Outcome()
    try:
        yield outcome
    except UserError as error:
        outcome.code = error.exit_code
        print(f"{error.heading}: {error}", file=sys.stderr)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        outcome.code = UserError.exit_code
        print(
            f"Error: {error.filename or 'a file'} cannot be read or written "
            f"({error.strerror}). What was saved before is intact: free some space there, mend its "
            "permissions, or choose another folder.",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        outcome.code = 130  # as a shell counts it: 128 + SIGINT
        print("Interrupted. What was saved before is intact.", file=sys.stderr)
