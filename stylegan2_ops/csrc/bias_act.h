// Bias, activation, gain, clamp and their first and second derivatives. One thread's work.
#pragma once

#include <cmath>

#include "common.h"

namespace ops {

// Numbers of stylegan2_ops.bias_act.ACTIVATIONS.
enum Activation : int { kLinear, kRelu, kLrelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish };

struct BiasAct {
  const void* x;      // order 0: the input; order 1: gradient of y; order 2: gradient of the order-1 result
  const void* bias;   // [bias_size], accumulation type, or null
  const void* saved;  // orders 1 and 2: the forward input, or its output if `saved_output`
  const void* dy;     // order 2: gradient of y
  void* y;            // dtype and layout of x; so have `saved` and `dy`
  int64_t size;
  int64_t bias_stride;  // elements between neighbouring bias channels in memory
  int bias_size;
  int order;  // 0: y; 1: x * dact; 2: x * dy * ddact
  int activation;
  bool saved_output;  // piecewise linear activations: the sign of the output tells the slope
  double alpha, gain, clamp;  // clamp < 0: none
};

OPS_INLINE int bias_channel(int64_t element, int64_t stride, int size) {
  if (element < INT32_MAX && stride < INT32_MAX) return int((uint32_t(element) / uint32_t(stride)) % uint32_t(size));
  return int((element / stride) % size);
}

template <typename A> struct Derivatives { A value, first, second; };

// The activation and its derivatives at t, without gain.
template <typename A>
OPS_INLINE Derivatives<A> activate(int activation, A t, A alpha) {
  const A selu_scale = A(1.0507009873554804934193349852946), selu_alpha = A(1.6732632423543772848170429916717);
  switch (activation) {
    case kRelu:
      return {t <= 0 ? A(0) : t, t > 0 ? A(1) : A(0), A(0)};  // NaN stays NaN
    case kLrelu:
      return {t > 0 ? t : t * alpha, t > 0 ? A(1) : alpha, A(0)};
    case kTanh: {
      A v = A(tanh(t)), first = 1 - v * v;
      return {v, first, -2 * v * first};
    }
    case kSigmoid: {
      A s = 1 / (1 + A(exp(-t)));
      return {s, s * (1 - s), s * (1 - s) * (1 - 2 * s)};
    }
    case kElu: {
      if (t > 0) return {t, A(1), A(0)};
      A e = A(exp(t));
      return {A(expm1(t)), e, e};
    }
    case kSelu: {
      if (t > 0) return {selu_scale * t, selu_scale, A(0)};
      A e = selu_scale * selu_alpha * A(exp(t));
      return {selu_scale * selu_alpha * A(expm1(t)), e, e};
    }
    case kSoftplus: {
      A s = 1 / (1 + A(exp(-t)));
      return {t > 20 ? t : A(log1p(exp(t))), s, s * (1 - s)};
    }
    case kSwish: {
      A s = 1 / (1 + A(exp(-t)));
      return {t * s, s * (1 + t * (1 - s)), s * (1 - s) * (2 + t * (1 - 2 * s))};
    }
    default:
      return {t, A(1), A(0)};
  }
}

// T: the type of what is stored. A clamp that T cannot hold counts as T rounds it, as its own output does.
template <typename T, typename A>
OPS_INLINE A bias_act_element(const BiasAct& p, A x, A bias, A saved, A dy) {
  const A gain = A(p.gain), clamp = A(T(A(p.clamp)));
  if (p.order == 0) {
    A v = activate(p.activation, x + bias, A(p.alpha)).value * gain;
    return p.clamp < 0 ? v : v > clamp ? clamp : v < -clamp ? -clamp : v;
  }
  Derivatives<A> d = activate(p.activation, p.saved_output ? saved : saved + bias, A(p.alpha));
  A output = p.saved_output ? saved : d.value * gain;
  if (p.clamp >= 0 && (output >= clamp || output <= -clamp)) return A(0);
  return p.order == 1 ? x * d.first * gain : x * dy * d.second * gain;
}

// `width` neighbouring elements; the last thread finishes a shorter rest one by one.
template <typename T, int width>
OPS_INLINE void bias_act_pack(const BiasAct& p, uint32_t thread) {
  using A = typename Accumulate<T>::type;
  const A* bias = static_cast<const A*>(p.bias);
  int64_t first = int64_t(thread) * width;
  if (first + width <= p.size) {
    Pack<T, width> x = load<T, width>(p.x, first), saved = {}, dy = {}, out;
    if (p.order > 0) saved = load<T, width>(p.saved, first);
    if (p.order > 1) dy = load<T, width>(p.dy, first);
    bool same_channel = p.bias_stride % width == 0;  // then one division serves the whole pack
    int channel = bias ? bias_channel(first, p.bias_stride, p.bias_size) : 0;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      if (bias && k > 0 && !same_channel) channel = bias_channel(first + k, p.bias_stride, p.bias_size);
      out.value[k] = T(bias_act_element<T, A>(p, A(x.value[k]), bias ? bias[channel] : A(0), A(saved.value[k]),
                                           A(dy.value[k])));
    }
    store<T, width>(p.y, first, out);
    return;
  }
  for (int64_t i = first; i < p.size; ++i) {
    A saved = p.order > 0 ? A(static_cast<const T*>(p.saved)[i]) : A(0);
    A dy = p.order > 1 ? A(static_cast<const T*>(p.dy)[i]) : A(0);
    A b = bias ? bias[bias_channel(i, p.bias_stride, p.bias_size)] : A(0);
    static_cast<T*>(p.y)[i] = T(bias_act_element<T, A>(p, A(static_cast<const T*>(p.x)[i]), b, saved, dy));
  }
}

}  // namespace ops
