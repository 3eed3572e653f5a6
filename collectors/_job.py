"""What job this process belongs to: rank, device, versions, launcher.

Environment variables are looked at to learn these few numbers and are never written anywhere.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from importlib import metadata
from typing import Any

#: Distributions whose versions explain a trace.
_VERSIONS = ("torch", "deepspeed", "transformers", "accelerate", "megatron-core", "flash-attn")

#: A launcher by a variable that it alone sets, most specific first (accelerate and deepspeed start
#: their workers themselves; torchrun is also what accelerate uses underneath).
_LAUNCHERS = (
    ("ACCELERATE_MIXED_PRECISION", "accelerate"),
    ("TORCHELASTIC_RUN_ID", "torchrun"),
    ("CROSS_SIZE", "deepspeed"),
    ("OMPI_COMM_WORLD_RANK", "mpi"),
    ("PMI_RANK", "mpi"),
    ("SLURM_PROCID", "slurm"),
)
_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_WORLD = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")


def _number(names: tuple[str, ...]) -> int | None:
    for name in names:
        value = os.environ.get(name, "")
        if value.isdigit():
            return int(value)
    return None


def rank() -> int:
    """The rank of this process: what torch.distributed says, else the launcher, else 0."""
    dist = _distributed()
    return int(dist.get_rank()) if dist else _number(_RANK) or 0


def world_size() -> int:
    """Processes of the job: what torch.distributed says, else the launcher, else 1."""
    dist = _distributed()
    return int(dist.get_world_size()) if dist else _number(_WORLD) or 1


def _distributed() -> Any:
    """torch.distributed, if the job has loaded and initialised it; else None."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_available() and dist.is_initialized() else None


def identity() -> dict[str, object]:
    """Who and where this process is: the manifest's first keys."""
    known = [name for variable, name in _LAUNCHERS if os.environ.get(variable) is not None]
    return {
        "rank": rank(),
        "local_rank": _number(_LOCAL_RANK),
        "world_size": world_size(),
        "host": socket.gethostname(),
        "launcher": known[0] if known else None,
        "clock": {"unix_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()},
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of what is installed beside it; of CUDA and NCCL as torch has them."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in _VERSIONS:
        try:
            found[name.replace("-", "_")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name.replace("-", "_")] = None
    torch = sys.modules.get("torch")
    found["cuda"] = getattr(getattr(torch, "version", None), "cuda", None)
    found["nccl"] = _nccl(torch) if found["cuda"] else None
    return found


def _nccl(torch: Any) -> str | None:
    try:
        return ".".join(str(n) for n in torch.cuda.nccl.version())
    except (AttributeError, RuntimeError, TypeError):  # built without NCCL
        return None


def device() -> dict[str, object]:
    """The device that this process computes on."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {"type": "cpu", "name": None, "index": None}
    index = torch.cuda.current_device()
    about = torch.cuda.get_device_properties(index)
    return {
        "type": "cuda",
        "name": about.name,
        "index": index,
        "memory_bytes": about.total_memory,
        "multiprocessors": about.multi_processor_count,
        "tf32_matmul": bool(torch.backends.cuda.matmul.allow_tf32),
    }
