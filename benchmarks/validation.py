"""What looking at a folder of pictures costs: `validate`, whole, against nothing but decoding the same files with pillow.

Both use every core. `validate` is timed as its users run it: a fresh process, tokenizers loaded (built in an earlier run),
captions counted, likenesses searched, manifests and report written. Memory is watched in a run of its own, and is the sum over
the whole process tree, shared pages counted once (PSS).

Time is compared at the size of real pictures. How memory and rate go with the number of files is shown with small ones, for it
hangs on what is kept of a picture, not on its pixels; their ratio is none to aim at, so little is there to decode.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.measure import machine, ratio, take_turns
from pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer

ROOT = Path(__file__).parents[1]
PHOTOGRAPH, REAL, SMALL = (2048, 1536), (1024, 768), (256, 192)
ROWS = ((1000, PHOTOGRAPH), (1000, REAL), (5000, REAL), (1000, SMALL), (5000, SMALL), (20_000, SMALL))
SMOKE_ROWS = ((20, (512, 384)), (80, (64, 48)))
QUALITY = 90
NOISE = 6.0  # grey levels, as of a camera: JPEG of smooth pictures is decoded too fast to compare with
SAMPLE_SECONDS = 0.1
PARAMS = """\
model: {path: base, revision: "", dtype: float32, device: cpu, quantisation: none}
validate: {min_side: 32, max_aspect: 3.0, min_sharpness: 0.02, near_copy_bits: 8, engine: processes}
cache_latents: {resolution: 512, center_crop: true, random_flip: false, views_per_picture: 1, min_scale: 0.25, max_scale: 1.0}
cache_prompts: {max_sequence_length: 77}
"""
CONCEPT = "name: bench\ntrigger: matbrk\nprompts: [a matbrk wall]\n"
STAGE = "from tasks.running.cli import run_stage; from tasks.validate.stage import validate; run_stage(validate)"


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each number and size of files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few and small files, to see it run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the pictures go, and stay; by default a temporary folder")
    options = parser.parse_args(arguments)
    print(f"{machine()}; median of {options.rounds} rounds\n")
    print(
        "| JPEG | kB each | files | pillow s | validate s | ratio | ratio of CPU s | files a second | again s | peak MB of all |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for count, size in SMOKE_ROWS if options.smoke else ROWS:
            name = f"{size[0]} x {size[1]}"
            pictures = make_pictures(folder / f"pictures {name}", count, size)
            kilobytes = np.mean([path.stat().st_size for path in pictures[:100]]) / 1000
            print(f"| {name} | {kilobytes:.0f} | {row(folder / f'work {name} {count}', pictures, options.rounds)}", flush=True)


def row(work: Path, pictures: Sequence[Path], rounds: int) -> str:
    """Watch the memory of `validate` on some pictures; time both in turns; then `validate` again, with all of them known."""
    lay_out(work, pictures)
    processor = {"pillow": 0.0, "validate": 0.0}

    def pillow() -> None:
        processor["pillow"] += _processor_seconds(lambda: decode_all(pictures))

    def stage() -> None:
        forget(work)
        processor["validate"] += _processor_seconds(lambda: validate(work))

    forget(work)
    peak = validate(work, watched=True)
    seconds = take_turns({"pillow": pillow, "validate": stage}, rounds, warm_up=0)
    again = take_turns({"again": lambda: validate(work)}, 1, warm_up=0)
    plain, whole = (float(np.median(seconds[name])) for name in ("pillow", "validate"))
    ratios = f"{ratio(seconds, 'validate', 'pillow'):.2f} | {processor['validate'] / processor['pillow']:.2f}"
    rate = len(pictures) / whole
    return f"{len(pictures)} | {plain:.1f} | {whole:.1f} | {ratios} | {rate:.0f} | {again['again'][0]:.1f} | {peak:.0f} |"


def make_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write pictures that are not there yet, each of its own content, with noise as a camera's, and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"picture_{n:06d}.jpg" for n in range(count)]
    missing = [(path, size) for path in paths if not path.with_suffix(".txt").exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw, missing, chunksize=16))
    return paths


def lay_out(work: Path, pictures: Sequence[Path]) -> None:
    """Fill a working folder with links to the pictures, captions, a concept, parameters and tokenizers."""
    images = work / "data" / "images"
    images.mkdir(parents=True, exist_ok=True)
    for path in pictures:
        for file in (path, path.with_suffix(".txt")):
            if not (images / file.name).exists():
                os.link(file, images / file.name)
    (work / "params.yaml").write_text(PARAMS, encoding="utf-8")
    (work / "concept.yaml").write_text(CONCEPT, encoding="utf-8")
    build_clip_tokenizer().save_pretrained(work / "base" / "tokenizer")
    build_t5_tokenizer().save_pretrained(work / "base" / "tokenizer_2")


def decode_all(pictures: Sequence[Path]) -> None:
    """Decode every picture with pillow alone, on all cores."""
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(_decode, pictures, chunksize=16):
            pass


def forget(work: Path) -> None:
    """Let `validate` know none of the pictures."""
    for file in work.glob(".state/cache/validate/*"):
        file.unlink()


def validate(work: Path, *, watched: bool = False) -> float:
    """Run the stage in a process of its own, and return its peak memory in MB if it is watched, which slows it down."""
    folders = ["--data", "data/images", "--concept", "concept.yaml", "--manifest", "manifest", "--report", "report"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STAGE, *folders]
    with (
        subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.DEVNULL) as process,
        peak_memory(process) if watched else nullcontext([0.0]) as peaks,
    ):
        if process.wait() != 0:
            raise RuntimeError(f"validate ended with {process.returncode}")
    return max(peaks)


@contextmanager
def peak_memory(process: "subprocess.Popen[bytes]") -> Iterator[list[float]]:
    """Sample the memory of a process and all below it, in MB, while the block runs."""
    peaks, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            peaks.append(_tree_megabytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()


def _processor_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of the processes that some work started; it holds on a busy machine too."""
    before = os.times()
    work()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _tree_megabytes(pid: int) -> float:
    try:
        parent = psutil.Process(pid)
        return sum(process.memory_full_info().pss for process in (parent, *parent.children(recursive=True))) / 1e6
    except psutil.Error:  # one of them is gone
        return 0.0


def _draw(job: tuple[Path, tuple[int, int]]) -> None:
    path, size = job
    rng = np.random.default_rng(int(path.stem.split("_")[1]))
    coarse = [Image.fromarray(rng.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize(size) for n in (6, 40, 200)]
    pixels = sum(np.asarray(layer, np.float32) / weight for layer, weight in zip(coarse, (2, 4, 8), strict=True))
    noise = rng.standard_normal((size[1], size[0], 1), dtype=np.float32) * NOISE
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    path.with_suffix(".txt").write_text(f"a matbrk wall, number {int(path.stem[-6:])}, seen from the street", encoding="utf-8")


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


if __name__ == "__main__":
    main()
