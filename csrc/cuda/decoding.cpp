// dynamic_conv_step and light_conv_step on the GPU: the dispatch key CUDA of their schemas.
#include <torch/csrc/stable/library.h>

#include "dispatch.h"

namespace dynconv_mt::cuda {
namespace {

// Runs a step whose `softmax` and source of taps are set. The tensors must outlive it. What slots hold is not looked at:
// that would be waiting for the GPU.
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
  const int64_t num_heads = heads_of_step_logits(x, logits, buffer.size(2) + 1);
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
  const int64_t num_heads = heads_of_weight(x, weight);
  check_shape("weight", weight, {num_heads, buffer.size(2) + 1});
  const Tensor inputs = torch::stable::contiguous(x), taps = weight_for(x, weight);
  Step s = {};
  s.num_heads = num_heads;
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
