// What the kernels are asked to do, in plain structs.
//
// Shapes: B sentences, T positions, C channels, H heads, E = C / H channels of a head, K taps.
#pragma once

#include <cstdint>

#include "../dtypes.h"

namespace dynconv_mt::cuda {

constexpr int kVectorBytes = 16;  // what a thread reads or writes at once

// A tensor (B, T, N) of any strides, in elements.
struct Input {
  const void* data;
  int64_t sentence;
  int64_t position;
  int64_t element;
  bool is_aligned;  // the channels of every head are whole vectors at addresses that are multiples of 16 bytes
};

// dynconv_mt/ops/dropconnect.py defines the mask.
struct DropConnect {
  const int64_t* seed;  // on the device; null without dropout
  uint32_t threshold;   // a tap is dropped if its bits are below
  double scale;         // what the others are multiplied by
};

// Pointers that an operator has no use for are null. `weight`, `grad_weight`, `taps` and `partial` are contiguous, in
// the precision of the arithmetic: double for float64, else float.
struct Problem {
  int64_t num_sentences;
  int64_t num_positions;
  int64_t num_channels;
  int64_t num_heads;
  int kernel_size;
  int64_t padding_left;
  bool softmax;
  DropConnect drop;
  Storage storage;         // of x, logits, y and their gradients
  const int64_t* lengths;  // (B,)
  Input x;
  Input logits;        // dynamic_conv only
  const void* weight;  // light_conv only: (H, K)
  Input grad_y;        // backward only
  void* y;             // (B, T, C), contiguous as the others below
  void* grad_x;
  void* grad_logits;  // (B, T, H·K)
  void* grad_weight;  // (H, K)
  void* taps;         // scratch of Work::taps numbers
  void* partial;      // scratch of Work::partial numbers
};

// A step of decoding, with W beam slots and N new positions of each; dynconv_mt/ops/decoding.py says what the state is.
// All tensors are contiguous.
struct Step {
  int64_t num_sentences;
  int64_t num_slots;  // W
  int64_t num_new;    // N
  int64_t num_channels;
  int64_t num_heads;
  int kernel_size;
  int64_t beam;      // slots of the buffer
  int64_t ancestry;  // slots of `slots`
  int64_t position;  // inputs that there were before
  bool softmax;
  Storage storage;     // of x, logits and y
  bool is_wide;        // the buffer is in the precision of the arithmetic
  const void* x;       // (B, W, N, C)
  const void* logits;  // (B, W, N, H·K), dynamic_conv_step only
  const void* weight;  // (H, K) in the precision of the arithmetic, light_conv_step only
  void* buffer;        // (B, beam, K - 1, C)
  int64_t* slots;      // (B, ancestry, K - 1)
  void* y;             // (B, W, N, C)
};

// How many numbers of scratch memory an operator takes.
struct Work {
  int64_t taps;
  int64_t partial;
};

using Stream = void*;       // cudaStream_t
using Error = const char*;  // what went wrong, or null

Work forward_work(const Problem&);
Work backward_work(const Problem&);
Error forward(const Problem&, Stream);
Error backward(const Problem&, Stream);
Error step(const Step&, Stream);

}  // namespace dynconv_mt::cuda
