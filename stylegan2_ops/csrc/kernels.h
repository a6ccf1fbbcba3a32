// The launchers: plain pointers in, an error message or null out, no header of PyTorch or CUDA.
#pragma once

#include "bias_act.h"
#include "upfirdn2d.h"

namespace ops {

// `stream` is a cudaStream_t. `wide`: pointers and sizes allow 16-byte accesses.
const char* launch_upfirdn2d(const Upfirdn2d& arguments, Dtype dtype, bool wide, void* stream);
const char* launch_bias_act(const BiasAct& arguments, Dtype dtype, bool wide, void* stream);

}  // namespace ops
