// dynamic_conv, light_conv and their backwards on the GPU: the dispatch key CUDA of the schemas that
// dynconv_mt/ops/library.py declares. Here tensors become plain structs. Nothing waits for the GPU, the seed and the
// lengths are read there, and memory comes from torch, so that calls can be captured in a CUDA graph.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../results.h"
#include "dispatch.h"

namespace dynconv_mt::cuda {
namespace {

// A tensor (B, T, N), cut into heads of `head_width` numbers.
Input input_of(const Tensor& tensor, int64_t head_width) {
  const auto size = static_cast<int64_t>(tensor.element_size());
  const auto is_multiple = [](int64_t bytes) { return bytes % kVectorBytes == 0; };
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()));
  const bool is_aligned = tensor.stride(2) == 1 && is_multiple(address) && is_multiple(head_width * size) &&
                          is_multiple(tensor.stride(0) * size) && is_multiple(tensor.stride(1) * size);
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2), is_aligned};
}

struct Options {
  int64_t padding_left;
  bool softmax;
  double dropout;
};

// What the call has besides tensors (B, T, …). They must outlive the problem.
struct Extras {
  Optional seed;
  Optional lengths;

  Extras(const Tensor& x, const Optional& given_seed, const Optional& given_lengths, const Options& options)
      : seed(checked_seed(x, given_seed, options.dropout)), lengths(contiguous_lengths(x, given_lengths)) {}
};

// The part of a problem that all operators share.
Problem problem_of(const Tensor& x, int64_t num_heads, int64_t kernel_size, const Options& options,
                   const Extras& extras) {
  Problem p = {};
  p.num_sentences = x.size(0);
  p.num_positions = x.size(1);
  p.num_channels = x.size(2);
  p.num_heads = num_heads;
  p.kernel_size = int_of(kernel_size);
  p.padding_left = clamped_padding(options.padding_left, x, kernel_size);
  p.softmax = options.softmax;
  p.drop = {pointer_to(extras.seed), drop_threshold(options.dropout), 1.0 / (1.0 - options.dropout)};
  p.storage = storage_of(x);
  p.lengths = pointer_to(extras.lengths);
  p.x = input_of(x, p.num_channels / num_heads);
  return p;
}

// Scratch memory, in the precision of the arithmetic.
Tensor scratch(const Tensor& x, int64_t count) { return torch::stable::new_empty(x, {count}, precision_of(x)); }

void run_forward(const char* name, const Tensor& x, const Device& device, Problem& p) {
  if (x.numel() == 0) return;
  const Tensor taps = scratch(x, forward_work(p).taps);
  p.taps = taps.mutable_data_ptr();
  check_launch(name, forward(p, device.stream()));
}

void run_backward(const char* name, const Tensor& x, const Device& device, Problem& p) {
  if (x.numel() == 0) return;
  const Work work = backward_work(p);
  const Tensor taps = scratch(x, work.taps), partial = scratch(x, work.partial);
  p.taps = taps.mutable_data_ptr();
  p.partial = partial.mutable_data_ptr();
  check_launch(name, backward(p, device.stream()));
}

Tensor dynamic_conv(Tensor x, Tensor logits, Optional seed, Optional lengths, int64_t kernel_size,
                    int64_t padding_left, bool softmax, double dropout) {
  const int64_t num_heads = heads_of_logits(x, logits, kernel_size);
  check_device("logits", logits, x);
  const Device device(x);
  const Options options = {padding_left, softmax, dropout};
  const Extras extras(x, seed, lengths, options);
  const Tensor y = new_like(x);
  Problem p = problem_of(x, num_heads, kernel_size, options, extras);
  p.logits = input_of(logits, kernel_size);
  p.y = y.mutable_data_ptr();
  run_forward("dynamic_conv", x, device, p);
  return y;
}

std::tuple<Tensor, Tensor> dynamic_conv_backward(Tensor grad_y, Tensor x, Tensor logits, Optional seed,
                                                 Optional lengths, int64_t kernel_size, int64_t padding_left,
                                                 bool softmax, double dropout) {
  const int64_t num_heads = heads_of_logits(x, logits, kernel_size);
  check_grad(grad_y, x);
  check_device("logits", logits, x);
  check_device("grad_y", grad_y, x);
  const Device device(x);
  const Options options = {padding_left, softmax, dropout};
  const Extras extras(x, seed, lengths, options);
  const Tensor grad_x = new_like(x), grad_logits = new_gradient(logits, x);
  Problem p = problem_of(x, num_heads, kernel_size, options, extras);
  p.logits = input_of(logits, kernel_size);
  p.grad_y = input_of(grad_y, p.num_channels / num_heads);
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_logits = grad_logits.mutable_data_ptr();
  run_backward("dynamic_conv_backward", x, device, p);
  return {grad_x, grad_logits};
}

Tensor light_conv(Tensor x, Tensor weight, Optional seed, Optional lengths, int64_t padding_left, bool softmax,
                  double dropout) {
  check_x(x);
  const int64_t num_heads = heads_of_weight(x, weight);
  const Device device(x);
  const Options options = {padding_left, softmax, dropout};
  const Extras extras(x, seed, lengths, options);
  const Tensor taps = weight_for(x, weight), y = new_like(x);
  Problem p = problem_of(x, num_heads, weight.size(1), options, extras);
  p.weight = taps.const_data_ptr();
  p.y = y.mutable_data_ptr();
  run_forward("light_conv", x, device, p);
  return y;
}

std::tuple<Tensor, Tensor> light_conv_backward(Tensor grad_y, Tensor x, Tensor weight, Optional seed,
                                               Optional lengths, int64_t padding_left, bool softmax, double dropout) {
  check_x(x);
  const int64_t num_heads = heads_of_weight(x, weight);
  check_grad(grad_y, x);
  check_device("grad_y", grad_y, x);
  const Device device(x);
  const Options options = {padding_left, softmax, dropout};
  const Extras extras(x, seed, lengths, options);
  const Tensor taps = weight_for(x, weight), grad_x = new_like(x), grad_taps = new_gradient(taps, x);
  Problem p = problem_of(x, num_heads, weight.size(1), options, extras);
  p.weight = taps.const_data_ptr();
  p.grad_y = input_of(grad_y, p.num_channels / num_heads);
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_weight = grad_taps.mutable_data_ptr();
  run_backward("light_conv_backward", x, device, p);
  return {grad_x, torch::stable::to(grad_taps, weight.scalar_type())};
}

}  // namespace
}  // namespace dynconv_mt::cuda

#ifdef DYNCONV_MT_ARCHS
// What the library was compiled for: dynconv_mt/ops/build.py looks for it.
extern "C" __attribute__((visibility("default"))) const char dynconv_mt_archs[] = "dynconv_mt archs " DYNCONV_MT_ARCHS;
#endif

DYNCONV_MT_LIBRARY_IMPL(library) {
  library.impl("dynamic_conv", TORCH_BOX(&dynconv_mt::cuda::dynamic_conv));
  library.impl("dynamic_conv_backward", TORCH_BOX(&dynconv_mt::cuda::dynamic_conv_backward));
  library.impl("light_conv", TORCH_BOX(&dynconv_mt::cuda::light_conv));
  library.impl("light_conv_backward", TORCH_BOX(&dynconv_mt::cuda::light_conv_backward));
}
