"""Jobs of other people that look like something that they are not: unknown is right, wrong is not.

Each case names the values that may be claimed; None is among them where the trace cannot tell. The
third entry says what once misled a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_infer_jobs as jobs
from test_infer_jobs import (
    ADAM,
    GEMM,
    INTERNAL,
    LAYER,
    LAYERS,
    MODEL,
    REDUCE,
    Job,
    ddp,
    exchange,
    fsdp,
    infer,
    stage0,
    zero3,
    zero12,
)  # fmt: skip

COPY = "void at::native::copy_kernel<c10::BFloat16>()"
Case = tuple[Callable[[], Job], dict[str, tuple[Any, ...]], str]


def loop(step: Callable[[Job], None], job: Job | None = None, steps: int = 2) -> Job:
    """A loop of marked steps."""
    job = job or Job()
    for k in range(steps):
        with job.step(k):
            step(job)
    return job


def with_gemm(name: str, build: Callable[[], Job]) -> Job:
    """A job whose matrix products are kernels of another name."""
    before, jobs.GEMM = jobs.GEMM, name
    try:
        return build()
    finally:
        jobs.GEMM = before


def reduced_layers(job: Job) -> Callable[[int], None]:
    """DDP's reducer with one layer a bucket."""
    return lambda i: job.comm("all_reduce", LAYER, stream=INTERNAL)


# ---------------------------------------------------------------------- other versions and windows
def old_zero(stage: int, overlap: bool, micro_steps: int, *, shapes: bool, hooks: str) -> Job:
    """DeepSpeed before 0.18.3 in bf16 with torch before 2.8: no flag, bucket from backward()."""
    return zero12(
        Job(shapes=shapes), stage, overlap=overlap, micro_steps=micro_steps, hooks=hooks,
        buffers="main", flag=False, stream=INTERNAL,
    )  # fmt: skip


def old_torch(stage: int, overlap: bool, *, shapes: bool) -> Job:
    """The same with torch before 2.3: only the ranges around the launches."""
    return zero12(
        Job(shapes=shapes, era="ranges"), stage, overlap=overlap, hooks="node", buffers="main",
        flag=False, stream=INTERNAL,
    )  # fmt: skip


def many_updates(stage: int, overlap: bool, micro_steps: int) -> Job:
    """prof.step() once in three updates."""
    job = Job()
    with job.step(0):
        zero12(job, stage, overlap=overlap, micro_steps=micro_steps, steps=3, marks="none")
    return job


def window(accumulation: int, start: int, length: int) -> Job:
    """prof.step() per micro-step, and the window starts in the middle of an accumulation."""
    job = Job()
    for k in range(length):
        with job.step(k):
            job.forward()
            job.backward()
            if (start + k + 1) % accumulation == 0:
                job.update()
                job.zero_grad()
    return job


def without_update() -> Job:
    """Frames name DeepSpeed, and the window ends before the optimizer's step."""

    def step(job: Job) -> None:
        job.forward()
        job.backward(hook=lambda i: job.comm("all_reduce", LAYER, stream=REDUCE))
        frame = "deepspeed/runtime/zero/stage_1_and_2.py(1152): grad_handling_hook"
        job.trace.python(frame, ts=job.now, dur=1)

    return loop(step, Job(shapes=False))


def old_categories() -> Job:
    """Torch 1.8 to 1.10 called ops and ranges alike Operator."""
    job = ddp(Job(era="ranges"))
    for event in job.trace.events:
        if event.get("cat") in ("cpu_op", "user_annotation"):
            event["cat"] = "Operator"
    return job


# ---------------------------------------------------------------------- loops that look like others
def muon(job: Job) -> None:
    """An optimizer that gathers what it updated; model.zero_grad() leaves no range."""
    job.forward()
    job.backward()
    job.comm("all_reduce", MODEL)
    with job.range("Optimizer.step#Muon.step"):
        job.op("aten::add_", ADAM)
        job.comm("all_gather", MODEL // job.world, out=MODEL)


def flattened(job: Job) -> None:
    """Gradients flattened and reduced by hand; model.zero_grad() leaves no range."""
    job.forward()
    job.backward()
    job.op("aten::flatten_dense_tensors")
    job.comm("all_reduce", MODEL)
    job.update()


def stop_flag(job: Job) -> None:
    """Gradients reduced by hand, then the mean loss and a flag that says whether to stop."""
    job.forward()
    job.backward()
    job.comm("all_reduce", MODEL)
    job.update()
    job.zero_grad()
    job.comm("all_reduce", 1, dtype="Float")
    job.comm("all_reduce", 1, dtype="Byte")


def megatron_deepspeed() -> Job:
    job = Job()
    job.op("_VocabParallelCrossEntropy")
    return zero12(job, 1, overlap=False)


def contrastive(job: Job, *, deepspeed: bool) -> Job:
    """Features are gathered with gradients: their backward is a reduce_scatter."""
    forward = job.forward

    def gathered() -> None:
        forward()
        job.comm("all_gather", 10_000, out=40_000)

    def inner(i: int) -> None:
        if i == 0:
            job.comm("reduce_scatter", 40_000, out=10_000)

    job.forward = gathered  # type: ignore[method-assign]
    if deepspeed:
        return zero12(job, 1, overlap=True, inner=inner, micro_steps=2)

    def step(job: Job) -> None:
        with job.range("DistributedDataParallel.forward"):
            job.forward()
        job.backward(inner=inner, node_hook=reduced_layers(job))
        job.update()
        job.zero_grad()

    return loop(step, job)


def gathered_losses(where: str, world: int = 4, nelems: int = 80, dtype: str = "Float") -> Job:
    """Stage 0, and the losses (or counts) of all samples gathered for the log."""
    job = Job(world=world)
    update = job.update

    def gather() -> None:
        job.comm("all_gather", nelems // world, out=nelems, dtype=dtype)

    def updated() -> None:
        update()
        gather()

    if where == "step":
        job.update = updated  # type: ignore[method-assign]
    return stage0(job, extra=gather if where == "forward" else None)


def expert_counts() -> Job:
    """Each layer reduces how many tokens went to each of 256 experts."""
    job = Job()

    def counted(i: int) -> None:
        job.comm("all_reduce", 256, dtype="Long")

    forward = job.forward
    return ddp(job, forward=lambda: forward(before=counted))


def unseen_backward(job: Job) -> None:
    """Compiled autograd, or autograd's thread was not recorded: no nodes."""
    with job.range("DistributedDataParallel.forward"):
        job.evaluate()
    for _ in range(LAYERS):
        job.comm("all_reduce", 2 * LAYER, stream=INTERNAL)
    job.update()
    job.zero_grad()


def compiled_blocks(job: Job) -> None:
    """Blocks compiled one by one, checkpointed inside; embedding and head stay eager."""
    job.forward(1)
    for _ in range(LAYERS):
        job._seq.append(job._next_seq)
        with job.inside("CompiledFunction", seq=job._next_seq):
            job.gpu(GEMM)
        job._next_seq += 1
    job.backward()
    job.update()
    job.zero_grad()


def ring(job: Job) -> None:
    """Context parallelism: keys and values travel around a ring of all ranks."""

    def swap(i: int) -> None:
        job.comm("send", 5000, peer=1, stream=INTERNAL)
        job.comm("recv", 5000, peer=3, stream=INTERNAL)

    with job.range("DistributedDataParallel.forward"):
        job.forward(before=swap)
    job.backward(inner=swap, node_hook=reduced_layers(job))
    job.update()
    job.zero_grad()


def compiled_exchange(name: str) -> Job:
    job = Job()
    job.op("AOTDispatcher Runtime Wrapper Prologue")
    return exchange(job, name, 2)


def forces(job: Job) -> None:
    """Forces are gradients of the energy, taken inside the forward pass."""
    job.forward()
    job.backward(accumulates=False)
    job.forward()
    job.backward()
    job.update()
    job.zero_grad()


def experts_of_zero3(job: Job) -> None:
    """Parameters of experts are sharded over fewer ranks, forward and backward alike."""

    def fetch(i: int) -> None:
        job.op("PreBackwardFunctionForModule")
        job.comm("all_gather", LAYER // 4, out=LAYER, stream=INTERNAL)
        job.comm("all_gather", LAYER // 2, out=LAYER, stream=INTERNAL, ranks=(0, 2))

    def scatter(i: int) -> None:
        job.comm("reduce_scatter", LAYER, out=LAYER // 4, stream=REDUCE)

    job.forward(before=fetch)
    job.backward(inner=fetch, hook=scatter)
    job.comm("all_reduce", 1, dtype="Double")
    job.update()


# ---------------------------------------------------------------------- memory, types, hooks
def unlinked() -> Job:
    """A recording without runtime calls; the loss is read."""
    job = ddp(Job())
    job.copy("DtoH", 4)
    job.trace.events = [e for e in job.trace.events if e.get("cat") != "cuda_runtime"]
    return job


def small_buffer(job: Job) -> None:
    """A user's hook that makes a scalar."""
    job.forward()
    job.backward(hook=lambda i: job.empty(1))
    job.update()
    job.zero_grad()


def cloned_gradient() -> Job:
    """AccumulateGrad clones a gradient that it cannot keep; ZeRO-1 without overlap."""
    job = Job()
    backward = job.backward

    def cloning(*, hook: Callable[[int], None], **rest: Any) -> None:
        def clone(i: int) -> None:
            if i == 0:
                with job.inside("aten::clone"):
                    job.op("aten::copy_", COPY)
            hook(i)

        backward(hook=clone, **rest)

    job.backward = cloning  # type: ignore[method-assign]
    return zero12(job, 1, overlap=False)


def compiled_bf16() -> Job:
    """Kernel names of Hopper's cuBLAS tell no type; gradients are float32."""
    job = Job(shapes=False)
    forward = job.forward

    def with_loss() -> None:
        forward()
        job.op("aten::sum", "void at::native::reduce_kernel<512, 1, ReduceOp<float>>()")

    return ddp(job, dtype="Float", forward=with_loss)


# ---------------------------------------------------------------------- kernels alone
def two_models() -> Job:
    """Preference tuning: a reference model runs forward beside the one that is trained."""
    job = Job(host=False)
    for _ in range(2):
        for name, times in (("F", 8), ("B", 4)):
            for _ in range(times):
                job.gpu(f"fmha_cutlass{name}_bf16_aligned_64x64_rf_sm80")
                job.gpu(GEMM)
        job.gpu(ADAM)
    return job


def lengths_vary() -> Job:
    """Two micro-steps a step; cuBLAS picks a kernel by their length."""
    job = Job(host=False)
    for k in range(3):
        for m in range(2):
            for _ in range(3 + 2 * m):
                job.gpu(f"cutlass_80_tensorop_bf16_s16816gemm_bf16_{(2 * k + m) % 4}")
        job.gpu(ADAM)
    return job


def decoding() -> Job:
    """A server's step without an optimizer: nothing accumulates."""
    job = Job(host=False)
    for name in ("sm90_xmma_gemm_a", "sm90_xmma_gemm_b", "sm90_xmma_gemm_b"):
        job.gpu(name)
    return job


ONE_OF_TWO = {"zero_stage": (1, None), "overlap_comm": (True, None)}
IS_TWO = {"zero_stage": (2, None), "gradient_accumulation_steps": (4, None)}
STAGE_0 = {"framework": ("deepspeed", None), "zero_stage": (0, None)}
PYTORCH = {"framework": ("pytorch", None), "zero_stage": (None,)}
OLD = {"framework": ("deepspeed", None), "reduce_bucket_size": (2 * LAYER, None),
       "contiguous_gradients": (True, None)}  # fmt: skip
IN_HOOK = "the first buffer in a hook is the owned partition of the gradients, not the bucket"
NODES = "before 0.16.6 hooks ran after AccumulateGrad, not inside it"
GATHER = "a gather of a few losses or counts is taken for one of the parameters"
PER_MARK = "micro-steps are counted within a mark, not between updates"
MIDDLE = "the first update's passes are counted although the window starts in the middle"

CASES: dict[str, Case] = {
    "ZeRO-2, prof.step per micro-step": (
        lambda: zero12(Job(), 2, overlap=True, micro_steps=4, marks="micro"), IS_TWO, PER_MARK),
    "ZeRO-2 without overlap, prof.step per micro-step": (
        lambda: zero12(Job(), 2, overlap=False, micro_steps=4, marks="micro"), IS_TWO, PER_MARK),
    "ZeRO-1, prof.step per micro-step": (
        lambda: zero12(Job(), 1, overlap=True, micro_steps=4, marks="micro"), ONE_OF_TWO, ""),
    "ZeRO-1, one mark around three updates": (
        lambda: many_updates(1, True, 2), ONE_OF_TWO, PER_MARK),
    "ZeRO-2, one mark around three updates": (
        lambda: many_updates(2, True, 2), {"zero_stage": (2, None)}, ""),
    "one mark around three updates, one micro-step": (
        lambda: many_updates(1, False, 1), {"zero_stage": (1, None)}, ""),
    "ZeRO-2 of DeepSpeed 0.9 to 0.16.5": (
        lambda: old_zero(2, True, 1, shapes=False, hooks="node"),
        OLD | {"zero_stage": (2, None)}, NODES),
    "ZeRO-2 without overlap of DeepSpeed 0.9 to 0.16.5": (
        lambda: old_zero(2, False, 1, shapes=True, hooks="node"),
        OLD | {"zero_stage": (2, None)}, NODES),
    "ZeRO-2 of DeepSpeed 0.9 to 0.16.5, accumulated": (
        lambda: old_zero(2, True, 2, shapes=True, hooks="node"),
        OLD | {"zero_stage": (2, None)}, ""),
    "ZeRO-1 without overlap of DeepSpeed 0.9 to 0.16.5": (
        lambda: old_zero(1, False, 1, shapes=True, hooks="node"),
        OLD | {"zero_stage": (1, None)}, ""),
    "ZeRO-1 of DeepSpeed 0.16.6 to 0.18.2": (
        lambda: old_zero(1, True, 1, shapes=True, hooks="inside"), OLD | ONE_OF_TWO, IN_HOOK),
    "ZeRO-2 of DeepSpeed 0.16.6 to 0.18.2": (
        lambda: old_zero(2, True, 2, shapes=True, hooks="inside"),
        OLD | {"overlap_comm": (True, None)}, IN_HOOK),
    "ZeRO-2 of DeepSpeed 0.16.6 to 0.18.2 without shapes": (
        lambda: old_zero(2, True, 2, shapes=False, hooks="inside"),
        OLD | {"zero_stage": (2, None), "overlap_comm": (True, None)}, ""),
    "ZeRO-1 without overlap, torch 2.0, no shapes": (
        lambda: old_torch(1, False, shapes=False), OLD | {"zero_stage": (1, None)},
        "of unknown size, the reductions after the backward pass are not seen as such"),
    "ZeRO-2, torch 2.0": (
        lambda: old_torch(2, True, shapes=True), OLD | {"zero_stage": (2, None)}, NODES),
    "ZeRO-3, torch 2.0, no shapes": (
        lambda: zero3(Job(era="ranges", shapes=False), hooks="PreBackwardFunction"),
        {"zero_stage": (3,), "hpz_partition_size": (1, None), "offload_param": ("none", None),
         "tensor_parallel_size": (1, None)}, ""),
    "stage 0, torch 2.0": (lambda: stage0(Job(era="ranges")), STAGE_0, ""),
    "frames of DeepSpeed, no update in the window": (
        without_update, {"zero_stage": (1, 2, None)},
        "no gather in the window is taken for no gather at all"),
    "ops and ranges of torch 1.8 to 1.10": (
        old_categories, {"framework": ("ddp",), "gradient_accumulation_steps": (1,)},
        "ranges are looked for among annotations only"),
    "accumulation of 4, window from the middle": (
        lambda: window(4, 2, 4), {"gradient_accumulation_steps": (4, None)}, MIDDLE),
    "accumulation of 8, window from the middle": (
        lambda: window(8, 5, 5), {"gradient_accumulation_steps": (8, None)}, MIDDLE),
    "accumulation of 2, window from the middle": (
        lambda: window(2, 1, 3), {"gradient_accumulation_steps": (2, None)}, ""),
    "Muon gathers in its own step": (
        lambda: loop(muon), PYTORCH, "no zero_grad range is taken for DeepSpeed's engine"),
    "gradients flattened and reduced by hand": (
        lambda: loop(flattened), PYTORCH, "no zero_grad range is taken for DeepSpeed's engine"),
    "a loop by hand with a stop flag": (
        lambda: loop(stop_flag), PYTORCH, "any one-byte all_reduce is an overflow flag"),
    "Megatron-DeepSpeed": (
        megatron_deepspeed, {"framework": ("deepspeed", None), "zero_stage": (1, None)},
        "Megatron's layers are asked before DeepSpeed's bucket"),
    "contrastive loss under ZeRO-1": (
        lambda: contrastive(Job(), deepspeed=True), {"zero_stage": (1, None)},
        "any reduce_scatter in the backward pass is taken for ZeRO-3"),
    "contrastive loss under DDP": (
        lambda: contrastive(Job(), deepspeed=False),
        {"framework": ("ddp",), "data_parallel_size": (4, None), "zero_stage": (None,)}, ""),
    "stage 0 that gathers 80 losses before the backward pass": (
        lambda: gathered_losses("forward"), STAGE_0, GATHER),
    "stage 0 that gathers 80 losses after the step": (
        lambda: gathered_losses("step"), STAGE_0, GATHER),
    "stage 0 of 128 ranks that gather one count each": (
        lambda: gathered_losses("forward", 128, 128, "Long"), STAGE_0, GATHER),
    "counts of 256 experts": (
        expert_counts, {"tensor_parallel_size": (1, None), "framework": ("ddp",)},
        "integers reduced in the forward pass are taken for activations"),
    "backward nodes were not recorded": (
        lambda: loop(unseen_backward),
        {"tensor_parallel_size": (1, None), "data_parallel_size": (4, None)},
        "without autograd nodes all is taken for a forward pass"),
    "blocks compiled and checkpointed one by one": (
        lambda: loop(compiled_blocks), {"activation_checkpointing": (True, None)},
        "the few ops outside of compiled code are taken for the model"),
    "ring attention": (
        lambda: loop(ring),
        {"pipeline_parallel_size": (1, None), "sequence_parallel_size": (4, None),
         "gradient_accumulation_steps": (1, None)},
        "every send is taken for one between stages of a pipeline"),
    "compiled, all_to_all of unknown use": (
        lambda: compiled_exchange("Shuffle"), {"expert_parallel_size": (1, None)},
        "AOTDispatcher contains 'dispatch'"),
    "compiled Ulysses": (
        lambda: compiled_exchange("_SeqAllToAll"), {"sequence_parallel_size": (2,)},
        "AOTDispatcher contains 'dispatch'"),
    "forces in the forward pass": (
        lambda: loop(forces), {"gradient_accumulation_steps": (1, None)},
        "a pass that accumulates nothing is counted"),
    "experts of ZeRO-3": (
        lambda: loop(experts_of_zero3), {"hpz_partition_size": (1, None)},
        "the smaller group is there in the forward pass too"),
    "images for a small FSDP model": (
        lambda: fsdp(Job(), inputs=150_000_000), {"offload_param": ("none", None)},
        "large inputs are taken for parameters"),
    "images for a small ZeRO-3 model": (
        lambda: zero3(Job(), inputs=150_000_000), {"offload_param": ("none", None)},
        "large inputs are taken for parameters"),
    "no runtime calls recorded": (
        unlinked, {"offload_optimizer": ("none", None), "framework": ("ddp",)}, ""),
    "no runtime calls recorded, loss read in the step": (
        lambda: read_loss_unlinked(), {"offload_optimizer": ("none", None)},
        "four bytes copied to the host are taken for offload"),
    "gradients compressed for DDP": (
        lambda: with_gemm("ampere_sgemm_128x64_tn",
                          lambda: ddp(Job(types="float", shapes=False), dtype="Half")),
        {"precision": ("fp32", None)}, "the gradients' type beats the products' names"),
    "compiled bf16 on Hopper": (
        lambda: with_gemm("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NTN", compiled_bf16),
        {"precision": ("bf16", None)}, "elementwise kernels for float are taken for the model's"),
    "a user's hook": (
        lambda: loop(small_buffer), PYTORCH, "a buffer of one element is taken for a bucket"),
    "a gradient that was cloned": (
        cloned_gradient, {"zero_stage": (1, None)},
        "one copy in AccumulateGrad is taken for a filled bucket"),
    "window from the middle of a backward pass": (
        lambda: cut_backward(),
        {"reduce_bucket_size": (2 * LAYER, None), "overlap_comm": (True, None)}, IN_HOOK),
    "a folder called deepspeed": (
        lambda: own_folder(), PYTORCH, "any path with deepspeed/ in it is taken for the package"),
    "optimizer state sharded by hand": (
        lambda: loop(sharded_by_hand), PYTORCH,
        "no zero_grad range is taken for DeepSpeed's engine"),
    "kernels alone: tensor parallelism and ZeRO-1": (
        lambda: tensor_kernels(), {"zero_stage": (1, None)},
        "all_reduces of activations are taken for those of gradients"),
    "kernels alone: two models": (
        two_models, {"activation_checkpointing": (False, None)},
        "forward kernels before the backward pass are counted as recomputed"),
    "kernels alone: lengths vary": (
        lengths_vary, {"gradient_accumulation_steps": (2, None)},
        "the counts of one step are trusted although steps differ"),
    "kernels alone: decoding": (
        decoding, {"gradient_accumulation_steps": (None,)},
        "accumulation is claimed although nobody knows that this is training"),
    "kernels alone: Hadamard rotations": (
        lambda: hadamard(), {"mode": ("inference", None), "offload_optimizer": (None,)},
        "'adam' is in 'hadamard'"),
}  # fmt: skip


def read_loss_unlinked() -> Job:
    def step(job: Job) -> None:
        with job.range("DistributedDataParallel.forward"):
            job.forward()
        job.backward()
        job.update()
        job.zero_grad()
        job.copy("DtoH", 4)

    job = loop(step)
    job.trace.events = [e for e in job.trace.events if e.get("cat") != "cuda_runtime"]
    return job


def cut_backward() -> Job:
    """ZeRO-2 with overlap; the window starts after the bucket's allocation."""
    job = zero12(Job(), 2, overlap=True, steps=1, marks="none")
    events = sorted(job.trace.events, key=lambda e: e["ts"])
    allocated = [e["ts"] for e in events if e["name"] == "aten::empty"]
    job.trace.events = [e for e in events if e["ts"] > allocated[1]]
    return job


def own_folder() -> Job:
    """The user's script lies in a folder that is called deepspeed."""
    job = ddp(Job(), named=False)
    job.trace.python("/home/me/deepspeed/train.py(10): main", ts=20, dur=1)
    return job


def sharded_by_hand(job: Job) -> None:
    """Gradients all-reduced, the optimizer's shards gathered; model.zero_grad() has no range."""
    job.forward()
    job.backward(node_hook=reduced_layers(job))
    job.update()
    job.comm("all_gather", MODEL // job.world, out=MODEL)


def tensor_kernels() -> Job:
    """ZeRO-1 without overlap beside tensor parallelism."""
    job = Job(host=False)
    forward = job.forward

    def reduced() -> None:
        forward(before=lambda i: job.comm("all_reduce", 50_000, ranks=(0, 1)))

    job.forward = reduced  # type: ignore[method-assign]
    return zero12(job, 1, overlap=False)


def hadamard() -> Job:
    job = Job(host=False)
    for _ in range(3):
        job.gpu(GEMM)
        job.gpu("void fast_hadamard_transform_kernel<fast_hadamard_transform_kernel_traits>(P)")
    return job


PARAMS = [
    pytest.param(
        build,
        allowed,
        id=name,
    )
    for name, (build, allowed, _) in CASES.items()
]


@pytest.mark.parametrize(("build", "allowed"), PARAMS)
def test_trap(
    build: Callable[[], Job], allowed: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    setup = infer(tmp_path, build())
    claimed = {key: setup[key].value for key in allowed}
    wrong = {key: value for key, value in claimed.items() if value not in allowed[key]}
    assert not wrong
