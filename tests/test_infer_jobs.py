"""Scripted training jobs that leave the signatures of real ones.

`Job` plays a training loop on a host clock and GPU streams and writes down what torch.profiler
would have seen; the functions below it play one framework each. Sizes are small, the structure is
that of the recordings: what is launched in which range, on which thread and stream, in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import BACKWARD_TID, MAIN_TID, TraceBuilder

from tracelens.collectives import collect
from tracelens.infer.facts import RankFacts, gather
from tracelens.infer.result import Setup
from tracelens.infer.rules import infer_setup
from tracelens.ingest import open_trace
from tracelens.links import link
from tracelens.phases import find_phases
from tracelens.steps import find_steps
from tracelens.trace import Trace

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

    `era` is ``args`` (torch 2.3 on: kernels carry the collective's arguments) or ``ranges``
    (before: only ``nccl:all_reduce`` around the launch). Without `host` only GPU work and runtime
    calls are written, as with ``activities=[CUDA]``; without `shapes` no operands.
    """

    def __init__(
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
        #: Whether all ranks talk on a clone of the world group, as under DeepSpeed's engine.
        self.engine_group = False
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
        default = len(ranks) == self.world and not self.engine_group
        recorded: dict[str, Any] = {
            "Collective name": _CALL.get(kind, kind),
            "In msg nelems": nelems,
            "Out msg nelems": nelems if out is None else out,
            "Group size": len(ranks),
            "dtype": dtype,
            "In split size": "[]",
            "Out split size": "[]",
            "Process Group Name": "0" if default else "pg" + "_".join(map(str, ranks)),
            "Process Group Description": "default_pg" if default else "undefined",
            "Process Group Ranks": str(list(ranks)),
        }
        if peer is not None:
            recorded |= {"Src Rank": peer} if kind == "recv" else {"Dst Rank": peer}
        name = (
            f"ncclDevKernel_{_KERNEL[kind].format(_SHORT[dtype])}(ncclDevKernelArgsStorage<4096>)"
        )
        call = (
            "nccl:" + kind
            if kind in ("all_reduce", "broadcast", "reduce")
            else f"nccl:_{kind}_base"
        )
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


def facts_of(trace: Trace) -> RankFacts:
    """What the rules know of one rank."""
    work = link(trace)
    found = find_steps(trace, work)
    phases = find_phases(trace, work, found)
    return gather(trace, work, found, phases, collect(trace, work, found, phases))


def infer(folder: Path, *jobs: Job) -> Setup:
    """What is inferred of a run of these ranks."""
    traces = [open_trace(j.trace.write(folder / f"rank{i}.json")) for i, j in enumerate(jobs)]
    return infer_setup([facts_of(t) for t in traces], traces[0].info.world_size)


# ---------------------------------------------------------------------- frameworks
@dataclass
class Zero12:
    """DeepSpeed ZeRO-1 or 2 (runtime/zero/stage_1_and_2.py).

    `buffers`: where the bucket is allocated, ``hook`` (0.18.3 on) or ``main`` (before, in
    engine.backward). `hooks`: ``inside`` AccumulateGrad (0.16.6 on) or on its ``node``. `flag`: the
    overflow flag. `marks`: ProfilerStep per ``update``, per ``micro`` step, or ``none``. `stream`:
    that of all communication before torch 2.8. `inner` runs in every layer's backward node.
    """

    job: Job
    stage: int
    overlap: bool
    micro_steps: int = 1
    steps: int = 2
    bucket: int = 2 * LAYER
    buffers: str = "hook"
    hooks: str = "inside"
    flag: bool = True
    marks: str = "update"
    stream: int | None = None
    inner: Callable[[int], None] | None = None
    _filled: int = 0
    _partition: bool = False

    def play(self) -> Job:
        """Run all steps."""
        job, g = self.job, self.micro_steps
        for k in range(self.steps):
            with job.step(k) if self.marks == "update" else nullcontext():
                for m in range(g):
                    with job.step(k * g + m) if self.marks == "micro" else nullcontext():
                        self._micro_step(m == g - 1)
        return job

    def _micro_step(self, last: bool) -> None:
        job, active = self.job, self.stage == 2 or last
        self._partition = False
        job.forward()
        if active and self.buffers == "main":
            self._buffers()
        hook = {"inside": "hook", "node": "node_hook"}[self.hooks]
        job.backward(**{hook: self._hook if active else lambda i: None}, inner=self.inner)
        if active and self.stage == 1 and not self.overlap:
            for _ in range(LAYERS):
                self._add()
        if active:
            self._reduce()
        if last:
            self._update()

    def _hook(self, i: int) -> None:
        if i == 0 and self.buffers == "hook":
            self._buffers()
        if self.stage == 2 or self.overlap:
            self._add()

    def _buffers(self) -> None:
        for _ in range(2 if self.overlap else 1):
            self.job.empty(self.bucket)

    def _add(self) -> None:
        if self._filled + LAYER > self.bucket:
            self._reduce()
            if not self._partition:  # copy_grads_in_partition
                self.job.empty(MODEL // self.job.world)
                self._partition = True
        self.job.op("aten::copy_", "void at::native::copy_kernel<c10::BFloat16>()")
        self._filled += LAYER

    def _reduce(self) -> None:
        if self._filled:
            apart = REDUCE if self.overlap else COMPUTE
            stream = apart if self.stream is None else self.stream
            self.job.comm("all_reduce", self._filled, stream=stream)
        self._filled = 0

    def _update(self) -> None:
        stream = COMPUTE if self.stream is None else self.stream
        if self.flag:
            self.job.comm("all_reduce", 1, dtype="Byte", stream=stream)
        self.job.comm("all_reduce", 1, dtype="Float", stream=stream)
        self.job.update()
        self.job.comm("all_gather", MODEL // self.job.world, out=MODEL, stream=stream)


def zero12(job: Job, stage: int, *, overlap: bool, **options: Any) -> Job:
    """Play `Zero12`."""
    job.engine_group = True
    return Zero12(job, stage, overlap, **options).play()


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
    job.engine_group = True
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


def ddp(
    job: Job,
    *,
    micro_steps: int = 1,
    optimizer: str = "AdamW",
    dtype: str = "BFloat16",
    named: bool = True,
    forward: Callable[[], None] | None = None,
) -> Job:
    """DDP of torch; without `named` a loop of its own that reduces in the same place."""
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
                for _ in range(job.world):
                    job.comm("broadcast", MODEL // job.world, stream=INTERNAL)
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


def exchange(job: Job, name: str, size: int) -> Job:
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


def pipeline(rank: int, *, micro_steps: int = 2, gathers: bool = False, flag: bool = False) -> Job:
    """Two stages over four ranks: (0, 2) and (1, 3), each stage's ranks are data-parallel.

    `gathers`: parameters are gathered after the optimizer; `flag`: ZeRO's overflow flag is reduced.
    """
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
            stage = (0, 1) if first else (2, 3)
            job.comm("all_reduce", MODEL, ranks=stage)
            if flag:
                job.comm("all_reduce", 1, dtype="Byte", ranks=stage)
            job.update()
            if gathers:
                job.comm("all_gather", MODEL // 2, out=MODEL, ranks=stage)
            job.zero_grad()
    return job


def test_what_a_job_writes_down(tmp_path: Path) -> None:
    """The script itself: a step of ZeRO-2 without overlap, as names in the order of their start."""
    job = zero12(Job(), 2, overlap=False, steps=1)
    trace = open_trace(job.trace.write(tmp_path / "trace.json"))
    names = [trace.strings[n] for n in trace.slices.name]
    told = ("ProfilerStep", "aten::linear", "aten::empty", "record_param_comms", "Optimizer")
    short = [n.split("#")[0] for n in names if n.startswith(told)]
    assert short == [
        "ProfilerStep", *["aten::linear"] * LAYERS,
        "aten::empty",  # the bucket
        "record_param_comms", "aten::empty",  # it is full; the owned part of the gradients
        "record_param_comms",  # the rest
        "record_param_comms", "record_param_comms", "Optimizer.step", "record_param_comms",
    ]  # fmt: skip
    hidden = Job(host=False)
    assert {e["cat"] for e in zero12(hidden, 2, overlap=False).trace.events} == {
        "kernel", "cuda_runtime",
    }  # fmt: skip
