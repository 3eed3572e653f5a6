"""What a piece of GPU work is, by its name: one rule table, applied once per distinct name.

A kernel's name alone says that it communicates and mostly what; the recorded call (see `links`)
refines it: all-to-all and send/receive are one and the same NCCL kernel.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache

import numpy as np

from tracelens.trace import Bools, Int8s, Kind, Trace


class Op(enum.IntEnum):
    """Meaning of GPU work. Communication is the range ALL_GATHER to COMM_OTHER."""

    ALL_GATHER = 0
    REDUCE_SCATTER = 1
    ALL_REDUCE = 2
    REDUCE = 3
    BROADCAST = 4
    ALL_TO_ALL = 5
    P2P = 6  #: send and receive between two ranks
    P2P_OR_ALL_TO_ALL = 7  #: NCCL's SendRecv kernel without its recorded call
    COMM_OTHER = 8  #: communication whose name does not say which
    GEMM = 9
    ATTENTION = 10
    OPTIMIZER = 11  #: fused optimizer kernels, and all compute inside an optimizer range
    ELEMENTWISE = 12  #: elementwise, reduction, normalisation, softmax, copy kernels
    COMPUTE_OTHER = 13
    COPY_H2D = 14
    COPY_D2H = 15
    COPY_D2D = 16
    COPY_P2P = 17  #: a copy engine moving data between two GPUs
    COPY_OTHER = 18
    MEMSET = 19

    @property
    def label(self) -> str:
        """The name in reports: ``all_gather``, ``gemm`` ..."""
        return self.name.lower()


FIRST_COMM, LAST_COMM = Op.ALL_GATHER, Op.COMM_OTHER
FIRST_COMPUTE, LAST_COMPUTE = Op.GEMM, Op.COMPUTE_OTHER
FIRST_COPY, LAST_COPY = Op.COPY_H2D, Op.MEMSET

_COLLECTIVE = (
    (r"all_?gather", Op.ALL_GATHER),
    (r"reduce_?scatter", Op.REDUCE_SCATTER),
    (r"all_?reduce", Op.ALL_REDUCE),
    (r"all_?to_?all", Op.ALL_TO_ALL),
    (r"broadcast", Op.BROADCAST),
    (r"send_?recv", Op.P2P_OR_ALL_TO_ALL),
    (r"reduce", Op.REDUCE),
)

#: What makes a kernel communication at all. Sources: NCCL 2.7 to 2.28 (ncclKernel_, ncclDevKernel_,
#: ncclSymkDevKernel_, older ncclAllReduceRing...), RCCL (same prefixes, rccl_main_kernel), oneCCL;
#: then kernels that move data between GPUs without NCCL: torch symmetric memory (multimem_*,
#: one_shot/two_shot all_reduce), vLLM and SGLang (cross_device_reduce_*), TensorRT-LLM
#: (oneShotAllReduceKernel ...), DeepEP (deep_ep:: / internode / intranode dispatch and combine),
#: NVSHMEM.
_COMM_FAMILY = re.compile(
    r"\bnccl|^nccl|ncclDevKernel|rccl|oneccl|msccl"
    r"|multimem_|one_?shot_?all_?reduce|two_?shot_?all_?reduce|allreduce_fusion_kernel"
    r"|cross_device_reduce|lamport.*(all_?reduce|reduce)|custom_all_?reduce|quick_?all_?reduce"
    r"|userbuffers|mnnvl"
    r"|nvshmem|deep_ep::|\bep::(inter|intra)node|(inter|intra)node(_ll)?::|internode_ll",
    re.IGNORECASE,
)

#: Names within a communication family that are only bookkeeping still count as communication:
#: they run because of it and nothing else would be there without it.
_FAMILY_DEFAULTS = (
    (
        re.compile(r"deep_ep|\bep::|internode|intranode", re.I),
        Op.ALL_TO_ALL,
    ),  # MoE dispatch/combine
    (re.compile(r"cross_device_reduce|allreduce_fusion|lamport|quick_?all", re.I), Op.ALL_REDUCE),
)

_COMPUTE_RULES: tuple[tuple[re.Pattern[str], Op], ...] = (
    # fused optimizers first: their names also contain "reduce", "copy" or "elementwise"
    # (PointwiseOp is addcdiv and addcmul, which torch's foreach optimizers alone use; other
    # multi-tensor kernels also copy, clip and cast)
    (
        re.compile(
            r"(?<!h)adam|lamb_|adagrad|sgd|lion_|muon|FusedOptimizer|multi_tensor_apply.*PointwiseOp",
            re.I,
        ),
        Op.OPTIMIZER,
    ),
    # inductor names a fused kernel after all ops in it; poi, red and per are never matmuls
    (re.compile(r"^triton_(poi|red|per)_"), Op.ELEMENTWISE),
    (
        re.compile(
            r"flash|fmha|sdpa|attention|attn|paged_?kv|mha_"
            r"|cudnn::fusion::(compute_dot_do_o|convert_dq)",  # cuDNN's attention backward helpers
            re.I,
        ),
        Op.ATTENTION,
    ),
    (
        re.compile(
            r"gemm|nvjet|^triton_(tem|mm)_|cublas|cutlass.*(gemm|conv)|cutlass_|xmma|s\d+16816|wgmma|matmul|splitk"
            r"|dot_kernel|gemv|Cijk_|conv\w*_(fprop|bprop|dgrad|wgrad)|implicit_convolve|winograd",
            re.I,
        ),
        Op.GEMM,
    ),
    (
        re.compile(
            r"elementwise|multi_tensor_apply|reduce_kernel|softmax|layer_?norm|rms_?norm|batch_?norm|norm_|gather_kernel"
            r"|CatArray|copy_kernel|index|scatter|embedding|dropout|triton_|fill|cast|quantize"
            r"|chunk_cat|split_with_sizes|gelu|silu|rope|rotary|at::native",
            re.I,
        ),
        Op.ELEMENTWISE,
    ),
)

_COPY_RULES = (
    (re.compile(r"PtoP|Peer", re.I), Op.COPY_P2P),
    (re.compile(r"HtoD|HostToDevice", re.I), Op.COPY_H2D),
    (re.compile(r"DtoH|DeviceToHost", re.I), Op.COPY_D2H),
    (re.compile(r"DtoD|DeviceToDevice|AtoD|DtoA", re.I), Op.COPY_D2D),
)

#: Recorded collective names (c10d's record_param_comms) that say more than a SendRecv kernel.
_CALLS = (
    (re.compile(r"all_?gather", re.I), Op.ALL_GATHER),
    (re.compile(r"reduce_?scatter", re.I), Op.REDUCE_SCATTER),
    (re.compile(r"all_?reduce", re.I), Op.ALL_REDUCE),
    (re.compile(r"all_?to_?all", re.I), Op.ALL_TO_ALL),
    (re.compile(r"broadcast", re.I), Op.BROADCAST),
    (re.compile(r"^(i?send|i?recv|recv_any_source|coalesced)$|nccl:(send|recv)", re.I), Op.P2P),
    (re.compile(r"^_?reduce", re.I), Op.REDUCE),
    (re.compile(r"gather|scatter|barrier", re.I), Op.COMM_OTHER),
)


@lru_cache(maxsize=4096)  # ranks of a run share their kernels
def classify_kernel(name: str) -> Op:
    """Meaning of a kernel by its name.

    Examples
    --------
    >>> classify_kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgs)")
    <Op.ALL_REDUCE: 2>
    >>> classify_kernel("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*)").label
    'p2p_or_all_to_all'
    >>> classify_kernel("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN").label
    'gemm'
    """
    if _COMM_FAMILY.search(name):
        return _classify_comm(name)
    for pattern, op in _COMPUTE_RULES:
        if pattern.search(name):
            return op
    return Op.COMPUTE_OTHER


def _classify_comm(name: str) -> Op:
    head = name.replace("(anonymous namespace)", "").split("(", 1)[0]
    for family, op in _FAMILY_DEFAULTS:
        if family.search(head):
            return op
    for pattern, op in _COLLECTIVE:
        if re.search(pattern, head, re.IGNORECASE):
            return op
    return Op.COMM_OTHER


def classify_copy(name: str) -> Op:
    """Direction of a memcpy record by its name (``Memcpy HtoD (Pinned -> Device)``)."""
    for pattern, op in _COPY_RULES:
        if pattern.search(name):
            return op
    return Op.COPY_OTHER


def classify_call(call: str) -> Op | None:
    """Kind of a recorded collective call; None where its name says nothing.

    Examples
    --------
    >>> classify_call("all_to_allv").label, classify_call("_allgather_base").label
    ('all_to_all', 'all_gather')
    >>> classify_call("wait") is None
    True
    """
    for pattern, op in _CALLS:
        if pattern.search(call):
            return op
    return None


def classify(trace: Trace) -> tuple[Int8s, Int8s]:
    """Meaning of every name: ``(as_kernel, as_copy)``, int8 (strings,), -1 where never used so.

    Only names that occur on GPU rows are looked at, each once.
    """
    s = trace.slices
    as_kernel = np.full(len(trace.strings), -1, np.int8)
    as_copy = np.full(len(trace.strings), -1, np.int8)
    for code in np.unique(s.name[s.kind == Kind.KERNEL]):
        as_kernel[code] = classify_kernel(trace.strings[code])
    for code in np.unique(s.name[s.kind == Kind.MEMCPY]):
        as_copy[code] = classify_copy(trace.strings[code])
    return as_kernel, as_copy


def is_comm(op: Int8s) -> Bools:
    """Rows that are communication; a copy between two GPUs is, whoever asked for it."""
    return np.asarray(((op >= FIRST_COMM) & (op <= LAST_COMM)) | (op == Op.COPY_P2P))


def is_compute(op: Int8s) -> Bools:
    """Rows that are compute kernels."""
    return np.asarray((op >= FIRST_COMPUTE) & (op <= LAST_COMPUTE))


def is_copy(op: Int8s) -> Bools:
    """Rows that are copies or memsets on one GPU or between host and GPU."""
    return np.asarray((op >= FIRST_COPY) & (op <= LAST_COPY) & (op != Op.COPY_P2P))
