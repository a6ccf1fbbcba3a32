// Pad, upsample, filter, downsample; then, if fused: scale, noise, bias, leaky ReLU, gain, clamp. One thread's work.
#pragma once

#include "common.h"

namespace ops {

struct Upfirdn2d {
  const void* x;       // [N, C, in_h, in_w]
  const void* filter;  // [taps_h, taps_w], accumulation type, as does everything below but y
  const void* scale;   // [N, C] or null
  const void* noise;   // [out_h, out_w] per sample, `noise_stride` apart (0: the same for all), or null
  const void* bias;    // [C] or null
  void* y;             // [N, C, out_h, out_w], layout and dtype of x
  int batch, channels, in_h, in_w, out_h, out_w, taps_h, taps_w;
  int up_x, up_y, down_x, down_y, pad_x, pad_y;  // pad: samples before the first one, negative crops
  int64_t noise_stride;
  bool channels_last, flip, fused;
  double filter_gain, slope, gain, clamp;  // clamp < 0: none
};

// The filter taps that meet samples (the others meet inserted zeros or padding) for one output along one axis.
struct Taps { int tap, sample, count; };  // the first tap and its sample; then `up` taps and one sample further

OPS_INLINE Taps taps_of(int out, int up, int down, int pad, int taps, int samples) {
  int origin = out * down - pad;  // of tap 0, on the upsampled grid
  int sample = origin > 0 ? (origin + up - 1) / up : 0;
  int tap = sample * up - origin;
  int count = tap < taps ? (taps - tap + up - 1) / up : 0;
  if (count > samples - sample) count = samples > sample ? samples - sample : 0;
  return {tap, sample, count};
}

// Element strides of an image [N, C, H, W].
struct Strides {
  int64_t batch, channel, row, column;
  OPS_INLINE Strides(int channels, int h, int w, bool channels_last)
      : batch(int64_t(channels) * h * w),
        channel(channels_last ? 1 : int64_t(h) * w),
        row(channels_last ? int64_t(channels) * w : w),
        column(channels_last ? channels : 1) {}
};

// Where a thread works: `channel` is the first of its pack, `row` the first of its rows.
struct Place { int n, channel, row, column; };

// Neighbouring threads take neighbouring memory.
template <int width, int rows>
OPS_INLINE Place place_of(const Upfirdn2d& p, uint32_t thread) {
  int strips = (p.out_h + rows - 1) / rows;
  Place at;
  if (p.channels_last) at.channel = split(thread, p.channels / width) * width;
  at.column = split(thread, p.out_w);
  at.row = split(thread, strips) * rows;
  if (!p.channels_last) at.channel = split(thread, p.channels);
  at.n = int(thread);
  return at;
}

template <int width, int rows>
inline int64_t threads_of(const Upfirdn2d& p) {
  return int64_t(p.batch) * (p.channels / width) * ((p.out_h + rows - 1) / rows) * p.out_w;
}

template <typename T, int width, bool fused>
OPS_INLINE void finish(const Upfirdn2d& p, const Place& at, int row, typename Accumulate<T>::type (&sum)[width]) {
  using A = typename Accumulate<T>::type;
  Pack<T, width> out;
  A noise = 0;
  if (fused && p.noise) {
    noise = static_cast<const A*>(p.noise)[at.n * p.noise_stride + int64_t(row) * p.out_w + at.column];
  }
#pragma unroll
  for (int k = 0; k < width; ++k) {
    A v = sum[k] * A(p.filter_gain);
    if (fused) {
      if (p.scale) v *= static_cast<const A*>(p.scale)[int64_t(at.n) * p.channels + at.channel + k];
      v += noise;
      if (p.bias) v += static_cast<const A*>(p.bias)[at.channel + k];
      v = (v > 0 ? v : v * A(p.slope)) * A(p.gain);
      if (p.clamp >= 0) v = v > A(p.clamp) ? A(p.clamp) : v < A(-p.clamp) ? A(-p.clamp) : v;
    }
    out.value[k] = T(v);
  }
  Strides stride(p.channels, p.out_h, p.out_w, p.channels_last);
  store<T, width>(p.y, at.n * stride.batch + at.channel * stride.channel + row * stride.row + at.column * stride.column,
                  out);
}

// Any filter and any factors: one pixel of `width` channels per thread.
template <typename T, int width, bool fused>
OPS_INLINE void upfirdn2d_any(const Upfirdn2d& p, uint32_t thread) {
  using A = typename Accumulate<T>::type;
  Place at = place_of<width, 1>(p, thread);
  Taps ty = taps_of(at.row, p.up_y, p.down_y, p.pad_y, p.taps_h, p.in_h);
  Taps tx = taps_of(at.column, p.up_x, p.down_x, p.pad_x, p.taps_w, p.in_w);
  Strides stride(p.channels, p.in_h, p.in_w, p.channels_last);
  const A* filter = static_cast<const A*>(p.filter);
  int64_t image = at.n * stride.batch + at.channel * stride.channel;
  A sum[width] = {};
  for (int i = 0; i < ty.count; ++i) {
    int tap_y = ty.tap + i * p.up_y;
    int64_t line = image + (ty.sample + i) * stride.row;
    for (int j = 0; j < tx.count; ++j) {
      int tap_x = tx.tap + j * p.up_x;
      A weight = p.flip ? filter[tap_y * p.taps_w + tap_x]
                        : filter[(p.taps_h - 1 - tap_y) * p.taps_w + p.taps_w - 1 - tap_x];
      Pack<T, width> in = load<T, width>(p.x, line + (tx.sample + j) * stride.column);
#pragma unroll
      for (int k = 0; k < width; ++k) sum[k] += weight * A(in.value[k]);
    }
  }
  finish<T, width, fused>(p, at, at.row, sum);
}

constexpr int kStripTaps = 4;  // both sides of the filter of `upfirdn2d_strip`
constexpr int kStripRows = 4;  // output rows per thread, which share the input rows they have in common

OPS_INLINE bool strip_fits(const Upfirdn2d& p) {
  return p.up_x == 1 && p.up_y == 1 && p.down_x == 1 && p.down_y == 1 && p.taps_h == kStripTaps &&
         p.taps_w == kStripTaps;
}

// 4 x 4 filters without resampling, the blur behind every upsampling convolution: a strip of rows per thread.
// All loops over taps and rows have fixed bounds, so that filter and sums stay in registers. A smaller filter filled up
// with zeros would not do: it reads more than `upfirdn2d_any`, and zero times infinity is NaN.
template <typename T, int width, bool fused>
OPS_INLINE void upfirdn2d_strip(const Upfirdn2d& p, uint32_t thread) {
  using A = typename Accumulate<T>::type;
  Place at = place_of<width, kStripRows>(p, thread);
  Strides stride(p.channels, p.in_h, p.in_w, p.channels_last);
  A filter[kStripTaps][kStripTaps];
#pragma unroll
  for (int i = 0; i < kStripTaps; ++i) {
#pragma unroll
    for (int j = 0; j < kStripTaps; ++j) {
      int tap_y = p.flip ? i : kStripTaps - 1 - i;
      int tap_x = p.flip ? j : kStripTaps - 1 - j;
      filter[i][j] = static_cast<const A*>(p.filter)[tap_y * kStripTaps + tap_x];
    }
  }
  int64_t image = at.n * stride.batch + at.channel * stride.channel;
  A sum[kStripRows][width] = {};
#pragma unroll
  for (int i = 0; i < kStripRows + kStripTaps - 1; ++i) {
    int y = at.row - p.pad_y + i;
    bool row_inside = y >= 0 && y < p.in_h;
#pragma unroll
    for (int j = 0; j < kStripTaps; ++j) {
      int x = at.column - p.pad_x + j;
      Pack<T, width> in = {};
      if (row_inside && x >= 0 && x < p.in_w) {
        in = load<T, width>(p.x, image + y * stride.row + x * stride.column);
      }
#pragma unroll
      for (int row = 0; row < kStripRows; ++row) {
        if (i - row < 0 || i - row >= kStripTaps) continue;
#pragma unroll
        for (int k = 0; k < width; ++k) sum[row][k] += filter[i - row][j] * A(in.value[k]);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < kStripRows; ++row) {
    if (at.row + row < p.out_h) finish<T, width, fused>(p, at, at.row + row, sum[row]);
  }
}

}  // namespace ops
