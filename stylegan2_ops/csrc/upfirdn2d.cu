// Kernels and launcher of upfirdn2d.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels.h"

namespace ops {
namespace {

constexpr int kBlock = 128;

template <typename T, int width, bool fused>
__global__ void __launch_bounds__(kBlock) any_kernel(const Upfirdn2d p, uint32_t threads) {
  uint32_t thread = blockIdx.x * uint32_t(kBlock) + threadIdx.x;
  if (thread < threads) upfirdn2d_any<T, width, fused>(p, thread);
}

template <typename T, int width, bool fused>
__global__ void __launch_bounds__(kBlock) strip_kernel(const Upfirdn2d p, uint32_t threads) {
  uint32_t thread = blockIdx.x * uint32_t(kBlock) + threadIdx.x;
  if (thread < threads) upfirdn2d_strip<T, width, fused>(p, thread);
}

template <typename T, int width, bool fused>
const char* launch(const Upfirdn2d& p, cudaStream_t stream) {
  bool strip = strip_fits(p);
  int64_t threads = strip ? threads_of<width, kStripRows>(p) : threads_of<width, 1>(p);
  if (threads == 0) return nullptr;
  if (threads >= int64_t(UINT32_MAX) - kBlock) return "upfirdn2d: the result has too many elements for one launch";
  unsigned blocks = unsigned((threads + kBlock - 1) / kBlock);
  if (strip) {
    strip_kernel<T, width, fused><<<blocks, kBlock, 0, stream>>>(p, uint32_t(threads));
  } else {
    any_kernel<T, width, fused><<<blocks, kBlock, 0, stream>>>(p, uint32_t(threads));
  }
  cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <typename T>
const char* launch(const Upfirdn2d& p, bool wide, cudaStream_t stream) {
  if (wide) return p.fused ? launch<T, widest_pack<T>, true>(p, stream) : launch<T, widest_pack<T>, false>(p, stream);
  return p.fused ? launch<T, 1, true>(p, stream) : launch<T, 1, false>(p, stream);
}

}  // namespace

const char* launch_upfirdn2d(const Upfirdn2d& p, Dtype dtype, bool wide, void* stream) {
  wide = wide && p.channels_last;
  cudaStream_t cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case kFloat16: return launch<__half>(p, wide, cuda_stream);
    case kBFloat16: return launch<__nv_bfloat16>(p, wide, cuda_stream);
    case kFloat32: return launch<float>(p, wide, cuda_stream);
    case kFloat64: return launch<double>(p, wide, cuda_stream);
  }
  return "upfirdn2d: unknown dtype";
}

}  // namespace ops
