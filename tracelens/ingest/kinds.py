"""What an event is, by Kineto's category or, where that is missing, by its name and arguments."""

from __future__ import annotations

from tracelens.ingest.schema import Slice
from tracelens.trace import Kind

#: Category as written -> Kind. Kineto's names: libkineto/src/ActivityType.cpp; the capitalised ones
#: are those of torch 1.8 to 1.10 (libkineto/src/output_json.cpp of 2021).
KIND_OF_CATEGORY = {
    "cpu_op": Kind.CPU_OP,
    "Operator": Kind.CPU_OP,
    "user_annotation": Kind.ANNOTATION,
    "cuda_runtime": Kind.RUNTIME,
    "cuda_driver": Kind.RUNTIME,
    "hip_runtime": Kind.RUNTIME,
    "hip_driver": Kind.RUNTIME,
    "xpu_runtime": Kind.RUNTIME,
    "xpu_driver": Kind.RUNTIME,
    "mtia_runtime": Kind.RUNTIME,
    "glow_runtime": Kind.RUNTIME,
    "privateuse1_runtime": Kind.RUNTIME,
    "privateuse1_driver": Kind.RUNTIME,
    "Runtime": Kind.RUNTIME,
    "python_function": Kind.PYTHON,
    "kernel": Kind.KERNEL,
    "concurrent_kernel": Kind.KERNEL,
    "mtia_ccp_events": Kind.KERNEL,
    "Kernel": Kind.KERNEL,
    "gpu_memcpy": Kind.MEMCPY,
    "Memcpy": Kind.MEMCPY,
    "gpu_memset": Kind.MEMSET,
    "Memset": Kind.MEMSET,
    "gpu_user_annotation": Kind.GPU_ANNOTATION,
    "cuda_sync": Kind.SYNC,
    "overhead": Kind.OVERHEAD,
}

#: Categories that do not say: none, and the one that vendors use for calls and device work alike.
_SILENT = ("", "collective_comm")

#: Kinds that stand on a GPU's track, written under (device, stream).
ON_TRACK = (Kind.KERNEL, Kind.MEMCPY, Kind.MEMSET, Kind.GPU_ANNOTATION)
#: Kinds whose stream and device mean where the work ran; elsewhere they are only arguments
#: (ROCm's runtime calls carry the stream's address).
ON_DEVICE = (*ON_TRACK, Kind.SYNC, Kind.OTHER)

_RUNTIME_PREFIXES = ("cuda", "hip", "cuLaunch", "cuMem", "cuStream", "cuEvent", "cuCtx")
_KERNEL_PREFIXES = ("ncclKernel", "ncclDevKernel", "rcclKernel", "void ")

#: Stands for "look at the event" among the codes of `Kind`.
UNKNOWN = -1


class KindOfCategory(dict[str, int]):
    """Category -> `Kind` code, `UNKNOWN` for a missing one, OTHER for one that we do not know."""

    def __init__(self) -> None:
        super().__init__({c: int(k) for c, k in KIND_OF_CATEGORY.items()})
        self.update(dict.fromkeys(_SILENT, UNKNOWN))

    def __missing__(self, category: str) -> int:
        self[category] = int(Kind.OTHER)
        return self[category]


def infer_kind(event: Slice) -> Kind:
    """The kind of an event that has no category, from its name and arguments."""
    name, args = event.name, event.args
    on_stream = args.stream not in (-1, None) and not name.startswith(_RUNTIME_PREFIXES)
    if on_stream or name.startswith(_KERNEL_PREFIXES):
        if name.startswith(("Memcpy", "CopyHostToDevice", "CopyDeviceToHost")):
            return Kind.MEMCPY
        return Kind.MEMSET if name.startswith(("Memset", "FillBuffer")) else Kind.KERNEL
    if name.startswith(_RUNTIME_PREFIXES):
        return Kind.RUNTIME
    if name.startswith("ProfilerStep"):
        return Kind.ANNOTATION
    if ".py(" in name or name.startswith("<built-in "):
        return Kind.PYTHON
    is_op = args.external_id not in (-1, None) or args.sequence not in (-1, None) or "::" in name
    return Kind.CPU_OP if is_op else Kind.OTHER
