// The operators torch.ops.stylegan2_ops.upfirdn2d and .bias_act on CUDA tensors: checks, allocation, launch.
// With OPS_HOST the tests make them operators on CPU tensors, with launchers that loop over the threads.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#ifdef OPS_HOST
#define OPS_LIBRARY stylegan2_ops_host
#define OPS_DEVICE CPU
#else
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define OPS_LIBRARY stylegan2_ops
#define OPS_DEVICE CUDA
#endif

#include <algorithm>
#include <climits>
#include <optional>

#include "kernels.h"

namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

#ifdef OPS_HOST
struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  void* stream() const { return nullptr; }
};
#else
// Makes the tensor's GPU the current one; work goes to PyTorch's stream there.
struct OnDevice {
  explicit OnDevice(const Tensor& x) : guard(x.device()) {}
  void* stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }
  c10::cuda::CUDAGuard guard;
};
#endif

ops::Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kHalf: return ops::kFloat16;
    case at::kBFloat16: return ops::kBFloat16;
    case at::kFloat: return ops::kFloat32;
    case at::kDouble: return ops::kFloat64;
    default: TORCH_CHECK(false, "dtype must be float16, bfloat16, float32 or float64, got ", x.scalar_type());
  }
}

// A parameter in the accumulation type, contiguous; an undefined tensor for none.
Tensor parameter(const OptionalTensor& tensor, const Tensor& x, at::IntArrayRef sizes, const char* name) {
  if (!tensor.has_value() || !tensor->defined()) return {};
  TORCH_CHECK(tensor->device() == x.device(), name, " must be on ", x.device(), ", got ", tensor->device());
  TORCH_CHECK(tensor->sizes() == sizes, name, " must have shape ", sizes, ", got ", tensor->sizes());
  return tensor->to(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).contiguous();
}

const void* pointer(const Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr() : nullptr; }

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

void check(const char* error) { TORCH_CHECK(error == nullptr, "CUDA launch failed: ", error); }

Tensor upfirdn2d(const Tensor& x_given, const Tensor& filter, const OptionalTensor& scale, const OptionalTensor& noise,
                 const OptionalTensor& bias, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef padding,
                 bool flip, double filter_gain, bool fused, double slope, double gain, std::optional<double> clamp) {
  TORCH_CHECK(x_given.dim() == 4, "x must be [N, C, H, W], got ", x_given.sizes());
  TORCH_CHECK(filter.dim() == 2, "the filter must be [kh, kw], got ", filter.sizes());
  TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4, "up and down take 2 numbers, padding 4");
  OnDevice device(x_given);
  bool channels_last = !x_given.is_contiguous() && x_given.is_contiguous(at::MemoryFormat::ChannelsLast);
  Tensor x = channels_last ? x_given : x_given.contiguous();
  int64_t batch = x.size(0), channels = x.size(1);
  int64_t out_h = (x.size(2) * up[1] + padding[2] + padding[3] - filter.size(0)) / down[1] + 1;
  int64_t out_w = (x.size(3) * up[0] + padding[0] + padding[1] - filter.size(1)) / down[0] + 1;
  TORCH_CHECK(out_h > 0 && out_w > 0, "the result would be empty: ", out_h, " x ", out_w);
  for (int64_t size : {batch, channels, x.size(2) * up[1], x.size(3) * up[0], out_h * down[1], out_w * down[0]}) {
    TORCH_CHECK(size < INT_MAX / 2, "a size is too large for the kernels: ", size);
  }
  Tensor y = at::empty({batch, channels, out_h, out_w}, x.options(),
                       channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  Tensor taps = parameter(filter, x, filter.sizes(), "filter");
  Tensor scales = parameter(scale, x, {batch, channels}, "scale");
  int64_t noises = noise.has_value() && noise->defined() && noise->size(0) != 1 ? batch : 1;
  Tensor noise_map = parameter(noise, x, {noises, 1, out_h, out_w}, "noise");
  Tensor biases = parameter(bias, x, {channels}, "bias");

  ops::Upfirdn2d p;
  p.x = x.const_data_ptr();
  p.filter = pointer(taps);
  p.scale = pointer(scales);
  p.noise = pointer(noise_map);
  p.bias = pointer(biases);
  p.y = y.mutable_data_ptr();
  p.batch = int(batch);
  p.channels = int(channels);
  p.in_h = int(x.size(2));
  p.in_w = int(x.size(3));
  p.out_h = int(out_h);
  p.out_w = int(out_w);
  p.taps_h = int(filter.size(0));
  p.taps_w = int(filter.size(1));
  p.up_x = int(up[0]);
  p.up_y = int(up[1]);
  p.down_x = int(down[0]);
  p.down_y = int(down[1]);
  p.pad_x = int(padding[0]);
  p.pad_y = int(padding[2]);
  p.noise_stride = noises == 1 ? 0 : out_h * out_w;
  p.channels_last = channels_last;
  p.flip = flip;
  p.fused = fused;
  p.filter_gain = filter_gain;
  p.slope = slope;
  p.gain = gain;
  p.clamp = clamp.value_or(-1.0);
  bool wide = channels * x.element_size() % 16 == 0 && aligned(p.x) && aligned(p.y);
  check(ops::launch_upfirdn2d(p, dtype_of(x), wide, device.stream()));
  return y;
}

// `tensor` in dtype and strides of `x`.
Tensor like(const Tensor& tensor, const Tensor& x, const char* name) {
  TORCH_CHECK(tensor.device() == x.device(), name, " must be on ", x.device(), ", got ", tensor.device());
  TORCH_CHECK(tensor.sizes() == x.sizes(), name, " must have shape ", x.sizes(), ", got ", tensor.sizes());
  if (tensor.strides() == x.strides() && tensor.scalar_type() == x.scalar_type()) return tensor;
  return at::empty_like(x).copy_(tensor);
}

Tensor bias_act(const Tensor& x_given, const OptionalTensor& bias, const OptionalTensor& saved,
                const OptionalTensor& dy, int64_t dim, int64_t order, int64_t activation, bool saved_output,
                double alpha, double gain, std::optional<double> clamp) {
  TORCH_CHECK(order >= 0 && order <= 2 && (order < 1 || saved.has_value()) && (order < 2 || dy.has_value()),
              "order must be 0, 1 (with saved) or 2 (with saved and dy), got ", order);
  OnDevice device(x_given);
  // The forward input or output, where given, decides about the layout: gradients may come in any.
  const Tensor& model = order > 0 ? *saved : x_given;
  Tensor layout = model.is_non_overlapping_and_dense() ? model : model.contiguous();
  Tensor x = like(x_given, layout, "x");
  Tensor y = at::empty_like(layout);
  TORCH_CHECK(y.strides() == layout.strides(), "unexpected strides");
  bool has_bias = bias.has_value() && bias->defined();
  Tensor biases = has_bias ? parameter(bias, x, {x.size(dim)}, "bias") : Tensor();
  Tensor dys = order > 1 ? like(*dy, layout, "dy") : Tensor();

  ops::BiasAct p;
  p.x = x.const_data_ptr();
  p.bias = pointer(biases);
  p.saved = order > 0 ? layout.const_data_ptr() : nullptr;
  p.dy = pointer(dys);
  p.y = y.mutable_data_ptr();
  p.size = x.numel();
  p.bias_stride = has_bias ? std::max<int64_t>(x.stride(dim), 1) : 1;
  p.bias_size = has_bias ? int(x.size(dim)) : 1;
  p.order = int(order);
  p.activation = int(activation);
  p.saved_output = saved_output;
  p.alpha = alpha;
  p.gain = gain;
  p.clamp = clamp.value_or(-1.0);
  bool wide = aligned(p.x) && aligned(p.saved) && aligned(p.dy) && aligned(p.y);
  check(ops::launch_bias_act(p, dtype_of(x), wide, device.stream()));
  return y;
}

}  // namespace

TORCH_LIBRARY(OPS_LIBRARY, m) {
  m.def(
      "upfirdn2d(Tensor x, Tensor f, Tensor? scale, Tensor? noise, Tensor? bias, int[] up, int[] down, int[] padding, "
      "bool flip, float filter_gain, bool fused, float slope, float gain, float? clamp) -> Tensor");
  m.def(
      "bias_act(Tensor x, Tensor? bias, Tensor? saved, Tensor? dy, int dim, int order, int activation, "
      "bool saved_output, float alpha, float gain, float? clamp) -> Tensor");
}

TORCH_LIBRARY_IMPL(OPS_LIBRARY, OPS_DEVICE, m) {
  m.impl("upfirdn2d", upfirdn2d);
  m.impl("bias_act", bias_act);
}
