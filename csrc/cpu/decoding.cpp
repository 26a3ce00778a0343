// dynamic_conv_step and light_conv_step on the CPU: the dispatch key CPU of their schemas.
#include <torch/csrc/stable/library.h>

#include "dispatch.h"

namespace dynconv_mt::cpu {
namespace {

void check_dividing(const char* name, int64_t num_heads, const Tensor& x) {
  const bool is_dividing = num_heads >= 1 && x.size(3) % num_heads == 0;
  STD_TORCH_CHECK(is_dividing, name, ": ", num_heads, " heads do not divide the ", x.size(3), " channels of x");
}

void check_contiguous(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected contiguous, since it is written to");
}

void check_state(const Tensor& x, const Tensor& buffer, const Tensor& slots, int64_t position) {
  STD_TORCH_CHECK(x.dim() == 4, "x: expected shape (B, W, N, C), found ", shape_of(x.sizes()));
  STD_TORCH_CHECK(buffer.dim() == 4, "buffer: expected shape (B, beam, K - 1, C), found ", shape_of(buffer.sizes()));
  check_shape("buffer", buffer, {x.size(0), buffer.size(1), buffer.size(2), x.size(3)});
  STD_TORCH_CHECK(slots.dim() == 3, "slots: expected shape (B, W, K - 1), found ", shape_of(slots.sizes()));
  check_shape("slots", slots, {x.size(0), slots.size(1), buffer.size(2)});
  check_dtype("slots", slots, ScalarType::Long);
  if (buffer.scalar_type() != x.scalar_type()) check_dtype("buffer", buffer, precision_of(x));
  check_contiguous("buffer", buffer);
  check_contiguous("slots", slots);
  const int64_t room = std::min(buffer.size(1), slots.size(1));
  STD_TORCH_CHECK(x.size(1) <= room, "x: expected at most ", room, " beam slots, found ", x.size(1));
  STD_TORCH_CHECK(position >= 0, "position: expected at least 0, found ", position);
  const auto* slot = static_cast<const int64_t*>(slots.const_data_ptr());
  const bool is_inside = std::all_of(slot, slot + slots.numel(), [&](int64_t s) { return 0 <= s && s < buffer.size(1); });
  STD_TORCH_CHECK(is_inside, "slots: expected numbers of beam slots, 0 to ", buffer.size(1) - 1);
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
  run_tasks(s, kernels().step, s.num_sentences * s.num_heads, work, scratch_bytes_of_step(s));
  append_slots(s, slots);
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
  const Tensor inputs = torch::stable::contiguous(x), rows = torch::stable::contiguous(logits);
  Step s = step_of(inputs, buffer, slots, num_heads, position);
  s.softmax = softmax;
  s.logits = rows.const_data_ptr();
  return run_step(s, inputs, slots);
}

Tensor light_conv_step(Tensor x, Tensor weight, Tensor buffer, Tensor slots, int64_t position, bool softmax) {
  check_state(x, buffer, slots, position);
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected shape (H, K), found ", shape_of(weight.sizes()));
  check_shape("weight", weight, {weight.size(0), buffer.size(2) + 1});
  check_dividing("weight", weight.size(0), x);
  if (weight.scalar_type() != ScalarType::Float) check_dtype("weight", weight, x.scalar_type());
  const Tensor inputs = torch::stable::contiguous(x), taps = weight_for(x, weight);
  Step s = step_of(inputs, buffer, slots, weight.size(0), position);
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
