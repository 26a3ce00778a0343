// The operators, a run at a time. Included by one file per instruction set.
//
// Strides, half precision, odd widths and lengths are dealt with where rows are packed; all else works on packed rows.
#pragma once

#include "run.h"

namespace dynconv_mt::cpu {
namespace {

// A band, or a transposed one, from position `begin` on: rows of y and of taps go together.
template <typename A>
struct Bands {
  const A* at;
  int64_t begin;
  int64_t step;  // from position to position
  int64_t row;
  int64_t column;
  int64_t shift;  // y[t] reads x[t - shift … t - shift + K - 1]
};

template <typename A>
Bands<A> forward_bands(const Problem& p, const TapRows<A>& taps, int64_t head, int64_t begin) {
  return {taps.rows + taps.offset(head, begin), begin, taps.pitch, taps.pitch - 1, 1, p.padding_left};
}

template <typename A>
Bands<A> transposed_bands(const Problem& p, const TapRows<A>& taps, int64_t head, int64_t begin) {
  const int64_t last = p.kernel_size - 1, shift = last - p.padding_left;
  return {taps.rows + taps.offset(head, begin - shift) + last, begin, taps.pitch, 1, taps.pitch - 1, shift};
}

// y at the positions of a group.
template <int R, int K, typename A, typename S>
void multiply_group(const Strip<A>& x, const Block& block, const Bands<A>& bands, Range group, int64_t kernel_size,
                    Output<S> y) {
  for (int64_t t = group.begin; t < group.end; t += R, y.at += R * y.pitch) {
    for (int r = 0; r < R; ++r) prefetch_row<1>(y.at + (r + kAhead) * y.pitch, y.width);
    const int64_t origin = t - bands.shift;
    const Columns columns = {x.range.begin - origin, x.range.end - origin};
    const Band<A> band = {bands.at + (t - bands.begin) * bands.step, bands.row, bands.column};
    const int64_t num_taps = K > 0 ? K : kernel_size, width = num_taps + R - 1;
    y.count = group.end - t;
    if (columns.begin <= 0 && columns.end >= width) {  // which the compiler then knows
      multiply_block<R>(x.at(block, origin), x.pitch, band, num_taps, {0, width}, y);
    } else {
      multiply_block<R>(x.at(block, origin), x.pitch, band, num_taps, columns, y);
    }
  }
}

// Kernels too short for tiles of kRows rows take two.
template <int K, typename A, typename S>
void multiply_group(const Strip<A>& x, const Block& block, const Bands<A>& bands, Range group, int64_t kernel_size,
                    Output<S> y) {
  if (kernel_size >= kRows - 1) return multiply_group<kRows, K>(x, block, bands, group, kernel_size, y);
  multiply_group<2, K>(x, block, bands, group, kernel_size, y);
}

template <typename S>
Output<S> output_at(void* data, const Problem& p, const Run& run, const Block& block, int64_t position) {
  S* at = static_cast<S*>(data) + (run.sentence * p.num_positions + position) * p.num_channels + block.first;
  return {at, p.num_channels, 0, block.width};
}

template <typename S>
void clear_rows(const Output<S>& y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < y.width; ++c) y.at[i * y.pitch + c] = S{};
  }
}

template <int K, typename S, typename A>
void forward_run(const Problem& p, const Run& run, A* scratch) {
  const Scratch<A> sizes(p);
  Strip<A> x(p, run, sizes, scratch, run.inputs(p));
  TapRows<A> taps(sizes, scratch + sizes.packed, p, {run.begin, run.end}, false);
  start(taps, p, run);
  clear_around(x, x.range.begin - (kRows - 2), x.range.end + kRows - 2);
  for (int64_t begin = run.begin; begin < run.end; begin += kGroup) {
    const Range group = run.group(begin);
    fill<S>(x, run, p.x, group.end + p.kernel_size - p.padding_left);
    fill<S>(taps, p, run, group.end);
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Block block = x.blocks[b];
      const Bands<A> bands = forward_bands(p, taps, block.head, begin);
      multiply_group<K>(x, block, bands, group, p.kernel_size, output_at<S>(p.y, p, run, block, begin));
    }
  }
}

// Adds the block's share of the gradients by the taps of dynamic_conv, or of light_conv with DropConnect: a row to a
// position of the group, `pitch` apart. Columns before the first tap and behind the last are no taps.
template <int Q, typename A>
void correlate_each(const Problem& p, const Strip<A>& grad_y, const Strip<A>& x, const Block& block, Range group,
                    A* grads) {
  const int64_t pitch = pitch_of<A>(p.kernel_size);
  for (int64_t t = group.begin; t < group.end; t += 2, grads += 2 * pitch) {
    const int64_t origin = t - p.padding_left;  // the position that tap 0 of position t reads
    const int64_t first = most(x.range.begin - origin, 0) / Q * Q, last = least(x.range.end - origin, p.kernel_size + 1);
    for (int64_t j = first; j < last; j += Q) {
      correlate<Q>(grad_y.at(block, t), x.at(block, origin + j), x.pitch, 1, grads + j, grads + pitch + j - 1);
    }
  }
}

// Adds the block's share of the gradient by the taps of light_conv without DropConnect: one row for all positions.
template <int Q, typename A>
void correlate_all(const Problem& p, const Strip<A>& grad_y, const Strip<A>& x, const Block& block, Range group,
                   A* grads) {
  for (int64_t j = 0; j <= p.kernel_size; j += Q) {
    const int64_t shift = j - p.padding_left;  // grad_y[t] meets x[t + shift … t + shift + Q - 1]
    const int64_t skipped = most(x.range.begin - (Q - 1) - shift - group.begin, 0) / 2 * 2;
    const int64_t begin = group.begin + skipped, end = least(group.end, x.range.end - shift);
    if (end <= begin) continue;
    const A* const first = x.at(block, begin + shift);
    correlate<Q>(grad_y.at(block, begin), first, x.pitch, (end - begin + 1) / 2, grads + j, grads + j - 1);
  }
}

// Writes a group's gradients by logits.
template <typename S, typename A>
void write_grad_logits(const Problem& p, const Run& run, const Scratch<A>& sizes, Range group, const A* grads) {
  for (int64_t t = group.begin; t < group.end; ++t, grads += sizes.tap_pitch) {
    const int64_t row = (run.sentence * p.num_positions + t) * p.num_heads + run.first_head;
    S* target = static_cast<S*>(p.grad_logits) + row * p.kernel_size;
    for (int64_t head = 0; head < run.num_heads; ++head, target += p.kernel_size) {
      store_row(target, grads + head * sizes.grad, p.kernel_size);
    }
  }
}

// From a group's gradients by final taps to gradients by logits, or to the task's share of those by light_conv's taps.
template <typename A>
void finish_grads(const Problem& p, const Run& run, int64_t head, Range group, const TapRows<A>& taps, A* grads) {
  const int64_t pitch = pitch_of<A>(p.kernel_size), count = group.end - group.begin;
  for (A* row = grads; row < grads + count * pitch; row += pitch) {
    for (int64_t c = p.kernel_size / kLanes<A> * kLanes<A>; c < pitch; c += kLanes<A>) {  // columns behind the taps
      store(row + c, keep_first(load(row + c), most(p.kernel_size - c, 0), A(0)));
    }
  }
  if (p.softmax && !p.weight) {
    const int64_t offset = taps.offset(head, group.begin);
    return softmax_rows_backward(grads, taps.rows + offset, taps.plain + offset, count, pitch);
  }
  if (p.drop.is_on) drop_rows(p, run.sentence, run.first_head + head, group.begin, count, grads, grads, pitch);
  if (!p.weight) return;
  A* share = static_cast<A*>(p.partial) + (run.first_task + head) * p.kernel_size;
  if (group.begin == run.begin) {
    for (int64_t k = 0; k < p.kernel_size; ++k) share[k] = A(0);
  }
  for (int64_t i = 0; i < (taps.pitch ? count : 1); ++i) {
    for (int64_t k = 0; k < p.kernel_size; ++k) share[k] += grads[i * pitch + k];
  }
}

template <int K, typename S, typename A>
void backward_run(const Problem& p, const Run& run, A* scratch) {
  constexpr int Q = K > 0 && K < 4 ? 4 : kColumns<A>;
  const Scratch<A> sizes(p);
  Strip<A> x(p, run, sizes, scratch, run.inputs(p)), grad_y(p, run, sizes, scratch + sizes.packed, run.outputs(p));
  TapRows<A> taps(sizes, scratch + 2 * sizes.packed, p, run.outputs(p), true);
  A* const grads = scratch + 2 * sizes.packed + 2 * sizes.taps + kLanes<A>;
  start(taps, p, run);
  const int64_t last_columns = (p.kernel_size + Q) / Q * Q;  // K + 1 columns, Q at a time
  clear_around(x, run.begin - p.padding_left, run.end + 1 - p.padding_left + last_columns);
  clear_around(grad_y, grad_y.range.begin - (kRows - 1), grad_y.range.end + kRows - 1);
  for (int64_t begin = run.begin; begin < run.end; begin += kGroup) {
    const Range group = run.group(begin), real = {begin, most(least(group.end, run.length), begin)};
    fill<S>(x, run, p.x, group.end + p.kernel_size - p.padding_left + kColumns<A>);
    fill<S>(grad_y, run, p.grad_y, most(group.end, group.end + 1 + p.padding_left));
    fill<S>(taps, p, run, most(group.end, group.end + 1 + p.padding_left));
    for (int64_t head = 0; head < run.num_heads; ++head) clear(grads + head * sizes.grad - kLanes<A>, sizes.grad_size);
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Block block = x.blocks[b];
      const Bands<A> bands = transposed_bands(p, taps, block.head, begin);
      multiply_group<K>(grad_y, block, bands, real, p.kernel_size, output_at<S>(p.grad_x, p, run, block, begin));
      clear_rows(output_at<S>(p.grad_x, p, run, block, real.end), group.end - real.end);  // padding has no gradient
      A* const grad = grads + block.head * sizes.grad;
      (taps.pitch ? correlate_each<Q, A> : correlate_all<Q, A>)(p, grad_y, x, block, group, grad);
    }
    for (int64_t head = 0; head < run.num_heads; ++head) {
      finish_grads(p, run, head, group, taps, grads + head * sizes.grad);
    }
    if (!p.weight) write_grad_logits<S>(p, run, sizes, group, grads);
  }
}

template <typename A>
using Work = void (*)(const Problem&, const Run&, A*);

template <bool IsBackward, typename S, typename A>
Work<A> work_for(int64_t kernel_size) {
  switch (kernel_size) {
    case 3: return IsBackward ? backward_run<3, S, A> : forward_run<3, S, A>;
    case 7: return IsBackward ? backward_run<7, S, A> : forward_run<7, S, A>;
    case 15: return IsBackward ? backward_run<15, S, A> : forward_run<15, S, A>;
    case 31: return IsBackward ? backward_run<31, S, A> : forward_run<31, S, A>;
    default: return IsBackward ? backward_run<0, S, A> : forward_run<0, S, A>;
  }
}

template <bool IsBackward, typename S, typename A>
void run_tasks(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  const Work<A> work = work_for<IsBackward, S, A>(p.kernel_size);
  while (begin < end) {
    const Run run(p, begin, p.num_positions > kShort ? end : begin + 1);
    work(p, run, static_cast<A*>(scratch));
    begin += run.num_heads;
  }
}

template <bool IsBackward>
void run_tasks(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  switch (p.storage) {
    case Storage::kFloat32: return run_tasks<IsBackward, float, float>(p, begin, end, scratch);
    case Storage::kFloat64: return run_tasks<IsBackward, double, double>(p, begin, end, scratch);
    case Storage::kBFloat16: return run_tasks<IsBackward, BFloat16, float>(p, begin, end, scratch);
    case Storage::kFloat16: return run_tasks<IsBackward, Float16, float>(p, begin, end, scratch);
  }
}

void forward(const Problem& p, int64_t begin, int64_t end, void* scratch) { run_tasks<false>(p, begin, end, scratch); }
void backward(const Problem& p, int64_t begin, int64_t end, void* scratch) { run_tasks<true>(p, begin, end, scratch); }

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

size_t scratch_bytes(const Problem& p) {
  return p.storage == Storage::kFloat64 ? Scratch<double>(p).bytes() : Scratch<float>(p).bytes();
}

void finish_weight(const Problem& p) {
  return p.storage == Storage::kFloat64 ? finish_weight_of<double>(p) : finish_weight_of<float>(p);
}

}  // namespace
}  // namespace dynconv_mt::cpu
