"""Scripted training jobs that leave the signatures of real ones, and what is inferred of each.

`Job` plays a training loop on a host clock and GPU streams and writes down what torch.profiler
would have seen; the functions below it play one framework each. Sizes are small, the structure is
that of the recordings: what is launched in which range, on which thread and stream, in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builder import BACKWARD_TID, MAIN_TID, TraceBuilder

from tracelens.api import analyze
from tracelens.infer.result import Setup

EVALUATE = "autograd::engine::evaluate_function: "
ACCUMULATE = "torch::autograd::AccumulateGrad"
GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n"
ADAM = "void multi_tensor_apply_kernel<PointwiseOpScalarListFunctor<float>>(float)"
#: Elements of one layer's weight, layers of the model, and of all weights.
LAYER, LAYERS = 100_000, 4
MODEL = LAYER * LAYERS
COMPUTE, REDUCE, INTERNAL = 7, 31, 19  # streams

_KERNEL = {
    "all_reduce": "AllReduce_Sum_{}_RING_LL",
    "reduce_scatter": "ReduceScatter_Sum_{}_RING_LL",
    "reduce": "Reduce_Sum_{}_RING_LL",
    "all_gather": "AllGather_RING_LL",
    "broadcast": "Broadcast_RING_LL",
    "all_to_all": "SendRecv",
    "send": "SendRecv",
    "recv": "SendRecv",
}
_CALL = {
    "all_reduce": "allreduce",
    "all_gather": "_allgather_base",
    "reduce_scatter": "_reduce_scatter_base",
    "all_to_all": "all_to_allv",
}
_SHORT = {"BFloat16": "bf16", "Half": "f16", "Float": "f32", "Double": "f64", "Byte": "u8",
          "Long": "i64", "Int": "i32"}  # fmt: skip


class Job:
    """One rank of a job, as torch.profiler would record it.

    `era` is ``args`` (torch 2.3 on: kernels carry the collective's arguments) or ``ranges`` (before:
    only ``nccl:all_reduce`` around the launch). Without `host` only GPU work and runtime calls are
    written, as with ``activities=[CUDA]``; without `shapes` no operands.
    """

    def __init__(  # noqa: PLR0913 - switches of a recording
        self,
        *,
        rank: int = 0,
        world: int = 4,
        types: str = "c10::BFloat16",
        shapes: bool = True,
        host: bool = True,
        era: str = "args",
    ) -> None:
        self.trace = TraceBuilder(rank, world)
        self.rank, self.world, self.types = rank, world, types
        self.shapes, self.host, self.era = shapes, host, era
        self.now = 10.0
        self.tid = MAIN_TID
        self._free: dict[int, float] = {}
        self._id = 1000
        self._seq: list[int] = []
        self._next_seq = 1

    # ------------------------------------------------------------------ recording
    @contextmanager
    def inside(self, name: str, cat: str = "cpu_op", **args: Any) -> Iterator[None]:
        """A range of the host around what happens in the block."""
        start, tid = self.now, self.tid
        self.now += 1
        yield
        self.now += 1
        if self.host:
            keys = {"seq": "Sequence number", "ext": "External id"}
            if self.shapes:
                keys |= {"dims": "Input Dims", "types": "Input type", "concrete": "Concrete Inputs"}
            written = {keys.get(k, k): v for k, v in args.items() if v is not None}
            for key in ("dims", "types", "concrete"):
                written.pop(key, None)
            self.trace.host(cat, name, start, self.now - start, tid=tid, **written)

    def range(self, name: str) -> Any:
        """A record_function range."""
        return self.inside(name, "user_annotation")

    def step(self, number: int) -> Any:
        """``ProfilerStep#number``."""
        return self.range(f"ProfilerStep#{number}")

    @contextmanager
    def backward_thread(self) -> Iterator[None]:
        """What autograd's own thread does."""
        self.tid = BACKWARD_TID
        yield
        self.tid = MAIN_TID

    def gpu(self, name: str, us: float = 10, *, stream: int = COMPUTE, **args: Any) -> None:
        """Launch a kernel (or a copy, with `cat` and `bytes`)."""
        self._id += 1
        cat = args.pop("cat", "kernel")
        launch = {"kernel": "cudaLaunchKernel", "gpu_memcpy": "cudaMemcpyAsync"}[cat]
        ext = args.get("External id")
        self.trace.launch(self._id, ts=self.now, dur=1, name=launch, ext=ext, tid=self.tid)
        self.now += 2
        start = max(self.now, self._free.get(stream, 0.0))
        self._free[stream] = start + us
        if not self.host:
            args = {k: v for k, v in args.items() if k == "bytes"}
        self.trace.gpu(cat, name, start, us, stream=stream, correlation=self._id, **args)

    def op(self, name: str, kernel: str = "", **args: Any) -> None:
        """A torch operator that launches one kernel, or none."""
        with self.inside(name, **args):
            if kernel:
                self.gpu(kernel)

    def copy(self, kind: str, nbytes: int, *, stream: int = COMPUTE, us: float = 5) -> None:
        """A copy between host and GPU: ``HtoD`` or ``DtoH``."""
        where = {"HtoD": "Pinned -> Device", "DtoH": "Device -> Pinned"}[kind]
        with self.inside("aten::copy_"):
            self.gpu(f"Memcpy {kind} ({where})", us, stream=stream, cat="gpu_memcpy", bytes=nbytes)

    def comm(  # noqa: PLR0913 - the arguments of a collective
        self,
        kind: str,
        nelems: int,
        *,
        out: int | None = None,
        dtype: str = "BFloat16",
        stream: int = COMPUTE,
        ranks: tuple[int, ...] | None = None,
        us: float = 20,
        peer: int | None = None,
    ) -> None:
        """A collective with its record, on the host thread of the moment."""
        ranks = tuple(range(self.world)) if ranks is None else ranks
        self._id += 1
        recorded: dict[str, Any] = {
            "Collective name": _CALL.get(kind, kind),
            "In msg nelems": nelems,
            "Out msg nelems": nelems if out is None else out,
            "Group size": len(ranks),
            "dtype": dtype,
            "In split size": "[]",
            "Out split size": "[]",
            "Process Group Name": "pg" + "_".join(map(str, ranks)),
            "Process Group Description": "undefined",
            "Process Group Ranks": str(list(ranks)),
        }
        if peer is not None:
            recorded |= {"Src Rank": peer} if kind == "recv" else {"Dst Rank": peer}
        name = f"ncclDevKernel_{_KERNEL[kind].format(_SHORT[dtype])}(ncclDevKernelArgsStorage<4096>)"
        call = "nccl:" + kind if kind in ("all_reduce", "broadcast", "reduce") else f"nccl:_{kind}_base"
        call = {"all_to_all": "nccl:all_to_all"}.get(kind, call)
        call = f"nccl:{kind} {self.rank}->{peer}" if peer is not None else call
        if self.era == "ranges":
            scalar = {"Float": "float", "Byte": "unsigned char"}.get(dtype, f"c10::{dtype}")
            with self.inside(call, "user_annotation", dims=[[nelems]], types=[scalar]):
                self.gpu(name, us, stream=stream)
            return
        with self.range(call), self.inside("record_param_comms", ext=self._id, **recorded):
            self.gpu(name, us, stream=stream, **{"External id": self._id}, **recorded)

    # ------------------------------------------------------------------ the model
    def product(self, width: int = LAYER // 100) -> None:
        """One matrix product of 100 rows with a weight of a layer's size."""
        types = [self.types, self.types]
        self.op("aten::mm", GEMM, dims=[[8, 100], [100, width]], types=types)

    def forward(self, layers: int = LAYERS, before: Callable[[int], None] | None = None) -> None:
        """A forward pass; `before` runs before every layer."""
        for i in range(layers):
            if before:
                before(i)
            self._seq.append(self._next_seq)
            with self.inside("aten::linear", seq=self._next_seq):
                self.product()
            self._next_seq += 1

    def evaluate(self) -> None:
        """A forward pass without gradients."""
        for _ in range(LAYERS):
            with self.inside("aten::linear"):
                self.product()

    def backward(
        self,
        *,
        hook: Callable[[int], None] | None = None,
        node_hook: Callable[[int], None] | None = None,
        inner: Callable[[int], None] | None = None,
        accumulates: bool = True,
    ) -> None:
        """The backward pass of all forwards since the last one.

        `hook` runs as a post-accumulate-grad hook (inside AccumulateGrad), `node_hook` as a hook
        on that node (after it), `inner` inside each layer's own backward node.
        """
        with self.backward_thread():
            for i, seq in enumerate(reversed(self._seq)):
                with self.inside(EVALUATE + "MmBackward0", seq=seq):
                    if inner:
                        inner(i)
                    self.product()
                    self.product()
                if not accumulates:
                    continue
                with self.inside(EVALUATE + ACCUMULATE):
                    with self.inside(ACCUMULATE):
                        if hook:
                            hook(i)
                    if node_hook:
                        node_hook(i)
        self._seq.clear()

    def update(self, name: str = "AdamW", kernels: int = 1) -> None:
        """The optimizer's step."""
        with self.range(f"Optimizer.step#{name}.step"):
            for _ in range(kernels):
                self.op("aten::_fused_adamw_", ADAM)

    def zero_grad(self, name: str = "AdamW") -> None:
        """The optimizer's zero_grad."""
        with self.range(f"Optimizer.zero_grad#{name}.zero_grad"):
            pass

    def empty(self, nelems: int) -> None:
        """``torch.empty(nelems)`` as record_shapes shows it."""
        self.op("aten::empty", concrete=[f"[{nelems}]", "15", "", "", "False", ""])


def infer(folder: Path, *jobs: Job) -> Setup:
    """What is inferred of a run of these ranks."""
    paths = [job.trace.write(folder / f"rank{i}.json") for i, job in enumerate(jobs)]
    return analyze(paths).setup


# ---------------------------------------------------------------------- frameworks
def zero12(  # noqa: PLR0913 - the configuration that is to be inferred
    job: Job,
    stage: int,
    *,
    overlap: bool,
    micro_steps: int = 1,
    steps: int = 2,
    bucket: int = 2 * LAYER,
    buffers: str = "hook",
    hooks: str = "inside",
    flag: bool = True,
    marks: str = "update",
    optimizer: str = "AdamW",
    stream: int | None = None,
    inner: Callable[[int], None] | None = None,
) -> Job:
    """DeepSpeed ZeRO-1 or 2 (runtime/zero/stage_1_and_2.py).

    `buffers`: where the bucket is allocated, ``hook`` (0.18.3 on), ``main`` (before, in
    engine.backward). `hooks`: ``inside`` AccumulateGrad (0.16.6 on) or on its ``node``. `flag`: the
    overflow flag. `marks`: ProfilerStep per ``update`` or per ``micro`` step.
    """
    apart = stream if stream is not None else (REDUCE if overlap else COMPUTE)
    step_stream = stream if stream is not None else COMPUTE
    filled = 0

    def reduce() -> None:
        nonlocal filled
        if filled:
            job.comm("all_reduce", filled, stream=apart)
            filled = 0

    def micro_step(last: bool) -> None:
        nonlocal filled
        active = stage == 2 or last
        partition = False

        def hook(i: int) -> None:
            nonlocal filled, partition
            if not active:
                return
            if i == 0 and buffers == "hook":
                for _ in range(2 if overlap else 1):
                    job.empty(bucket)
            if stage == 2 or overlap:
                if filled + LAYER > bucket:
                    reduce()
                    if not partition:  # copy_grads_in_partition
                        job.empty(MODEL // job.world)
                        partition = True
                job.op("aten::copy_", "void at::native::copy_kernel<c10::BFloat16>()")
                filled += LAYER

        job.forward()
        if buffers == "main" and active:
            for _ in range(2 if overlap else 1):
                job.empty(bucket)
        job.backward(**{"hook" if hooks == "inside" else "node_hook": hook}, inner=inner)
        if active and stage == 1 and not overlap:
            for _ in range(LAYERS):
                filled += LAYER
                if filled >= bucket:
                    reduce()
        if active:
            reduce()
        if last:
            if flag:
                job.comm("all_reduce", 1, dtype="Byte", stream=step_stream)
            job.comm("all_reduce", 1, dtype="Float", stream=step_stream)
            job.update(optimizer)
            job.comm("all_gather", MODEL // job.world, out=MODEL, stream=step_stream)

    for k in range(steps):
        if marks == "micro":
            for m in range(micro_steps):
                with job.step(k * micro_steps + m):
                    micro_step(m == micro_steps - 1)
        else:
            with job.step(k):
                for m in range(micro_steps):
                    micro_step(m == micro_steps - 1)
    return job


def zero3(  # noqa: PLR0913 - the configuration that is to be inferred
    job: Job,
    *,
    overlap: bool = True,
    micro_steps: int = 1,
    hooks: str = "PreBackwardFunctionForModule",
    reduce: str = "reduce_scatter",
    inputs: int = 0,
    shard_on_host: bool = False,
) -> Job:
    """DeepSpeed ZeRO-3 (runtime/zero/stage3.py)."""
    shard = LAYER // job.world

    def fetch(i: int) -> None:
        if shard_on_host:
            job.copy("HtoD", 2 * shard)
        if hooks:
            job.op(hooks)
        job.comm("all_gather", shard, out=LAYER, stream=INTERNAL)

    def hook(i: int) -> None:
        out = shard if reduce == "reduce_scatter" else LAYER
        job.comm(reduce, LAYER, out=out, stream=REDUCE if overlap else COMPUTE)

    for k in range(2):
        with job.step(k):
            for _ in range(micro_steps):
                if inputs:
                    job.copy("HtoD", inputs)
                job.forward(before=fetch)
                job.backward(hook=hook)
            job.comm("all_reduce", 1, dtype="Double")
            job.update()
            job.comm("all_gather", 128, out=128 * job.world)
    return job


def stage0(job: Job, *, extra: Callable[[], None] | None = None) -> Job:
    """DeepSpeed stage 0: the engine flattens and reduces all gradients after the backward pass."""
    for k in range(2):
        with job.step(k):
            job.forward()
            if extra:
                extra()
            job.backward()
            job.op("aten::flatten_dense_tensors")
            job.comm("all_reduce", MODEL)
            job.update()
    return job


def ddp(  # noqa: PLR0913 - the configuration that is to be inferred
    job: Job,
    *,
    micro_steps: int = 1,
    optimizer: str = "AdamW",
    dtype: str = "BFloat16",
    named: bool = True,
    forward: Callable[[], None] | None = None,
) -> Job:
    """torch DDP; without `named` a loop of its own that reduces in the same place."""
    for k in range(2):
        with job.step(k):
            for m in range(micro_steps):
                last = m == micro_steps - 1

                def hook(i: int, last: bool = last) -> None:
                    if last and i % 2:
                        job.comm("all_reduce", 2 * LAYER, dtype=dtype, stream=INTERNAL)

                with job.range("DistributedDataParallel.forward" if named else "forward"):
                    (forward or job.forward)()
                job.backward(node_hook=hook)
            job.update(optimizer)
            if optimizer.startswith("ZeroRedundancy"):
                for source in range(job.world):
                    job.comm("broadcast", MODEL // job.world, stream=INTERNAL + source * 0)
            job.zero_grad(optimizer)
    return job


def fsdp(job: Job, *, named: str = "fsdp2", replicas: int = 1, inputs: int = 0) -> Job:
    """FSDP2, FSDP1, HSDP (`replicas`), or, without a name, the same by hand."""
    n = job.world // replicas
    mine = tuple(range(job.rank // n * n, job.rank // n * n + n))
    others = tuple(range(job.rank % n, job.world, n))
    gather = {"fsdp2": "FSDP::all_gather (layer)", "fsdp1": "FullyShardedDataParallel._pre_forward"}

    def fetch(i: int) -> None:
        with job.range(gather.get(named, "gather")):
            job.comm("all_gather", LAYER // n, out=LAYER, stream=INTERNAL, ranks=mine)

    def inner(i: int) -> None:
        fetch(i)
        job.comm("reduce_scatter", LAYER, out=LAYER // n, dtype="Float", stream=REDUCE, ranks=mine)
        if replicas > 1:
            job.comm("all_reduce", LAYER // n, dtype="Float", stream=REDUCE, ranks=others)

    for k in range(2):
        with job.step(k):
            if inputs:
                job.copy("HtoD", inputs)
            job.forward(before=fetch)
            job.backward(inner=inner)
            job.update()
            job.zero_grad()
    return job


def tensor_parallel(job: Job, *, activation: int = 50_000, dtensor: bool = True) -> Job:
    """Two-way tensor parallelism over all ranks: activations reduced forward and backward."""

    def reduce(i: int) -> None:
        if dtensor:
            with job.inside("Redistribute"), job.inside("_c10d_functional::all_reduce"):
                job.comm("all_reduce", activation, stream=INTERNAL)
        else:
            job.comm("all_reduce", activation, stream=INTERNAL)

    for k in range(2):
        with job.step(k):
            job.forward(before=reduce)
            job.backward(inner=reduce)
            job.update()
            job.zero_grad()
    return job


def exchange(job: Job, name: str, size: int, *, reduce_over: int | None = None) -> Job:
    """ZeRO-2 with all-to-alls inside an autograd function: experts or sequence parts."""
    group = tuple(range(job.rank // size * size, job.rank // size * size + size))

    def swap(i: int) -> None:
        with job.inside(name):
            job.comm("all_to_all", 10_000, ranks=group)

    def swap_back(i: int) -> None:
        with job.inside(name + "Backward"):
            job.comm("all_to_all", 10_000, ranks=group)

    plain = job.forward
    job.forward = lambda: plain(before=swap)  # type: ignore[method-assign]
    return zero12(job, 2, overlap=True, inner=swap_back)


def pipeline(rank: int, *, micro_steps: int = 2, forwards: int = 1) -> Job:
    """Two stages over four ranks: (0, 2) and (1, 3), each stage's ranks are data-parallel."""
    job = Job(rank=rank, world=4)
    first = rank < 2
    group = (0, 2) if rank % 2 == 0 else (1, 3)
    peer = rank + 2 if first else rank - 2
    config = [
        {"pg_name": str(i), "pg_desc": "undefined", "pg_size": len(g), "ranks": list(g)}
        for i, g in enumerate([(0, 1, 2, 3), (0, 2), (1, 3), (0, 1), (2, 3)])
    ]
    job.trace.header["distributedInfo"]["pg_config"] = config

    def move(kind: str) -> None:
        job.comm(kind, 5_000, ranks=group, peer=peer, stream=INTERNAL)

    for k in range(2):
        with job.step(k):
            for _ in range(micro_steps):
                if not first:
                    move("recv")
                job.forward()
                if first:
                    move("send")
                    move("recv")
                job.backward()
                if not first:
                    move("send")
            job.comm("all_reduce", MODEL, ranks=(0, 1) if first else (2, 3))
            job.update()
            job.zero_grad()
    return job


# ---------------------------------------------------------------------- what is inferred of them
DEEPSPEED: dict[str, Any] = {
    "framework": "deepspeed",
    "mode": "training",
    "precision": "bf16",
    "gradient_accumulation_steps": 1,
    "data_parallel_size": 4,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "expert_parallel_size": 1,
    "sequence_parallel_size": 1,
    "activation_checkpointing": False,
    "offload_optimizer": "none",
}
TORCH = DEEPSPEED | {"zero_stage": None, "overlap_comm": None, "reduce_bucket_size": None}
BUCKET = {"reduce_bucket_size": 2 * LAYER, "contiguous_gradients": True}

JOBS: dict[str, tuple[Callable[[], Job], dict[str, Any]]] = {
    "ZeRO-1 without overlap": (
        lambda: zero12(Job(), 1, overlap=False),
        DEEPSPEED | BUCKET | {"zero_stage": 1, "overlap_comm": False},
    ),
    "ZeRO-1 with overlap, one micro-step: ZeRO-2 looks the same": (
        lambda: zero12(Job(), 1, overlap=True),
        DEEPSPEED | BUCKET | {"zero_stage": None, "overlap_comm": True},
    ),
    "ZeRO-1 with overlap, accumulated": (
        lambda: zero12(Job(), 1, overlap=True, micro_steps=3),
        DEEPSPEED | BUCKET
        | {"zero_stage": 1, "overlap_comm": True, "gradient_accumulation_steps": 3},
    ),
    "ZeRO-2 without overlap": (
        lambda: zero12(Job(), 2, overlap=False),
        DEEPSPEED | BUCKET | {"zero_stage": 2, "overlap_comm": False},
    ),
    "ZeRO-2 with overlap, one micro-step": (
        lambda: zero12(Job(), 2, overlap=True),
        DEEPSPEED | BUCKET | {"zero_stage": None, "overlap_comm": True},
    ),
    "ZeRO-2 with overlap, accumulated": (
        lambda: zero12(Job(), 2, overlap=True, micro_steps=4),
        DEEPSPEED | BUCKET
        | {"zero_stage": 2, "overlap_comm": True, "gradient_accumulation_steps": 4},
    ),
    "ZeRO-2 in fp16 without shapes: the bucket's size cannot be read": (
        lambda: zero12(Job(shapes=False), 2, overlap=False, micro_steps=2),
        DEEPSPEED | {"zero_stage": 2, "reduce_bucket_size": None, "gradient_accumulation_steps": 2},
    ),
    "ZeRO-2 with torch before 2.8: all communication has one stream": (
        lambda: zero12(Job(shapes=False), 2, overlap=True, stream=INTERNAL),
        DEEPSPEED | {"zero_stage": None, "overlap_comm": None},
    ),
    "ZeRO-3": (
        lambda: zero3(Job()),
        DEEPSPEED | {"zero_stage": 3, "overlap_comm": True, "reduce_bucket_size": None,
                     "reduce_scatter": True, "offload_param": "none"},
    ),
    "ZeRO-3 without overlap, accumulated": (
        lambda: zero3(Job(), overlap=False, micro_steps=2),
        DEEPSPEED | {"zero_stage": 3, "overlap_comm": False, "gradient_accumulation_steps": 2},
    ),
    "ZeRO-3 before 0.13.2": (
        lambda: zero3(Job(), hooks="PreBackwardFunction"),
        DEEPSPEED | {"zero_stage": 3},
    ),
    "ZeRO-3 with reduce_scatter off": (
        lambda: zero3(Job(), reduce="all_reduce"),
        DEEPSPEED | {"zero_stage": 3, "reduce_scatter": False},
    ),
    "ZeRO-3 with parameters on the host": (
        lambda: zero3(Job(), shard_on_host=True),
        DEEPSPEED | {"zero_stage": 3, "offload_param": "cpu"},
    ),
    "stage 0": (
        lambda: stage0(Job()),
        DEEPSPEED | {"zero_stage": 0, "overlap_comm": None, "reduce_bucket_size": None},
    ),
    "DDP": (lambda: ddp(Job()), TORCH | {"framework": "ddp"}),
    "DDP with no_sync": (
        lambda: ddp(Job(), micro_steps=3),
        TORCH | {"framework": "ddp", "gradient_accumulation_steps": 3},
    ),
    "DDP with ZeroRedundancyOptimizer": (
        lambda: ddp(Job(), optimizer="ZeroRedundancyOptimizer"),
        TORCH | {"framework": "zero_redundancy_optimizer"},
    ),
    "DDP in fp32": (
        lambda: ddp(Job(types="float"), dtype="Float"),
        TORCH | {"framework": "ddp", "precision": "fp32"},
    ),
    "FSDP2": (lambda: fsdp(Job()), TORCH | {"framework": "fsdp2"}),
    "FSDP1": (lambda: fsdp(Job(), named="fsdp1"), TORCH | {"framework": "fsdp1"}),
    "HSDP: shards times replicas are the data-parallel ranks": (
        lambda: fsdp(Job(), replicas=2),
        TORCH | {"framework": "fsdp2", "data_parallel_size": 4},
    ),
    "sharded by hand: neither FSDP nor ZeRO-3": (
        lambda: fsdp(Job(), named=""),
        TORCH | {"framework": "pytorch"},
    ),
    "tensor parallelism by DTensor": (
        lambda: tensor_parallel(Job()),
        TORCH | {"framework": "pytorch", "tensor_parallel_size": 4, "data_parallel_size": 1},
    ),
    "experts": (
        lambda: exchange(Job(), "_AllToAll", 2),
        DEEPSPEED | {"expert_parallel_size": 2, "overlap_comm": True},
    ),
    "Ulysses: sequence parts take their share of the ranks that reduce": (
        lambda: exchange(Job(), "_SeqAllToAll", 2),
        DEEPSPEED | {"sequence_parallel_size": 2, "data_parallel_size": 2},
    ),
    "an all_to_all of unknown use": (
        lambda: exchange(Job(), "Shuffle", 2),
        DEEPSPEED
        | {"sequence_parallel_size": None, "expert_parallel_size": None, "data_parallel_size": None},
    ),
}  # fmt: skip


def values(setup: Setup, keys: dict[str, Any]) -> dict[str, Any]:
    """The inferred values of some keys."""
    return {k: setup[k].value for k in keys}


@pytest.mark.parametrize("case", JOBS.values(), ids=JOBS.keys())
def test_job(case: tuple[Callable[[], Job], dict[str, Any]], tmp_path: Path) -> None:
    build, expected = case
    assert values(infer(tmp_path, build()), expected) == expected
