// Kernel and launcher of bias_act.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels.h"

namespace ops {
namespace {

constexpr int kBlock = 256;

template <typename T, int width>
__global__ void __launch_bounds__(kBlock) bias_act_kernel(const BiasAct p, uint32_t threads) {
  uint32_t thread = blockIdx.x * uint32_t(kBlock) + threadIdx.x;
  if (thread < threads) bias_act_pack<T, width>(p, thread);
}

template <typename T, int width>
const char* launch(const BiasAct& p, cudaStream_t stream) {
  int64_t threads = (p.size + width - 1) / width;
  if (threads == 0) return nullptr;
  if (threads >= int64_t(UINT32_MAX) - kBlock) return "bias_act: the tensor has too many elements for one launch";
  bias_act_kernel<T, width><<<unsigned((threads + kBlock - 1) / kBlock), kBlock, 0, stream>>>(p, uint32_t(threads));
  cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <typename T>
const char* launch(const BiasAct& p, bool wide, cudaStream_t stream) {
  return wide ? launch<T, widest_pack<T>>(p, stream) : launch<T, 1>(p, stream);
}

}  // namespace

const char* launch_bias_act(const BiasAct& p, Dtype dtype, bool wide, void* stream) {
  cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case kFloat16: return launch<__half>(p, wide, cuda_stream);
    case kBFloat16: return launch<__nv_bfloat16>(p, wide, cuda_stream);
    case kFloat32: return launch<float>(p, wide, cuda_stream);
    case kFloat64: return launch<double>(p, wide, cuda_stream);
  }
  return "bias_act: unknown dtype";
}

}  // namespace ops
