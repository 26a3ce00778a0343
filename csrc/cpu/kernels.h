// The operators, a task at a time. Included by one file per instruction set, which sets KERNELS to a name of its own.
//
// A task packs what it reads (x, grad_y) into scratch memory: float whatever the storage, a head's channels side by
// side, zeros where the formula reads zeros. All else works on packed rows, so that strides, half precision, odd widths
// and lengths are dealt with in one place.
#pragma once

#include "tiles.h"

namespace dynconv_mt::cpu {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

struct Range {
  int64_t begin;
  int64_t end;
};

inline Range clip(Range range, int64_t limit) {
  const int64_t begin = least(most(range.begin, 0), limit);
  return {begin, most(least(range.end, limit), begin)};
}

struct Task {
  int64_t number;
  int64_t sentence;
  int64_t head;
  int64_t begin;  // positions begin … end - 1
  int64_t end;
  int64_t length;  // positions of x from here on are zeros

  Task(const Problem& p, int64_t number) : number(number) {
    const int64_t chunk = number / p.num_heads % num_chunks(p);
    head = number % p.num_heads;
    sentence = number / p.num_heads / num_chunks(p);
    begin = chunk * kChunk;
    end = least(begin + kChunk, p.num_positions);
    length = p.lengths ? most(least(p.lengths[sentence], p.num_positions), 0) : p.num_positions;
  }

  // The positions of x that y[begin … end - 1] reads.
  Range inputs(const Problem& p) const {
    return clip({begin - p.padding_left, end + p.kernel_size - p.padding_left}, length);
  }

  // The positions of y that read x[begin … end - 1], and those of the task itself.
  Range outputs(const Problem& p) const {
    const int64_t left = p.kernel_size - 1 - p.padding_left;
    return clip({least(begin - left, begin), most(end + 1 + p.padding_left, end)}, p.num_positions);
  }
};

// How much scratch memory a task takes, and its parts.
template <typename A>
struct Scratch {
  int64_t pitch;
  int64_t num_rows;  // at most so many positions are packed at once
  int64_t packed;    // numbers of a packed stretch
  int64_t taps;      // numbers of the taps of a stretch, with guards

  explicit Scratch(const Problem& p) {
    const int64_t chunk = least(kChunk, p.num_positions);
    const int64_t left = p.padding_left, right = p.kernel_size - 1 - left;
    const int64_t reach = most(p.kernel_size, most(left, right) + 1);
    pitch = pitch_of<A>(p.kernel_size);
    num_rows = least(chunk + reach + 1, p.num_positions);
    packed = (num_rows + 2 * kGuard) * kBlock<A>;
    taps = kGuard * kBlock<A> + (num_rows + 2) * pitch;
  }
  // x, grad_y; taps, taps before DropConnect, gradients by taps
  size_t bytes() const { return static_cast<size_t>(2 * packed + 3 * taps) * sizeof(A); }
};

// The final taps of a stretch of positions: a row each, or one row for all (pitch 0), zeros before and behind.
template <typename A>
struct Taps {
  const A* rows;  // of position `begin`
  const A* plain;  // the same before DropConnect
  int64_t begin;
  int64_t pitch;

  const A* at(int64_t position) const { return rows + (position - begin) * pitch; }
};

template <typename A>
void clear(A* target, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<A>) store(target + i, Vec<A>{});
}

template <typename A>
void copy(A* target, const A* source, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<A>) store(target + i, load(source + i));
}

template <typename S, typename A>
Taps<A> make_taps(const Problem& p, const Task& task, Range range, A* scratch) {
  const Scratch<A> sizes(p);
  const int64_t pitch = sizes.pitch, count = range.end - range.begin;
  A* rows = scratch + kLanes<A>;
  A* plain = rows + sizes.taps;
  clear(scratch, kLanes<A>);
  if (!p.weight) {
    dynamic_rows<S>(p, task.sentence, task.head, range.begin, count, rows, pitch);
    if (p.drop.is_on) copy(plain, rows, count * pitch);
  } else {
    light_row(p, task.head, plain, pitch);
    if (!p.drop.is_on) {
      copy(rows, plain, pitch);
      return {rows, rows, range.begin, 0};
    }
    for (int64_t i = 0; i < count; ++i) copy(rows + i * pitch, plain, pitch);
  }
  clear(rows + count * pitch, pitch);
  if (!p.drop.is_on) return {rows, rows, range.begin, pitch};
  drop_rows(p, task.sentence, task.head, range.begin, count, rows, pitch);
  return {rows, plain, range.begin, pitch};
}

// Channels first … first + width - 1 of a head that are packed together.
struct Block {
  int64_t first;
  int64_t width;
  int64_t num_vectors;
};

template <typename A>
Block block_at(const Problem& p, const Task& task, int64_t offset) {
  const int64_t head_width = p.num_channels / p.num_heads;
  const int64_t width = least(kBlock<A>, head_width - offset);
  return {task.head * head_width + offset, width, (width + kLanes<A> - 1) / kLanes<A>};
}

template <typename S>
Output<S> output_at(void* data, const Problem& p, const Task& task, int64_t t, const Block& block, int64_t end) {
  S* at = static_cast<S*>(data) + (task.sentence * p.num_positions + t) * p.num_channels + block.first;
  return {at, p.num_channels, least(2, end - t), block.width};
}

template <int K, typename S, typename A>
void convolve(const Problem& p, const Task& task, const Taps<A>& taps, const Packed<A>& x, const Block& block) {
  for (int64_t t = task.begin; t < task.end; t += 2) {
    const Band<A> band = {taps.at(t), taps.pitch - 1, 1};
    const Output<S> y = output_at<S>(p.y, p, task, t, block, task.end);
    multiply_pair<K>(x, t - p.padding_left, band, p.kernel_size, block.num_vectors, y);
  }
}

// The same with the transposed band: the gradient by x. Padding has none.
template <int K, typename S, typename A>
void convolve_transposed(
    const Problem& p, const Task& task, const Taps<A>& taps, const Packed<A>& grad_y, const Block& block) {
  const int64_t end = most(least(task.end, task.length), task.begin);
  for (int64_t s = task.begin; s < end; s += 2) {
    const int64_t origin = s - (p.kernel_size - 1 - p.padding_left);
    const Band<A> band = {taps.at(origin) + p.kernel_size - 1, 1, taps.pitch - 1};
    const Output<S> grad_x = output_at<S>(p.grad_x, p, task, s, block, end);
    multiply_pair<K>(grad_y, origin, band, p.kernel_size, block.num_vectors, grad_x);
  }
  for (int64_t s = end; s < task.end; ++s) {
    S* row = output_at<S>(p.grad_x, p, task, s, block, task.end).at;
    for (int64_t c = 0; c < block.width; ++c) row[c] = S{};
  }
}

template <typename S, typename A>
using Multiply = void (*)(const Problem&, const Task&, const Taps<A>&, const Packed<A>&, const Block&);

template <typename S, typename A>
Multiply<S, A> convolve_for(int64_t kernel_size) {
  switch (kernel_size) {
    case 3: return convolve<3, S, A>;
    case 7: return convolve<7, S, A>;
    case 15: return convolve<15, S, A>;
    case 31: return convolve<31, S, A>;
    default: return convolve<0, S, A>;
  }
}

template <typename S, typename A>
Multiply<S, A> convolve_transposed_for(int64_t kernel_size) {
  switch (kernel_size) {
    case 3: return convolve_transposed<3, S, A>;
    case 7: return convolve_transposed<7, S, A>;
    case 15: return convolve_transposed<15, S, A>;
    case 31: return convolve_transposed<31, S, A>;
    default: return convolve_transposed<0, S, A>;
  }
}

template <typename S, typename A>
void forward_task(const Problem& p, const Task& task, A* scratch) {
  const Multiply<S, A> convolve_block = convolve_for<S, A>(p.kernel_size);
  A* packed = scratch;
  const Taps<A> taps = make_taps<S>(p, task, {task.begin, task.end}, scratch + 2 * Scratch<A>(p).packed);
  const Range range = task.inputs(p);
  for (int64_t offset = 0; offset < p.num_channels / p.num_heads; offset += kBlock<A>) {
    const Block block = block_at<A>(p, task, offset);
    const Packed<A> x = pack<S>(p.x, task.sentence, block.first, block.width, range.begin, range.end, packed);
    convolve_block(p, task, taps, x, block);
  }
}

template <typename A>
using Correlate = void (*)(const A*, const A*, int64_t, int64_t, A*);

template <typename A>
Correlate<A> correlate_for(int64_t num_vectors) {
  switch (num_vectors) {
    case kMaxVectors / 2: return correlate<kMaxVectors / 2, A>;
    case kMaxVectors: return correlate<kMaxVectors, A>;
    default: return correlate<0, A>;
  }
}

// Adds the block's share of the gradients by the taps of dynamic_conv, or of light_conv with DropConnect: rows of
// positions task.begin …, `pitch` apart. Columns -1 and K are not taps; they lie where rows have zeros.
template <typename A>
void correlate_each(
    const Problem& p, const Task& task, const Packed<A>& grad_y, const Packed<A>& x, int64_t num_vectors, A* grads) {
  const int64_t pitch = pitch_of<A>(p.kernel_size);
  const Correlate<A> products = correlate_for<A>(num_vectors);
  for (int64_t t = task.begin; t < task.end; t += 2) {
    const int64_t origin = t - p.padding_left;  // the position that tap 0 of position t reads
    const int64_t first = most(x.begin - origin, 0) / 4 * 4, last = least(x.end - origin, p.kernel_size + 1);
    A* row = grads + (t - task.begin) * pitch;
    for (int64_t j = first; j < last; j += 4) {
      A sums[8];
      products(grad_y.at(t), x.at(origin + j), 1, num_vectors, sums);
      for (int q = 0; q < 4; ++q) row[j + q] += sums[q];
      for (int q = 0; q < 4; ++q) row[pitch + j + q - 1] += sums[4 + q];
    }
  }
}

// Adds the block's share of the gradient by the taps of light_conv without DropConnect: one row for all positions.
template <typename A>
void correlate_all(
    const Problem& p, const Task& task, const Packed<A>& grad_y, const Packed<A>& x, int64_t num_vectors, A* grads) {
  const Correlate<A> products = correlate_for<A>(num_vectors);
  for (int64_t j = 0; j <= p.kernel_size; j += 4) {
    const int64_t shift = j - p.padding_left;  // grad_y[t] meets x[t + shift … t + shift + 3]
    const int64_t skipped = most(x.begin - 3 - shift - task.begin, 0) / 2 * 2;
    const int64_t begin = task.begin + skipped, end = least(task.end, x.end - shift);
    if (end <= begin) continue;
    A sums[8];
    products(grad_y.at(begin), x.at(begin + shift), (end - begin + 1) / 2, num_vectors, sums);
    for (int q = 0; q < 4; ++q) grads[j + q] += sums[q];
    for (int q = 0; q < 4; ++q) grads[j + q - 1] += sums[4 + q];
  }
}

template <typename S, typename A>
void write_grad_logits(const Problem& p, const Task& task, const A* grads, int64_t pitch) {
  for (int64_t t = task.begin; t < task.end; ++t, grads += pitch) {
    const int64_t row = (task.sentence * p.num_positions + t) * p.num_heads + task.head;
    S* target = static_cast<S*>(p.grad_logits) + row * p.kernel_size;
    int64_t k = 0;
    for (; k + kLanes<A> <= p.kernel_size; k += kLanes<A>) store(target + k, load(grads + k));
    if (k < p.kernel_size) store_some(target + k, load(grads + k), p.kernel_size - k);
  }
}

// From gradients by final taps to gradients by logits, or to the task's share of those by light_conv's taps.
template <typename S, typename A>
void finish_grads(const Problem& p, const Task& task, const Taps<A>& taps, A* grads) {
  const int64_t pitch = pitch_of<A>(p.kernel_size), count = task.end - task.begin;
  if (p.drop.is_on) drop_rows(p, task.sentence, task.head, task.begin, count, grads, pitch);
  if (!p.weight) {
    const A* plain = taps.plain + (task.begin - taps.begin) * pitch;
    if (p.softmax) softmax_rows_backward(grads, plain, count, pitch, pitch);
    return write_grad_logits<S>(p, task, grads, pitch);
  }
  A* share = static_cast<A*>(p.partial) + task.number * p.kernel_size;
  for (int64_t k = 0; k < p.kernel_size; ++k) share[k] = A(0);
  for (int64_t i = 0; i < (taps.pitch ? count : 1); ++i) {
    for (int64_t k = 0; k < p.kernel_size; ++k) share[k] += grads[i * pitch + k];
  }
}

template <typename S, typename A>
void backward_task(const Problem& p, const Task& task, A* scratch) {
  const Scratch<A> sizes(p);
  const Multiply<S, A> convolve_block = convolve_transposed_for<S, A>(p.kernel_size);
  const Range inputs = task.inputs(p), outputs = task.outputs(p);
  A* const packed_x = scratch;
  A* const packed_y = packed_x + sizes.packed;
  const Taps<A> taps = make_taps<S>(p, task, outputs, packed_y + sizes.packed);
  A* const grads = packed_y + sizes.packed + 2 * sizes.taps + kLanes<A>;
  clear(grads - kLanes<A>, kLanes<A> + (task.end - task.begin + 1) * sizes.pitch + kLanes<A>);
  for (int64_t offset = 0; offset < p.num_channels / p.num_heads; offset += kBlock<A>) {
    const Block block = block_at<A>(p, task, offset);
    const Packed<A> x = pack<S>(p.x, task.sentence, block.first, block.width, inputs.begin, inputs.end, packed_x);
    const Packed<A> grad_y =
        pack<S>(p.grad_y, task.sentence, block.first, block.width, outputs.begin, outputs.end, packed_y);
    convolve_block(p, task, taps, grad_y, block);
    (taps.pitch ? correlate_each<A> : correlate_all<A>)(p, task, grad_y, x, block.num_vectors, grads);
  }
  finish_grads<S>(p, task, taps, grads);
}

template <typename S, typename A>
void forward_tasks(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  for (int64_t i = begin; i < end; ++i) forward_task<S>(p, Task(p, i), static_cast<A*>(scratch));
}

template <typename S, typename A>
void backward_tasks(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  for (int64_t i = begin; i < end; ++i) backward_task<S>(p, Task(p, i), static_cast<A*>(scratch));
}

// Sums the tasks' shares in double precision, always in the same order, then takes the gradient of the softmax.
template <typename A>
void finish_weight_of(const Problem& p) {
  const A* partial = static_cast<const A*>(p.partial);
  const A* weight = static_cast<const A*>(p.weight);
  A* grad = static_cast<A*>(p.grad_weight);
  const int64_t num_groups = p.num_sentences * num_chunks(p), size = p.num_heads * p.kernel_size;
  for (int64_t i = 0; i < size; ++i) {
    double total = 0.0;
    for (int64_t group = 0; group < num_groups; ++group) total += partial[group * size + i];
    grad[i] = static_cast<A>(total);
  }
  if (!p.softmax) return;
  for (int64_t h = 0; h < p.num_heads; ++h, weight += p.kernel_size, grad += p.kernel_size) {
    double top = weight[0], total = 0.0, mean = 0.0;
    for (int64_t k = 1; k < p.kernel_size; ++k) top = weight[k] > top ? weight[k] : top;
    for (int64_t k = 0; k < p.kernel_size; ++k) {
      const double exponential = __builtin_exp(weight[k] - top);
      total += exponential;
      mean += exponential * grad[k];
    }
    for (int64_t k = 0; k < p.kernel_size; ++k) {
      grad[k] = static_cast<A>(__builtin_exp(weight[k] - top) / total * (grad[k] - mean / total));
    }
  }
}

void forward(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  switch (p.storage) {
    case Storage::kFloat32: return forward_tasks<float, float>(p, begin, end, scratch);
    case Storage::kFloat64: return forward_tasks<double, double>(p, begin, end, scratch);
    case Storage::kBFloat16: return forward_tasks<BFloat16, float>(p, begin, end, scratch);
    case Storage::kFloat16: return forward_tasks<Float16, float>(p, begin, end, scratch);
  }
}

void backward(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  switch (p.storage) {
    case Storage::kFloat32: return backward_tasks<float, float>(p, begin, end, scratch);
    case Storage::kFloat64: return backward_tasks<double, double>(p, begin, end, scratch);
    case Storage::kBFloat16: return backward_tasks<BFloat16, float>(p, begin, end, scratch);
    case Storage::kFloat16: return backward_tasks<Float16, float>(p, begin, end, scratch);
  }
}

size_t scratch_bytes(const Problem& p) {
  return p.storage == Storage::kFloat64 ? Scratch<double>(p).bytes() : Scratch<float>(p).bytes();
}

void finish_weight(const Problem& p) {
  return p.storage == Storage::kFloat64 ? finish_weight_of<double>(p) : finish_weight_of<float>(p);
}

}  // namespace
}  // namespace dynconv_mt::cpu
