// The operators, a task at a time. Included by one file per instruction set.
//
// A task packs what it reads (x, grad_y) into scratch memory: float whatever the storage, a head's channels side by
// side, zeros where the formula reads zeros. All else works on packed rows, so that strides, half precision, odd widths
// and lengths are dealt with in one place.
#pragma once

#include "task.h"

namespace dynconv_mt::cpu {
namespace {

template <int K, typename S, typename A>
void convolve(const Problem& p, const Task& task, const Taps<A>& taps, const Packed<A>& x, const Block& block) {
  for (int64_t t = task.begin; t < task.end; t += 2) {
    prefetch_next<S>(p.x, task, t, block.first + block.width, block.width);
    prefetch_next_logits<S>(p, task, t);
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
    prefetch_next<S>(p.x, task, s, block.first + block.width, block.width);
    prefetch_next<S>(p.grad_y, task, s, block.first + block.width, block.width);
    prefetch_next_logits<S>(p, task, s);
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

// Adds the block's share of the gradients by the taps of dynamic_conv, or of light_conv with DropConnect: rows of
// positions task.begin …, `pitch` apart. Columns -1 and K are not taps; they lie where rows have zeros.
template <typename A>
void correlate_each(
    const Problem& p, const Task& task, const Packed<A>& grad_y, const Packed<A>& x, int64_t num_vectors, A* grads) {
  const int64_t pitch = pitch_of<A>(p.kernel_size);
  for (int64_t t = task.begin; t < task.end; t += 2) {
    const int64_t origin = t - p.padding_left;  // the position that tap 0 of position t reads
    const int64_t first = most(x.begin - origin, 0) / 4 * 4, last = least(x.end - origin, p.kernel_size + 1);
    A* row = grads + (t - task.begin) * pitch;
    for (int64_t j = first; j < last; j += 4) {
      correlate(grad_y.at(t), x.at(origin + j), x.pitch, 1, num_vectors, row + j, row + pitch + j - 1);
    }
  }
}

// Adds the block's share of the gradient by the taps of light_conv without DropConnect: one row for all positions.
template <typename A>
void correlate_all(
    const Problem& p, const Task& task, const Packed<A>& grad_y, const Packed<A>& x, int64_t num_vectors, A* grads) {
  for (int64_t j = 0; j <= p.kernel_size; j += 4) {
    const int64_t shift = j - p.padding_left;  // grad_y[t] meets x[t + shift … t + shift + 3]
    const int64_t skipped = most(x.begin - 3 - shift - task.begin, 0) / 2 * 2;
    const int64_t begin = task.begin + skipped, end = least(task.end, x.end - shift);
    if (end <= begin) continue;
    const int64_t num_pairs = (end - begin + 1) / 2;
    correlate(grad_y.at(begin), x.at(begin + shift), x.pitch, num_pairs, num_vectors, grads + j, grads + j - 1);
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
    clear_guards(x);
    clear_guards(grad_y);
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
