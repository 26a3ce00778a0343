// dynamic_conv_step and light_conv_step on the GPU: the dispatch key CUDA of their schemas.
#include <torch/csrc/stable/library.h>

#include "dispatch.h"

namespace dynconv_mt::cuda {
namespace {

void check_dividing(const char* name, int64_t num_heads, const Tensor& x) {
  const bool is_dividing = num_heads >= 1 && x.size(3) % num_heads == 0;
  STD_TORCH_CHECK(is_dividing, name, ": ", num_heads, " heads do not divide the ", x.size(3), " channels of x");
}

void check_written(const char* name, const Tensor& tensor, const Tensor& x) {
  check_device(name, tensor, x);
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected contiguous, since it is written to");
}

// What slots hold is not looked at: that would be waiting for the GPU.
void check_state(const Tensor& x, const Tensor& buffer, const Tensor& slots, int64_t position) {
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

// Runs a step whose `softmax` and source of taps are set. The tensors must outlive it.
Tensor run_step(const char* name, Step s, const Tensor& x, const Tensor& buffer, const Tensor& slots) {
  const Tensor y = torch::stable::new_empty(x, x.sizes());
  if (x.numel() == 0) return y;
  s.num_sentences = x.size(0);
  s.num_slots = x.size(1);
  s.num_new = x.size(2);
  s.num_channels = x.size(3);
  s.kernel_size = int_of(buffer.size(2) + 1);
  s.beam = buffer.size(1);
  s.ancestry = slots.size(1);
  s.storage = storage_of(x);
  s.is_wide = buffer.scalar_type() != x.scalar_type();
  s.x = x.const_data_ptr();
  s.buffer = buffer.mutable_data_ptr();
  s.slots = static_cast<int64_t*>(slots.mutable_data_ptr());
  s.y = y.mutable_data_ptr();
  const Device device(x);
  check_launch(name, step(s, device.stream()));
  return y;
}

Tensor dynamic_conv_step(Tensor x, Tensor logits, Tensor buffer, Tensor slots, int64_t position, bool softmax) {
  check_state(x, buffer, slots, position);
  const int64_t kernel_size = buffer.size(2) + 1;
  STD_TORCH_CHECK(logits.dim() == 4, "logits: expected shape (B, W, N, H·K), found ", shape_of(logits.sizes()));
  const int64_t num_heads = logits.size(3) / kernel_size;
  check_dividing("logits", num_heads, x);
  check_shape("logits", logits, {x.size(0), x.size(1), x.size(2), num_heads * kernel_size});
  check_dtype("logits", logits, x.scalar_type());
  check_device("logits", logits, x);
  const Tensor inputs = torch::stable::contiguous(x), rows = torch::stable::contiguous(logits);
  Step s = {};
  s.num_heads = num_heads;
  s.position = position;
  s.softmax = softmax;
  s.logits = rows.const_data_ptr();
  return run_step("dynamic_conv_step", s, inputs, buffer, slots);
}

Tensor light_conv_step(Tensor x, Tensor weight, Tensor buffer, Tensor slots, int64_t position, bool softmax) {
  check_state(x, buffer, slots, position);
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected shape (H, K), found ", shape_of(weight.sizes()));
  check_shape("weight", weight, {weight.size(0), buffer.size(2) + 1});
  check_dividing("weight", weight.size(0), x);
  if (weight.scalar_type() != ScalarType::Float) check_dtype("weight", weight, x.scalar_type());
  const Tensor inputs = torch::stable::contiguous(x), taps = weight_for(x, weight);
  Step s = {};
  s.num_heads = weight.size(0);
  s.position = position;
  s.softmax = softmax;
  s.weight = taps.const_data_ptr();
  return run_step("light_conv_step", s, inputs, buffer, slots);
}

}  // namespace
}  // namespace dynconv_mt::cuda

DYNCONV_MT_LIBRARY_IMPL(library) {
  library.impl("dynamic_conv_step", TORCH_BOX(&dynconv_mt::cuda::dynamic_conv_step));
  library.impl("light_conv_step", TORCH_BOX(&dynconv_mt::cuda::light_conv_step));
}
