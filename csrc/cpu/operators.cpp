// dynamic_conv, light_conv and their backwards on the CPU: the dispatch key CPU of the schemas that
// dynconv_mt/ops/library.py declares. Here tensors become plain structs.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../results.h"
#include "dispatch.h"

namespace dynconv_mt::cpu {
namespace {

struct Options {
  bool softmax;
  double dropout;
};

Input input_of(const Tensor& tensor) {
  const char* data = static_cast<const char*>(tensor.const_data_ptr());
  int64_t last = 0;
  for (int64_t d = 0; d < 3; ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  const char* end = tensor.numel() == 0 ? data : data + (last + 1) * static_cast<int64_t>(tensor.element_size());
  return {data, tensor.stride(0), tensor.stride(1), tensor.stride(2), end};
}

DropConnect drop_connect(const Tensor& x, double dropout, const Optional& seed) {
  const Optional checked = checked_seed(x, seed, dropout);
  if (!checked) return {false, 0, 0, 1.0};
  return {true, static_cast<uint64_t>(*pointer_to(checked)), drop_threshold(dropout), 1.0 / (1.0 - dropout)};
}

// The part of a problem that all operators share. The tensors must outlive it.
Problem problem_of(const Tensor& x, int64_t num_heads, int64_t kernel_size, int64_t padding_left, Options options) {
  Problem p = {};
  p.num_sentences = x.size(0);
  p.num_positions = x.size(1);
  p.num_channels = x.size(2);
  p.num_heads = num_heads;
  p.head_width = x.size(2) / num_heads;
  p.kernel_size = kernel_size;
  p.padding_left = clamped_padding(padding_left, x, kernel_size);
  p.softmax = options.softmax;
  p.storage = storage_of(x);
  p.x = input_of(x);
  return p;
}

// Lets tasks of light_conv take narrow heads together, and returns the memory of their taps. In float64, where nobody is
// in a hurry, heads stay as they are.
Tensor join_heads(Problem& p, const Tensor& weight) {
  const int64_t narrow = p.drop.is_on ? 8 : 16;  // channels; with DropConnect each of them draws its head's taps anew
  const int64_t row = kJoinedBytes / static_cast<int64_t>(weight.element_size()), num_heads = p.num_heads;
  const bool is_narrow = p.num_heads > 1 && p.head_width > 0 && p.head_width <= narrow;
  if (!is_narrow || p.storage == Storage::kFloat64) return torch::stable::new_empty(weight, {0});
  const int64_t fitting = row / p.head_width;  // heads to a row; shared out evenly
  p.num_heads = (num_heads + fitting - 1) / fitting;
  p.joined = {(num_heads + p.num_heads - 1) / p.num_heads, p.head_width, num_heads, nullptr};
  p.head_width *= p.joined.count;
  const Tensor taps = torch::stable::new_empty(weight, {p.num_heads, p.kernel_size, row});
  p.joined.taps = taps.mutable_data_ptr();
  run_in_parallel(p, kernels().join, p.num_heads, row * p.kernel_size, kernels().scratch_bytes(p));
  return taps;
}

// Runs all tasks of a problem.
void run(const Problem& p, Tasks<Problem> tasks) {
  if (p.num_sentences * p.num_positions * p.num_channels == 0) return;
  const int64_t positions = std::min(kChunk, p.num_positions) * num_together(p);
  const int64_t work = positions * (p.head_width + 8) * p.kernel_size;
  run_in_parallel(p, tasks, num_tasks(p), work, kernels().scratch_bytes(p));
}

Tensor dynamic_conv(Tensor x, Tensor logits, Optional seed, Optional lengths, int64_t kernel_size,
                    int64_t padding_left, bool softmax, double dropout) {
  const int64_t num_heads = heads_of_logits(x, logits, kernel_size);
  const Optional ends = contiguous_lengths(x, lengths);
  const Tensor y = new_like(x);
  Problem p = problem_of(x, num_heads, kernel_size, padding_left, {softmax, dropout});
  p.drop = drop_connect(x, dropout, seed);
  p.lengths = pointer_to(ends);
  p.logits = input_of(logits);
  p.y = y.mutable_data_ptr();
  run(p, kernels().forward);
  return y;
}

std::tuple<Tensor, Tensor> dynamic_conv_backward(Tensor grad_y, Tensor x, Tensor logits, Optional seed,
                                                 Optional lengths, int64_t kernel_size, int64_t padding_left,
                                                 bool softmax, double dropout) {
  const int64_t num_heads = heads_of_logits(x, logits, kernel_size);
  check_grad(grad_y, x);
  const Optional ends = contiguous_lengths(x, lengths);
  const Tensor grad_x = new_like(x), grad_logits = new_gradient(logits, x);
  Problem p = problem_of(x, num_heads, kernel_size, padding_left, {softmax, dropout});
  p.drop = drop_connect(x, dropout, seed);
  p.lengths = pointer_to(ends);
  p.logits = input_of(logits);
  p.grad_y = input_of(grad_y);
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_logits = grad_logits.mutable_data_ptr();
  run(p, kernels().backward);
  return {grad_x, grad_logits};
}

Tensor light_conv(Tensor x, Tensor weight, Optional seed, Optional lengths, int64_t padding_left, bool softmax,
                  double dropout) {
  check_x(x);
  const int64_t num_heads = heads_of_weight(x, weight);
  const Optional ends = contiguous_lengths(x, lengths);
  const Tensor taps = weight_for(x, weight), y = new_like(x);
  Problem p = problem_of(x, num_heads, weight.size(1), padding_left, {softmax, dropout});
  p.drop = drop_connect(x, dropout, seed);
  p.lengths = pointer_to(ends);
  p.weight = taps.const_data_ptr();
  const Tensor joined = join_heads(p, taps);
  p.y = y.mutable_data_ptr();
  run(p, kernels().forward);
  return y;
}

std::tuple<Tensor, Tensor> light_conv_backward(Tensor grad_y, Tensor x, Tensor weight, Optional seed,
                                               Optional lengths, int64_t padding_left, bool softmax, double dropout) {
  check_x(x);
  const int64_t num_heads = heads_of_weight(x, weight), kernel_size = weight.size(1);
  check_grad(grad_y, x);
  const Optional ends = contiguous_lengths(x, lengths);
  const Tensor taps = weight_for(x, weight), grad_x = new_like(x), grad_taps = new_gradient(taps, x);
  Problem p = problem_of(x, num_heads, kernel_size, padding_left, {softmax, dropout});
  p.drop = drop_connect(x, dropout, seed);
  p.lengths = pointer_to(ends);
  p.weight = taps.const_data_ptr();
  const Tensor joined = join_heads(p, taps);
  const Tensor partial = torch::stable::new_empty(taps, {num_shares(p), num_heads, kernel_size});
  p.grad_y = input_of(grad_y);
  p.grad_x = grad_x.mutable_data_ptr();
  p.partial = partial.mutable_data_ptr();
  p.grad_weight = grad_taps.mutable_data_ptr();
  run(p, kernels().backward);
  if (x.numel() > 0) kernels().finish_weight(p);
  return {grad_x, torch::stable::to(grad_taps, weight.scalar_type())};
}

}  // namespace
}  // namespace dynconv_mt::cpu

STABLE_TORCH_LIBRARY_IMPL(dynconv_mt, CPU, library) {
  library.impl("dynamic_conv", TORCH_BOX(&dynconv_mt::cpu::dynamic_conv));
  library.impl("dynamic_conv_backward", TORCH_BOX(&dynconv_mt::cpu::dynamic_conv_backward));
  library.impl("light_conv", TORCH_BOX(&dynconv_mt::cpu::light_conv));
  library.impl("light_conv_backward", TORCH_BOX(&dynconv_mt::cpu::light_conv_backward));
}
