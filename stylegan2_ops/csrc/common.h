// What every kernel shares: host/device qualifiers, accumulation types and wide loads.
//
// A kernel's whole per-thread work is an inline function of a thread index, in a header that a plain C++ compiler
// accepts as well: the tests run it in a loop on the CPU and compare it with the reference.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define OPS_INLINE __host__ __device__ __forceinline__
#else
#define OPS_INLINE inline
#endif

namespace ops {

enum Dtype : int { kFloat16 = 0, kBFloat16 = 1, kFloat32 = 2, kFloat64 = 3 };

// Half-precision data are accumulated in float.
template <typename T> struct Accumulate { using type = float; };
template <> struct Accumulate<double> { using type = double; };

// `width` neighbouring values, moved by one memory instruction of up to 16 bytes.
template <typename T, int width> struct alignas(sizeof(T) * width) Pack { T value[width]; };

template <typename T> constexpr int widest_pack = 16 / int(sizeof(T));

template <typename T, int width>
OPS_INLINE Pack<T, width> load(const void* base, int64_t offset) {
  return *reinterpret_cast<const Pack<T, width>*>(static_cast<const T*>(base) + offset);
}

template <typename T, int width>
OPS_INLINE void store(void* base, int64_t offset, const Pack<T, width>& pack) {
  *reinterpret_cast<Pack<T, width>*>(static_cast<T*>(base) + offset) = pack;
}

// The remainder of `index` by `size`; `index` becomes the quotient.
OPS_INLINE int split(uint32_t& index, int size) {
  uint32_t quotient = index / uint32_t(size);
  int remainder = int(index - quotient * uint32_t(size));
  index = quotient;
  return remainder;
}

}  // namespace ops
