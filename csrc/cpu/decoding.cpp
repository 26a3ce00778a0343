// dynamic_conv_step and light_conv_step on the CPU: the dispatch key CPU of their schemas.
#include <torch/csrc/stable/library.h>

#include "dispatch.h"

namespace dynconv_mt::cpu {
namespace {

void check_slots(const Tensor& slots, int64_t beam) {
  const auto* slot = static_cast<const int64_t*>(slots.const_data_ptr());
  const bool is_inside = std::all_of(slot, slot + slots.numel(), [=](int64_t s) { return 0 <= s && s < beam; });
  STD_TORCH_CHECK(is_inside, "slots: expected numbers of beam slots, 0 to ", beam - 1);
}

// The part of a step that both operators share. The tensors must outlive it.
Step step_of(const Tensor& x, const Tensor& buffer, const Tensor& slots, int64_t num_heads, int64_t position) {
  Step s = {};
  s.num_sentences = x.size(0);
  s.num_slots = x.size(1);
  s.num_new = x.size(2);
  s.num_channels = x.size(3);
  s.num_heads = num_heads;
  s.kernel_size = buffer.size(2) + 1;
  s.beam = buffer.size(1);
  s.ancestry = slots.size(1);
  s.position = position;
  s.storage = storage_of(x);
  s.is_wide = buffer.scalar_type() != x.scalar_type();
  s.x = x.const_data_ptr();
  s.slots = static_cast<const int64_t*>(slots.const_data_ptr());
  s.buffer = buffer.mutable_data_ptr();
  return s;
}

// Every slot is its own ancestor at the new positions.
void append_slots(const Step& s, const Tensor& slots) {
  const int64_t num_past = s.kernel_size - 1;
  auto* ancestors = static_cast<int64_t*>(slots.mutable_data_ptr());
  for (int64_t n = std::max<int64_t>(s.num_new - num_past, 0); n < s.num_new; ++n) {
    const int64_t row = (s.position + n) % num_past;
    for (int64_t b = 0; b < s.num_sentences; ++b) {
      for (int64_t slot = 0; slot < s.num_slots; ++slot) ancestors[(b * s.ancestry + slot) * num_past + row] = slot;
    }
  }
}

Tensor run_step(Step s, const Tensor& x, const Tensor& slots) {
  const Tensor y = torch::stable::new_empty(x, x.sizes());
  if (x.numel() == 0) return y;
  s.y = y.mutable_data_ptr();
  const int64_t work = s.num_slots * s.num_new * (s.num_channels / s.num_heads + 8) * s.kernel_size;
  run_in_parallel(s, kernels().step, s.num_sentences * s.num_heads, work, scratch_bytes_of_step(s));
  append_slots(s, slots);
  return y;
}

Tensor dynamic_conv_step(Tensor x, Tensor logits, Tensor buffer, Tensor slots, int64_t position, bool softmax) {
  check_state(x, buffer, slots, position);
  check_slots(slots, buffer.size(1));
  const int64_t num_heads = heads_of_step_logits(x, logits, buffer.size(2) + 1);
  const Tensor inputs = torch::stable::contiguous(x), rows = torch::stable::contiguous(logits);
  Step s = step_of(inputs, buffer, slots, num_heads, position);
  s.softmax = softmax;
  s.logits = rows.const_data_ptr();
  return run_step(s, inputs, slots);
}

Tensor light_conv_step(Tensor x, Tensor weight, Tensor buffer, Tensor slots, int64_t position, bool softmax) {
  check_state(x, buffer, slots, position);
  check_slots(slots, buffer.size(1));
  const int64_t num_heads = heads_of_weight(x, weight);
  check_shape("weight", weight, {num_heads, buffer.size(2) + 1});
  const Tensor inputs = torch::stable::contiguous(x), taps = weight_for(x, weight);
  Step s = step_of(inputs, buffer, slots, num_heads, position);
  s.softmax = softmax;
  s.weight = taps.const_data_ptr();
  return run_step(s, inputs, slots);
}

}  // namespace
}  // namespace dynconv_mt::cpu

STABLE_TORCH_LIBRARY_IMPL(dynconv_mt, CPU, library) {
  library.impl("dynamic_conv_step", TORCH_BOX(&dynconv_mt::cpu::dynamic_conv_step));
  library.impl("light_conv_step", TORCH_BOX(&dynconv_mt::cpu::light_conv_step));
}
