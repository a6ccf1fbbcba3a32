// The binding and the kernels' per-thread functions as operators on CPU tensors: every thread of a launch in a loop.
#define OPS_HOST
#include "../../stylegan2_ops/csrc/binding.cpp"

namespace ops {
namespace {

template <typename T, int width, bool fused>
void loop(const Upfirdn2d& p) {
  bool strip = strip_fits(p);
  int64_t threads = strip ? threads_of<width, kStripRows>(p) : threads_of<width, 1>(p);
  for (int64_t thread = 0; thread < threads; ++thread) {
    if (strip) {
      upfirdn2d_strip<T, width, fused>(p, uint32_t(thread));
    } else {
      upfirdn2d_any<T, width, fused>(p, uint32_t(thread));
    }
  }
}

template <typename T>
void loop(const Upfirdn2d& p, bool wide) {
  if (wide) {
    p.fused ? loop<T, widest_pack<T>, true>(p) : loop<T, widest_pack<T>, false>(p);
  } else {
    p.fused ? loop<T, 1, true>(p) : loop<T, 1, false>(p);
  }
}

template <typename T, int width>
void loop(const BiasAct& p) {
  for (int64_t thread = 0; thread < (p.size + width - 1) / width; ++thread) bias_act_pack<T, width>(p, uint32_t(thread));
}

}  // namespace

const char* launch_upfirdn2d(const Upfirdn2d& p, Dtype dtype, bool wide, void*) {
  wide = wide && p.channels_last;
  switch (dtype) {
    case kFloat16: loop<c10::Half>(p, wide); break;
    case kBFloat16: loop<c10::BFloat16>(p, wide); break;
    case kFloat32: loop<float>(p, wide); break;
    case kFloat64: loop<double>(p, wide); break;
  }
  return nullptr;
}

const char* launch_bias_act(const BiasAct& p, Dtype dtype, bool wide, void*) {
  switch (dtype) {
    case kFloat16: wide ? loop<c10::Half, 8>(p) : loop<c10::Half, 1>(p); break;
    case kBFloat16: wide ? loop<c10::BFloat16, 8>(p) : loop<c10::BFloat16, 1>(p); break;
    case kFloat32: wide ? loop<float, 4>(p) : loop<float, 1>(p); break;
    case kFloat64: wide ? loop<double, 2>(p) : loop<double, 1>(p); break;
  }
  return nullptr;
}

}  // namespace ops
