"""The peak of memory by phase: what training needed where, and one line when there was not enough.

On a GPU torch counts what it allocated. On a CPU Linux counts the process's resident memory, whose high-water mark can be reset.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from tlora.errors import OutOfMemoryError

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CPU_WORDS = "can't allocate memory"  # of torch's allocator on the CPU, which has no exception of its own


class PeakMemory:
    """Keeps the highest memory of each phase, in bytes.

    Args:
        device: Where the work is done.

    Example:
        >>> memory = PeakMemory(torch.device("cpu"))
        >>> with memory.phase("forward"):
        ...     kept = torch.ones(10)
        >>> list(memory.peaks)
        ['forward']
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done in this context to a phase.

        Raises:
            OutOfMemoryError: If memory runs out, with the peak of every phase so far.
        """
        restart_peak(self.device)
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            self._note(name)
            raise OutOfMemoryError(f"out of memory in {name} on {self.device} (peak by phase: {self})") from error
        self._note(name)

    def __str__(self) -> str:
        return ", ".join(f"{name} {peak / 1e9:.2f} GB" for name, peak in self.peaks.items())

    def _note(self, name: str) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0), peak_bytes(self.device))


def peak_bytes(device: torch.device) -> int:
    """Return the most that was held since `restart_peak`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def held_bytes(device: torch.device) -> int:
    """Return what is held now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def free_bytes(device: torch.device) -> int:
    """Return what could still be had."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable") * 1024


def restart_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where it may not be reset, a phase shows the peak of all before it too
        _RESET.write_text("5", encoding="ascii")


def _status(field: str) -> int:
    return _kilobytes(_STATUS, field) * 1024


def _kilobytes(file: Path, field: str) -> int:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _CPU_WORDS in str(error)
