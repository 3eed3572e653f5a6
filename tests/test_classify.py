"""Names of GPU work, as real programs write them, and what they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder

from tracelens.classify import (
    Op,
    classify,
    classify_call,
    classify_copy,
    classify_kernel,
    is_comm,
    is_compute,
    is_copy,
)
from tracelens.infer.kernels import gemm_names
from tracelens.ingest import open_trace
from tracelens.links import link

KERNELS = {
    # NCCL since 2.19
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)": Op.ALL_REDUCE,
    "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)":
        Op.REDUCE_SCATTER,
    "ncclDevKernel_AllGather_RING_LL(ncclDevComm*, unsigned long, ncclWork*)": Op.ALL_GATHER,
    "ncclDevKernel_Reduce_Sum_f16_RING_LL(ncclDevKernelArgsStorage<4096ul>)": Op.REDUCE,
    "ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096ul>)": Op.BROADCAST,
    "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)": Op.P2P_OR_ALL_TO_ALL,
    # NCCL before
    "ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)": Op.ALL_REDUCE,
    "ncclKernel_AllReduce_TREE_LL_Sum___nv_bfloat16(ncclDevComm*, unsigned long)": Op.ALL_REDUCE,
    "ncclKernel_AllGather_RING_LL128_Sum_int8_t(ncclDevComm*, ncclWork*)": Op.ALL_GATHER,
    "ncclKernel_ReduceScatter_RING_SIMPLE_Sum_half(ncclDevComm*, ncclWork*)": Op.REDUCE_SCATTER,
    "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*)": Op.P2P_OR_ALL_TO_ALL,
    "ncclAllReduceRingLLKernel_sum_f32(ncclColl)": Op.ALL_REDUCE,
    "ncclSendRecvKernel_copy_i8(ncclWorkElem)": Op.P2P_OR_ALL_TO_ALL,
    # NCCL's symmetric memory: AG and R in a name are its algorithms
    "ncclSymkDevKernel_AllGather_LL(ncclSymkDevWorkArgs4K)": Op.ALL_GATHER,
    "ncclSymkDevKernel_AllReduce_AGxLL_R_sum_bf16(ncclSymDevArgs)": Op.ALL_REDUCE,
    "ncclSymkDevKernel_ReduceScatter_LDMC_sum_f32(ncclSymDevArgs)": Op.REDUCE_SCATTER,
    # RCCL: one kernel for all
    "ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)": Op.COMM_OTHER,
    "rccl_main_kernel(ncclDevComm*, unsigned long, ncclWork*)": Op.COMM_OTHER,
    # without NCCL
    "void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(T*)": Op.ALL_REDUCE,
    "void (anonymous namespace)::multimem_all_gather_kernel<16>(char*)": Op.ALL_GATHER,
    "void two_shot_all_reduce_kernel<c10::BFloat16, 16, 8, 8, false>(T**)": Op.ALL_REDUCE,
    "void tensorrt_llm::kernels::oneShotAllReduceKernel<__nv_bfloat16, 8, true>(P)": Op.ALL_REDUCE,
    "allreduce_fusion_kernel_oneshot_lamport<5, __nv_bfloat16, 8>(Params)": Op.ALL_REDUCE,
    "void deep_ep::internode_ll::dispatch<true, false, 7168>(void*)": Op.ALL_TO_ALL,
    "void deep_ep::intranode::combine<__nv_bfloat16, 8, 768>(void*)": Op.ALL_TO_ALL,
    "ep::intranode::dispatch(int4*)": Op.ALL_TO_ALL,
    "nvshmemi_proxy_quiet_kernel(int*)": Op.COMM_OTHER,
    # matrix products
    "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN": Op.GEMM,
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_cublas": Op.GEMM,
    "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_128x128_32x4_tn>(P)": Op.GEMM,
    "ampere_sgemm_128x64_tn": Op.GEMM,
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>(P)": Op.GEMM,
    "Cijk_Alik_Bljk_BBS_BH_Bias_HAS_SAV_UserArgs_MT256x256x64_MI16x16x1_SN": Op.GEMM,
    "Cijk_Ailk_Bjlk_HHS_BH_MT128x128x32_MI32x32x8x1_SN": Op.GEMM,
    "triton_tem_fused_addmm_view_5": Op.GEMM,
    "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc": Op.GEMM,
    # attention
    "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, cutlass::bfloat16_t>>(P)":
        Op.ATTENTION,
    "void flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<cutlass::half_t>(P)": Op.ATTENTION,
    "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(AttentionKernel::Params)": Op.ATTENTION,
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7": Op.ATTENTION,
    "_ZN7ck_tile6kentryILi256ENS_13FmhaFwdKernelINS_": Op.ATTENTION,
    # optimizers
    "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor<float, 4>>(T)": Op.OPTIMIZER,
    "void multi_tensor_apply_kernel<TensorListMetadata<4>, AdamFunctor<float>>(T)": Op.OPTIMIZER,
    "void at::native::multi_tensor_apply_kernel<PointwiseOpScalarListFunctor<float>>(T)":
        Op.OPTIMIZER,
    "Lamb_kernel_part1_lamb_stage(float*)": Op.OPTIMIZER,
    # everything else: "reduce", "gather" and "copy" do not make communication
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>(R)": Op.ELEMENTWISE,
    "void at::native::vectorized_gather_kernel<16, long>(char*)": Op.ELEMENTWISE,
    "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>(int)":
        Op.ELEMENTWISE,
    "void at::native::multi_tensor_apply_kernel<LpNormFunctor<float>>(T)": Op.ELEMENTWISE,
    "triton_red_fused__scaled_dot_product_flash_attention_mm_0": Op.ELEMENTWISE,
    "triton_poi_fused_add_mm_silu_3": Op.ELEMENTWISE,
    "void cunn_SoftMaxForward<8, float>(float*)": Op.ELEMENTWISE,
    "__amd_rocclr_copyBuffer": Op.COMPUTE_OTHER,
    "my_kernel(int)": Op.COMPUTE_OTHER,
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(name: str) -> None:
    assert classify_kernel(name) is KERNELS[name]


@pytest.mark.parametrize(
    "name",
    [
        "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*, int)",
        "void sglang::cross_device_reduce_2stage<half, 8>(RankData*)",
    ],
)
def test_a_reduction_across_devices_is_an_all_reduce(name: str) -> None:
    assert classify_kernel(name) is Op.ALL_REDUCE


def test_a_hadamard_transform_is_no_optimizer() -> None:
    name = "void fast_hadamard_transform_kernel<fast_hadamard_transform_kernel_traits<256>>(P)"
    assert classify_kernel(name) is not Op.OPTIMIZER


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("Memcpy HtoD (Pinned -> Device)", Op.COPY_H2D),
        ("Memcpy HtoD (Pageable -> Device)", Op.COPY_H2D),
        ("Memcpy DtoH (Device -> Pinned)", Op.COPY_D2H),
        ("Memcpy DtoD (Device -> Device)", Op.COPY_D2D),
        ("Memcpy PtoP (Device -> Device)", Op.COPY_P2P),
        ("CopyHostToDevice", Op.COPY_H2D),
        ("CopyDeviceToHost", Op.COPY_D2H),
        ("hipMemcpyAsync", Op.COPY_OTHER),
    ],
)
def test_copy(name: str, op: Op) -> None:
    assert classify_copy(name) is op


@pytest.mark.parametrize(
    ("call", "op"),
    [
        ("allreduce", Op.ALL_REDUCE),
        ("allreduce_coalesced", Op.ALL_REDUCE),
        ("_allgather_base", Op.ALL_GATHER),
        ("allgather_into_tensor_coalesced", Op.ALL_GATHER),
        ("_reduce_scatter_base", Op.REDUCE_SCATTER),
        ("reduce_scatter_tensor_coalesced", Op.REDUCE_SCATTER),
        ("all_to_allv", Op.ALL_TO_ALL),
        ("alltoall", Op.ALL_TO_ALL),
        ("broadcast", Op.BROADCAST),
        ("reduce", Op.REDUCE),
        ("send", Op.P2P),
        ("irecv", Op.P2P),
        ("coalesced", Op.P2P),
        ("barrier", Op.COMM_OTHER),
        ("gather", Op.COMM_OTHER),
        ("scatter", Op.COMM_OTHER),
        ("nccl:all_reduce", Op.ALL_REDUCE),
        ("nccl:_all_gather_base", Op.ALL_GATHER),
        ("nccl:_reduce_scatter_base", Op.REDUCE_SCATTER),
        ("nccl:all_to_all", Op.ALL_TO_ALL),
        ("nccl:send 0->1", Op.P2P),
        ("wait", None),
        ("init", None),
    ],
)
def test_call(call: str, op: Op | None) -> None:
    assert classify_call(call) is op


def test_every_meaning_is_exactly_one_of_communication_compute_and_copy() -> None:
    ops = np.array(sorted(Op), np.int8)
    assert (is_comm(ops).astype(int) + is_compute(ops) + is_copy(ops) == 1).all()
    assert is_comm(np.array([Op.COPY_P2P], np.int8)).all(), "a copy between two GPUs communicates"


def test_a_name_means_something_only_where_it_is_used(tmp_path: Path) -> None:
    built = TraceBuilder().cpu_op("aten::mm", ts=0, dur=5).kernel("gemm", 10, 5)
    trace = open_trace(built.memcpy("HtoD", 20, 5).write(tmp_path / "t.json"))
    as_kernel, as_copy = classify(trace)
    code = {name: i for i, name in enumerate(trace.strings)}
    assert as_kernel[code["gemm"]] == Op.GEMM
    assert as_copy[code["gemm"]] == as_kernel[code["aten::mm"]] == -1
    assert as_copy[code["Memcpy HtoD (Pinned -> Device)"]] == Op.COPY_H2D


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NTN", "bf16"),  # cuBLAS 12.8
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN", "bf16"),  # and 13
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT", "fp16"),
        ("nvjet_sm100_hsh_256x128_64x4_1x2_h_bz_coopA_NNT", "fp16"),
        ("nvjet_sss_tf32_128x256_TNT", "fp32"),
        ("nvjet_sm90_sss_128x256_TNT", "fp32"),
        ("nvjet_qqtst_128x256_TNT", None),
        ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", "bf16"),
        ("ampere_sgemm_128x64_tn", "fp32"),
    ],
)
def test_operand_types_in_the_names_of_matrix_kernels(
    name: str, dtype: str | None, tmp_path: Path
) -> None:
    trace = open_trace(TraceBuilder().kernel(name, 0, 10).write(tmp_path / "t.json"))
    told = gemm_names(trace, link(trace), np.ones(1, bool))
    assert told == ({dtype: 10_000} if dtype else {})
