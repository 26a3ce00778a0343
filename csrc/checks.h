// What every kernel asks of its arguments, and how it takes them. dynconv_mt/ops/functional.py checks them for users;
// these checks keep direct callers of torch.ops from reading beyond a tensor.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>

#include "dtypes.h"

namespace dynconv_mt {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

template <typename Sizes>
std::string shape_of(const Sizes& sizes) {
  std::ostringstream text;
  text << '(';
  const char* comma = "";
  for (const int64_t size : sizes) {
    text << comma << size;
    comma = ", ";
  }
  text << ')';
  return text.str();
}

inline void check_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected) {
  const auto found = tensor.sizes();
  const bool is_equal = found.size() == expected.size() && std::equal(found.begin(), found.end(), expected.begin());
  STD_TORCH_CHECK(is_equal, name, ": expected shape ", shape_of(expected), ", found ", shape_of(found));
}

inline void check_dtype(const char* name, const Tensor& tensor, ScalarType expected) {
  const ScalarType found = tensor.scalar_type();
  STD_TORCH_CHECK(found == expected, name, ": expected ", toString(expected), ", found ", toString(found));
}

inline void check_x(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 3, "x: expected shape (B, T, C), found ", shape_of(x.sizes()));
}

inline void check_device(const char* name, const Tensor& tensor, const Tensor& x) {
  STD_TORCH_CHECK(tensor.device() == x.device(), name, ": expected on the device of x");
}

// The type that kernels compute in.
inline ScalarType precision_of(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Storage storage_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Storage::kFloat32;
    case ScalarType::Double: return Storage::kFloat64;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    case ScalarType::Half: return Storage::kFloat16;
    default: STD_TORCH_CHECK(false, "x: expected a floating dtype, found ", toString(x.scalar_type()));
  }
}

// The weight of light_conv in the precision of the arithmetic.
inline Tensor weight_for(const Tensor& x, const Tensor& weight) {
  check_device("weight", weight, x);
  return torch::stable::contiguous(torch::stable::to(weight, precision_of(x)));
}

// K taps for each of `num_heads` heads that divide the channels of x, its last dimension.
inline void check_heads(const char* name, const Tensor& x, int64_t num_heads, int64_t kernel_size) {
  STD_TORCH_CHECK(kernel_size >= 1, name, ": a kernel has at least 1 tap, found ", kernel_size);
  const int64_t num_channels = x.size(x.dim() - 1);
  const bool is_dividing = num_heads >= 1 && num_channels % num_heads == 0;
  STD_TORCH_CHECK(is_dividing, name, ": ", num_heads, " heads do not divide the ", num_channels, " channels of x");
}

// The number of heads of dynamic_conv, from logits (B, T, H·K) that fit x.
inline int64_t heads_of_logits(const Tensor& x, const Tensor& logits, int64_t kernel_size) {
  check_x(x);
  STD_TORCH_CHECK(logits.dim() == 3, "logits: expected shape (B, T, H·K), found ", shape_of(logits.sizes()));
  check_heads("logits", x, logits.size(2) / std::max<int64_t>(kernel_size, 1), kernel_size);
  const int64_t num_heads = logits.size(2) / kernel_size;
  check_shape("logits", logits, {x.size(0), x.size(1), num_heads * kernel_size});
  check_dtype("logits", logits, x.scalar_type());
  return num_heads;
}

// The number of heads of light_conv and of its step, from a weight (H, K) that fits the channels of x.
inline int64_t heads_of_weight(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected shape (H, K), found ", shape_of(weight.sizes()));
  check_heads("weight", x, weight.size(0), weight.size(1));
  if (weight.scalar_type() != ScalarType::Float) check_dtype("weight", weight, x.scalar_type());
  return weight.size(0);
}

inline void check_grad(const Tensor& grad_y, const Tensor& x) {
  check_shape("grad_y", grad_y, {x.size(0), x.size(1), x.size(2)});
  check_dtype("grad_y", grad_y, x.scalar_type());
}

// DropConnect's seed, which the kernels read; none without dropout.
inline Optional checked_seed(const Tensor& x, const Optional& seed, double dropout) {
  STD_TORCH_CHECK(dropout >= 0.0 && dropout < 1.0, "dropout: expected at least 0 and below 1, found ", dropout);
  if (dropout == 0.0) return std::nullopt;
  STD_TORCH_CHECK(seed.has_value(), "seed: needed for dropout=", dropout);
  check_shape("seed", *seed, {1});
  check_dtype("seed", *seed, ScalarType::Long);
  check_device("seed", *seed, x);
  return seed;
}

// A tap is dropped if its 32 random bits are below this.
inline uint32_t drop_threshold(double dropout) { return static_cast<uint32_t>(std::floor(dropout * 0x1p32)); }

inline Optional contiguous_lengths(const Tensor& x, const Optional& lengths) {
  if (!lengths) return std::nullopt;
  check_shape("lengths", *lengths, {x.size(0)});
  check_dtype("lengths", *lengths, ScalarType::Long);
  check_device("lengths", *lengths, x);
  return torch::stable::contiguous(*lengths);
}

inline const int64_t* pointer_to(const Optional& tensor) {
  return tensor ? static_cast<const int64_t*>(tensor->const_data_ptr()) : nullptr;
}

// Beyond T all reads are zeros, however far.
inline int64_t clamped_padding(int64_t padding_left, const Tensor& x, int64_t kernel_size) {
  return std::clamp(padding_left, -x.size(1), x.size(1) + kernel_size);
}

inline void check_written(const char* name, const Tensor& tensor, const Tensor& x) {
  check_device(name, tensor, x);
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected contiguous, since it is written to");
}

// What a decoding step of x (B, W, N, C) finds and leaves behind. What slots hold is not looked at.
inline void check_state(const Tensor& x, const Tensor& buffer, const Tensor& slots, int64_t position) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected shape (B, W, N, C), found ", shape_of(x.sizes()));
  STD_TORCH_CHECK(buffer.dim() == 4, "buffer: expected shape (B, beam, K - 1, C), found ", shape_of(buffer.sizes()));
  check_shape("buffer", buffer, {x.size(0), buffer.size(1), buffer.size(2), x.size(3)});
  STD_TORCH_CHECK(slots.dim() == 3, "slots: expected shape (B, W, K - 1), found ", shape_of(slots.sizes()));
  check_shape("slots", slots, {x.size(0), slots.size(1), buffer.size(2)});
  check_dtype("slots", slots, ScalarType::Long);
  if (buffer.scalar_type() != x.scalar_type()) check_dtype("buffer", buffer, precision_of(x));
  check_written("buffer", buffer, x);
  check_written("slots", slots, x);
  const int64_t room = std::min(buffer.size(1), slots.size(1));
  STD_TORCH_CHECK(x.size(1) <= room, "x: expected at most ", room, " beam slots, found ", x.size(1));
  STD_TORCH_CHECK(position >= 0, "position: expected at least 0, found ", position);
}

// The number of heads of a step of dynamic_conv, from logits (B, W, N, H·K) that fit x.
inline int64_t heads_of_step_logits(const Tensor& x, const Tensor& logits, int64_t kernel_size) {
  STD_TORCH_CHECK(logits.dim() == 4, "logits: expected shape (B, W, N, H·K), found ", shape_of(logits.sizes()));
  const int64_t num_heads = logits.size(3) / kernel_size;
  check_heads("logits", x, num_heads, kernel_size);
  check_shape("logits", logits, {x.size(0), x.size(1), x.size(2), num_heads * kernel_size});
  check_dtype("logits", logits, x.scalar_type());
  check_device("logits", logits, x);
  return num_heads;
}

}  // namespace dynconv_mt
