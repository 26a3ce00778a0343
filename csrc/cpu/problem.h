// What the kernels are asked to do, in plain structs that the module and every build of the kernels agree on.
//
// Shapes: B sentences, T positions, C channels, H heads, E = C / H channels of a head, K taps.
//
// The kernels are compiled once per instruction set. A function of the standard library, inline and compiled with
// AVX-512, might be the copy that the linker keeps for everybody, and would crash an older machine. Hence the rule for
// this header and all that the kernels include: no standard library beyond integers, nothing inline with linkage.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../dtypes.h"

namespace dynconv_mt::cpu {

// A tensor (B, T, N) of any strides, in elements.
struct Input {
  const void* data;
  int64_t sentence;
  int64_t position;
  int64_t element;
  const void* end;  // one past its last element: reading beyond a row is harmless below it
};

// dynconv_mt/ops/dropconnect.py defines the mask.
struct DropConnect {
  bool is_on;
  uint64_t seed;
  uint32_t threshold;  // a tap is dropped if its bits are below
  double scale;        // what the others are multiplied by
};

// Narrow heads of light_conv that tasks take as one: a vector holds channels of several, and taps are vectors as well,
// from a table in which row k is tap k of every channel.
struct Joined {
  int64_t count;      // heads to a joined one; 0: heads are not joined
  int64_t width;      // E
  int64_t num_heads;  // H
  void* taps;         // (joined heads, K, kJoinedBytes): a number to a channel, zeros behind the last
};

constexpr int64_t kJoinedBytes = 512;  // of a row of such a table

// Pointers that an operator has no use for are null. `weight`, `grad_weight` and `partial` are contiguous, in the
// precision of the arithmetic: double for float64, else float.
struct Problem {
  int64_t num_sentences;
  int64_t num_positions;
  int64_t num_channels;
  int64_t num_heads;   // joined ones count as one
  int64_t head_width;  // E, or that of joined heads; the last of them may have less
  int64_t kernel_size;
  int64_t padding_left;
  bool softmax;
  Joined joined;
  DropConnect drop;
  Storage storage;         // of x, logits, y and their gradients
  const int64_t* lengths;  // (B,)
  Input x;
  Input logits;        // dynamic_conv only
  const void* weight;  // light_conv only: (H, K)
  void* y;             // forward only: (B, T, C) contiguous, as the others below
  Input grad_y;        // from here on backward only
  void* grad_x;
  void* grad_logits;  // (B, T, H·K)
  void* partial;      // light_conv: (num_shares, H, K), each task's share of the gradient by its heads' taps
  void* grad_weight;  // light_conv: (H, K)
};

// A task is one head of one chunk of positions of one sentence; with joined heads, whose gradients by taps are large, of
// several short sentences. Where chunks begin depends on sizes alone, so results do not depend on the number of threads.
constexpr int64_t kChunk = 128;

static inline int64_t num_chunks(const Problem& p) { return (p.num_positions + kChunk - 1) / kChunk; }

// Sentences that a task takes one after another.
static inline int64_t num_together(const Problem& p) {
  const bool is_short = p.joined.count > 0 && p.num_positions > 0 && p.num_positions < kChunk;
  return is_short ? kChunk / p.num_positions : 1;
}

// The tasks of a head.
static inline int64_t num_shares(const Problem& p) {
  return (p.num_sentences + num_together(p) - 1) / num_together(p) * num_chunks(p);
}

static inline int64_t num_heads_of_weight(const Problem& p) {
  return p.joined.count ? p.joined.num_heads : p.num_heads;
}

static inline int64_t num_tasks(const Problem& p) { return num_shares(p) * p.num_heads; }

// A decoding step: N new positions of W beam slots. A task is one head of one sentence. All tensors are contiguous.
struct Step {
  int64_t num_sentences;
  int64_t num_slots;
  int64_t num_new;
  int64_t num_channels;
  int64_t num_heads;
  int64_t kernel_size;
  int64_t beam;      // slots of the buffer, at least W
  int64_t ancestry;  // rows of `slots` to a sentence, at least W
  int64_t position;  // number of the first new input
  bool softmax;
  bool is_wide;            // the buffer is in the precision of the arithmetic, whatever x is in
  Storage storage;         // of x, logits and y, and else of the buffer
  const void* x;           // (B, W, N, C)
  const void* logits;      // (B, W, N, H·K); dynamic_conv only
  const void* weight;      // (H, K); light_conv only
  const int64_t* slots;    // (B, ancestry, K - 1)
  void* buffer;            // (B, beam, K - 1, C)
  void* y;                 // (B, W, N, C)
};

// What a task of a step needs as scratch memory, whatever the instruction set: rows of taps, pointers to inputs.
static inline size_t scratch_bytes_of_step(const Step& s) {
  const int64_t longest_row = s.kernel_size + 64;
  return static_cast<size_t>(s.num_slots * s.num_new * longest_row + s.kernel_size + s.num_new) * sizeof(double);
}

// The kernels compiled for one instruction set. `forward`, `backward` and `step` run the tasks begin … end - 1 with
// `scratch_bytes` of scratch memory, aligned to 64 bytes, and `join` makes the taps of joined heads begin … end - 1;
// `finish_weight` sums the partial gradients of light_conv.
struct Kernels {
  const char* name;
  size_t (*scratch_bytes)(const Problem&);
  void (*join)(const Problem&, int64_t begin, int64_t end, void* scratch);
  void (*forward)(const Problem&, int64_t begin, int64_t end, void* scratch);
  void (*backward)(const Problem&, int64_t begin, int64_t end, void* scratch);
  void (*finish_weight)(const Problem&);
  void (*step)(const Step&, int64_t begin, int64_t end, void* scratch);
};

extern const Kernels kernels_portable;
#ifdef DYNCONV_MT_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

const Kernels& kernels();  // those for this machine, chosen when they are first asked for

}  // namespace dynconv_mt::cpu
