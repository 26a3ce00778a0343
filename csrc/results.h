// The tensors that operators return.
#pragma once

#include <torch/csrc/stable/ops.h>

namespace dynconv_mt {

using torch::stable::Tensor;

inline Tensor new_like(const Tensor& x) { return torch::stable::new_empty(x, x.sizes()); }

// A gradient by taps, which is zero where there is nothing to sum.
inline Tensor new_gradient(const Tensor& taps, const Tensor& x) {
  return x.numel() == 0 ? torch::stable::new_zeros(taps, taps.sizes()) : new_like(taps);
}

}  // namespace dynconv_mt
