"""A run's folder and its process: files that survive a crash, the log, random states, signals.

Nothing here knows what is trained; `train.py` says what goes into the files and when.
"""

from __future__ import annotations

import csv
import ctypes
import importlib.metadata
import io
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import matplotlib.image
import numpy as np
import soundfile
import torch
from tqdm.auto import tqdm

import config
from config import Config, UserError

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None

PACKAGES = ("torchaudio", "speechbrain", "librosa", "soundfile", "soxr", "numpy")


# ---- files --------------------------------------------------------------------------------------
# Never overwritten in place: a new file is written beside the old one, flushed to the disk and
# renamed, so that a crash at any moment leaves a whole one.


def write_bytes(path: Path, content: bytes | memoryview, keep_as: str = "") -> None:
    """Replace a file by a whole new one; the old one is kept under the name `keep_as`, if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # By process: two runs may write the page over all runs, or a shared cache, at the same time.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
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
    write_bytes(path, as_written(text.getvalue()).encode())


def as_written(name: str) -> str:
    """A name as `write_csv` leaves it."""
    return name.encode(errors="backslashreplace").decode()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of `folder` when all is in it."""
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def save_checkpoint(run_dir: Path, state: dict) -> None:
    """Write `checkpoints/last.pt`; what was last becomes `previous.pt`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(run_dir / "checkpoints" / "last.pt", buffer.getbuffer(), keep_as="previous.pt")


def load_checkpoint(run_dir: Path, put_aside: bool = True) -> dict | None:
    """The newest whole checkpoint of a run, or None where there is none.

    A damaged one is said and the one before it is taken; with `put_aside` the damaged one is then
    renamed (left as last.pt, the next save would push it over the good one). Raises UserError, and
    renames nothing, when there are checkpoints but none is whole; OSError when one cannot be read.
    """
    folder = run_dir / "checkpoints"
    damaged: list[Path] = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        if not path.exists():
            continue
        content = path.read_bytes()
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.load looks at no checksum
                if archive.testzip() is not None:
                    raise ValueError("a checksum differs")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file fails in whatever way it likes
            print(f"{path} is damaged ({type(error).__name__}: {error}).")
            damaged.append(path)
            continue
        for broken in damaged if put_aside else ():
            os.replace(broken, broken.with_name(f"damaged-{broken.name}"))
        return state
    if damaged:
        raise UserError(
            f"No whole checkpoint in {folder}: copy one back from a backup, or delete {folder} to "
            "train this run from the beginning."
        )
    return None


def forget_after(run_dir: Path, epoch: int, fresh: bool, unit: str = "epoch") -> None:
    """Make room for what a run will write again: sets of samples after `epoch` (or another unit).

    Where the run begins anew in a folder that was used before, that one's samples are kept beside
    them under another name, and its weights, which fit nothing any more, go.
    """
    samples = run_dir / "samples"
    sets = samples.glob(f"{unit}_*")
    names = {p: re.fullmatch(rf"{unit}_(\d+)", p.name) for p in sets}  # not a user's own copies
    later = [p for p, name in names.items() if name and int(name[1]) > epoch]
    if fresh and later:
        kept = next(p for n in range(1, 10**6) if not (p := run_dir / f"samples.old{n}").exists())
        samples.rename(kept)
        for weights in ("generator.safetensors", "best.safetensors", "generator.ckpt"):
            (run_dir / weights).unlink(missing_ok=True)
        print(f"There is no checkpoint in {run_dir}: it begins anew; old samples are in {kept}.")
        return
    for path in later:
        shutil.rmtree(path)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder; raises UserError while another process trains in it.

    The system gives the lock back when a process ends, however it ends. Where there are no such
    locks (Windows, some network drives), nothing is held.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w") as file:
        if not _takes(file):
            raise UserError(
                f"Another process is training in {run_dir}: wait for it, stop it, or start a run "
                "beside it with --run-name NAME."
            )
        for stale in (*run_dir.glob("*.tmp"), *run_dir.glob("checkpoints/*.tmp")):  # of a kill
            stale.unlink(missing_ok=True)
        yield


@contextmanager
def in_turn(path: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file; while another process has it, say `waiting` and wait. Where there are no
    locks (see `locked`), nothing is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        if not _takes(file):
            print(waiting, flush=True)
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _takes(file: IO[str]) -> bool:
    """Lock a file unless another process has it; true also where there are no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
    return True


# ---- config.json --------------------------------------------------------------------------------


def write_config(cfg: Config, classes: Sequence[str], **facts: object) -> None:
    """Write `config.json`: recipe, classes, every constant, versions, git revision, and `facts`."""
    content = {
        "recipe": cfg.recipe,
        "classes": list(classes),
        "config": config.to_dict(cfg),
    }
    text = json.dumps(content | program() | facts, indent=2)
    write_bytes(cfg.run_dir / "config.json", text.encode())


def program() -> dict:
    """What ran: versions of Python and packages, git revision."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"versions": versions, "git_revision": git_revision()}


def read_config(run_dir: Path) -> dict:
    """The content of `config.json`; raises UserError where there is none or it is damaged."""
    path = run_dir / "config.json"
    try:
        content = json.loads(path.read_bytes())
        classes, _ = content["classes"], content["config"]["recipe"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run_dir} is no run: it holds no config.json.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}).") from error
    # Class names become names of files: nothing in them may lead elsewhere.
    if not all(isinstance(c, str) and c and Path(c).name == c for c in classes):
        raise UserError(f"{path} is damaged: its classes are no plain names.")
    return content


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
    """A CSV file with rows by epoch; opening drops those after `epoch` (the checkpoint's).

    What is added is kept in memory until it is written, and goes to `events`, if there are any.
    `by`: another column, in whose unit `epoch` is then.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        epoch: int,
        events: Events | None = None,
        by: str = "epoch",
    ) -> None:
        self.path, self.columns, self.events = path, tuple(columns), events
        self.rows = read_log(path, epoch, columns, by)
        self._written = False
        self.write()

    def add(self, values: Mapping[str, float]) -> None:
        self.rows.append({name: _number(_text(values[name])) for name in self.columns})
        self._written = False
        if self.events:
            self.events.scalars(self.path.stem, self.rows[-1])

    def write(self) -> None:
        """Bring what was added to the disk."""
        if self._written:
            return
        rows = [[_text(row[name]) for name in self.columns] for row in self.rows]
        write_csv(self.path, [self.columns, *rows])
        self._written = True


def read_log(
    path: Path, epoch: int, columns: Sequence[str] = (), by: str = "epoch"
) -> list[dict[str, float]]:
    """Rows of a log up to `epoch` (`columns`: all), those left out that an interruption cut.

    `by`: another column, in whose unit `epoch` is then.
    """
    rows = []
    with (
        suppress(FileNotFoundError),
        open(path, newline="", encoding="utf-8-sig", errors="replace") as file,
    ):
        reader = csv.DictReader(file)
        for row in reader:
            try:
                values = {name: _number(row[name]) for name in columns or reader.fieldnames}
                if values[by] <= epoch:
                    rows.append(values)
            except (KeyError, TypeError, ValueError, AttributeError):  # cut short
                continue
    return rows


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


class Events:
    """TensorBoard events in `folder`; a run continued after `epoch` hides what it does again.

    Raises UserError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                "tensorboard = True, but TensorBoard is not installed: pip install tensorboard, or "
                "leave --tensorboard out."
            ) from error
        self.writer = SummaryWriter(folder, purge_step=epoch + 1)

    def scalars(self, group: str, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch" and math.isfinite(value):
                self.writer.add_scalar(f"{group}/{name}", value, row["epoch"])
        self.writer.flush()

    def sounds(self, folder: Path, epoch: int) -> None:
        """The WAVs and PNGs of one set of samples."""
        for path in sorted(folder.glob("*.wav")):
            wave, rate = soundfile.read(path, dtype="float32")
            self.writer.add_audio(path.stem, torch.from_numpy(wave)[None], epoch, rate)
            picture = matplotlib.image.imread(path.with_suffix(".png"))[..., :3]
            self.writer.add_image(path.stem, picture, epoch, dataformats="HWC")
        self.writer.flush()


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


class Stopped(KeyboardInterrupt):
    """A signal came while work was done that can simply be done again."""


class StopSignal:
    """Turns Ctrl-C, SIGTERM and a closed terminal into a request (`name`) for the loop to honour.

    A second signal has its usual effect: it stops at once.
    """

    def __init__(self) -> None:
        self.name = ""
        self._at_once = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                # One that is ignored already stays so: that is what nohup is for.
                if number and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a signal raises Stopped: for work that a continued run simply does again."""
        if self.name:
            raise Stopped
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _ask(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name
        self.__exit__()
        if self._at_once:
            raise Stopped
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
        if device.index is not None:  # CUDA graphs are captured on the current device
            torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = cfg.tf32
        torch.backends.cudnn.allow_tf32 = cfg.tf32
        torch.backends.cudnn.benchmark = not cfg.deterministic  # what it picks depends on timing
        if cfg.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        keep_memory()
    return device


def keep_memory() -> None:
    """Let this process keep the memory that it frees (Linux with glibc; elsewhere nothing happens).

    A step on a CPU takes and frees its large tensors again and again. By default each goes back to
    the system, which clears and maps every page anew: half the time of a large batch.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in MALLOC_OPTIONS.items():
            libc.mallopt(option, value)


# Numbers of malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX (the pools of other
# threads, of which backward is one, give memory back whatever the rest says).
MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1, -2: 2**26, -8: 1}
FULL = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # of PyTorch, CUDA, its libraries


@contextmanager
def explain_memory(advice: str) -> Iterator[None]:
    """Turn running out of memory into a UserError that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not full and not any(words in str(error) for words in FULL):
            raise
        place = "the GPU" if "CU" in f"{type(error).__name__}{error}" else "this machine"
        raise UserError(
            f"Out of memory on {place}: {advice}, or free what other programs hold."
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


def space(device: torch.device, needed: int, folder: Path) -> str:
    """Memory that was taken and disk that will be (`needed` bytes), beside what is free."""
    if device.type == "cuda":
        used, free = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[0]
    else:
        used, free = peak_memory(), free_memory()
    name = "GPU memory" if device.type == "cuda" else "Memory"
    there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    disk = shutil.disk_usage(there).free
    warning = " That is too little: choose another --output-dir." if needed > disk else ""
    return (
        f"{name}: {used / 2**30:.2f} GiB used at most, {free / 2**30:.1f} GiB free.\n"
        f"Disk: the run needs about {needed / 2**20:.0f} MiB, {disk / 2**30:.1f} GiB are free "
        f"below {there}.{warning}"
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


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
        say(f"{error.heading}: {error}")
    except OSError as error:
        if error.errno is None:
            raise
        outcome.code = UserError.exit_code
        say(
            f"Error: {error.filename or 'a file'} cannot be read or written ({error.strerror}). "
            "What was saved before is intact: mend its permissions, free some space there, or "
            "choose another folder."
        )
    except KeyboardInterrupt:
        outcome.code = 130  # as a shell counts it: 128 + SIGINT
        say("Interrupted. What was saved before is intact.")


def say(text: str) -> None:
    """Print to the standard error, which may be gone with its terminal."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
