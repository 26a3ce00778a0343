// The operators, a run at a time. Included by one file per instruction set.
//
// Strides, half precision, odd widths and lengths are dealt with where rows are packed; all else works on packed rows.
#pragma once

#include "dropped.h"

namespace dynconv_mt::cpu {
namespace {

// A band, or a transposed one, from position `begin` on: rows of y and of taps go together.
template <typename A, bool IsJoined>
struct Bands {
  const A* at;
  int64_t begin;
  int64_t step;  // from position to position
  int64_t row;
  int64_t column;
  int64_t shift;  // y[t] reads x[t - shift … t - shift + K - 1]
};

template <bool IsJoined, typename A>
Bands<A, IsJoined> forward_bands(const Problem& p, const TapRows<A>& taps, int64_t head, int64_t begin) {
  const int64_t tap = IsJoined ? kJoined<A> : 1;
  return {taps.rows + taps.offset(head, begin), begin, taps.pitch, taps.pitch - tap, tap, p.padding_left};
}

template <bool IsJoined, typename A>
Bands<A, IsJoined> transposed_bands(const Problem& p, const TapRows<A>& taps, int64_t head, int64_t begin) {
  const int64_t tap = IsJoined ? kJoined<A> : 1, last = p.kernel_size - 1, shift = last - p.padding_left;
  return {taps.rows + taps.offset(head, begin - shift) + last * tap, begin, taps.pitch, tap, taps.pitch - tap, shift};
}

// y at the positions of a group. One function for forward and backward: half of what there is to compile.
template <int R, int K, typename A, bool IsJoined, typename S>
[[gnu::noinline]] void multiply_group(const Strip<A>& x, const Block& block, const Bands<A, IsJoined>& bands,
                                      Range group, int64_t kernel_size, Output<S> y) {
  for (int64_t t = group.begin; t < group.end; t += R, y.at += R * y.pitch) {
    for (int r = 0; r < R; ++r) prefetch_row<1>(y.at + (r + kAhead) * y.pitch, y.width);
    const int64_t origin = t - bands.shift;
    const Columns columns = {x.range.begin - origin, x.range.end - origin};
    const Band<A, IsJoined> band = {bands.at + (t - bands.begin) * bands.step, bands.row, bands.column};
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
template <int K, typename A, bool IsJoined, typename S>
void multiply_group(const Strip<A>& x, const Block& block, const Bands<A, IsJoined>& bands, Range group,
                    int64_t kernel_size, Output<S> y) {
  if (kernel_size >= kRows - 1) return multiply_group<kRows, K>(x, block, bands, group, kernel_size, y);
  multiply_group<2, K>(x, block, bands, group, kernel_size, y);
}

template <int K, bool IsJoined, typename S, typename A>
void forward_run(const Problem& p, const Run& run, A* scratch) {
  const Scratch<A> sizes(p);
  Strip<A> x(p, run, sizes, scratch, run.inputs(p));
  TapRows<A> taps(sizes, scratch + sizes.packed, p, run, {run.begin, run.end}, false);
  start(taps, p, run);
  clear_around(x, x.range.begin - (kRows - 2), x.range.end + kRows - 2);
  for (int64_t begin = run.begin; begin < run.end; begin += kGroup) {
    const Range group = run.group(begin);
    fill<S>(x, run, p.x, group.end + p.kernel_size - p.padding_left);
    fill<S>(taps, p, run, group.end);
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Block block = x.blocks[b];
      const auto bands = forward_bands<IsJoined>(p, taps, block.head, begin);
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

// Adds the block's share of the gradient by the taps of light_conv without DropConnect: one row, or a table, for all
// positions.
template <int Q, bool IsJoined, typename A>
void correlate_all(const Problem& p, const Strip<A>& grad_y, const Strip<A>& x, const Block& block, Range group,
                   A* grads) {
  for (int64_t j = 0; j <= p.kernel_size; j += Q) {
    const int64_t shift = j - p.padding_left;  // grad_y[t] meets x[t + shift … t + shift + Q - 1]
    const int64_t skipped = most(x.range.begin - (Q - 1) - shift - group.begin, 0) / 2 * 2;
    const int64_t begin = group.begin + skipped, end = least(group.end, x.range.end - shift);
    if (end <= begin) continue;
    const A *const first = grad_y.at(block, begin), *const second = x.at(block, begin + shift);
    const int64_t num_pairs = (end - begin + 1) / 2;
    if constexpr (IsJoined) {
      correlate_joined<Q>(first, second, x.pitch, num_pairs, grads + j * kJoined<A>);
    } else {
      correlate<Q>(first, second, x.pitch, num_pairs, grads + j, grads + j - 1);
    }
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

template <int K, bool IsJoined, typename S, typename A>
void backward_run(const Problem& p, const Run& run, A* scratch) {
  constexpr int Q = IsJoined || (K > 0 && K < 4) ? 4 : kColumns<A>;
  const Scratch<A> sizes(p);
  Strip<A> x(p, run, sizes, scratch, run.inputs(p)), grad_y(p, run, sizes, scratch + sizes.packed, run.outputs(p));
  TapRows<A> taps(sizes, scratch + 2 * sizes.packed, p, run, run.outputs(p), true);
  A* const grads = scratch + sizes.before_grads + sizes.grad_lead;
  start(taps, p, run);
  if constexpr (IsJoined) start_tables(p, run, sizes, grads);
  const int64_t last_columns = (p.kernel_size + Q) / Q * Q;  // K + 1 columns, Q at a time
  clear_around(x, run.begin - p.padding_left, run.end + 1 - p.padding_left + last_columns);
  clear_around(grad_y, grad_y.range.begin - (kRows - 1), grad_y.range.end + kRows - 1);
  for (int64_t begin = run.begin; begin < run.end; begin += kGroup) {
    const Range group = run.group(begin), real = {begin, most(least(group.end, run.length), begin)};
    fill<S>(x, run, p.x, group.end + p.kernel_size - p.padding_left + kColumns<A>);
    fill<S>(grad_y, run, p.grad_y, most(group.end, group.end + 1 + p.padding_left));
    fill<S>(taps, p, run, most(group.end, group.end + 1 + p.padding_left));
    if (!IsJoined) {  // tables are whole tasks'
      for (int64_t head = 0; head < run.num_heads; ++head) {
        clear(grads + head * sizes.grad - sizes.grad_lead, sizes.grad_size);
      }
    }
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Block block = x.blocks[b];
      const auto bands = transposed_bands<IsJoined>(p, taps, block.head, begin);
      multiply_group<K>(grad_y, block, bands, real, p.kernel_size, output_at<S>(p.grad_x, p, run, block, begin));
      clear_rows(output_at<S>(p.grad_x, p, run, block, real.end), group.end - real.end);  // padding has no gradient
      A* const grad = grads + block.head * sizes.grad;
      (taps.pitch ? correlate_each<Q, A> : correlate_all<Q, IsJoined, A>)(p, grad_y, x, block, group, grad);
    }
    if (IsJoined) continue;
    for (int64_t head = 0; head < run.num_heads; ++head) {
      finish_grads(p, run, head, group, taps, grads + head * sizes.grad);
    }
    if (!p.weight) write_grad_logits<S>(p, run, sizes, group, grads);
  }
  if constexpr (IsJoined) finish_tables(p, run, sizes, grads);
}

template <typename A>
using Work = void (*)(const Problem&, const Run&, A*);

template <bool IsBackward, int K, bool IsJoined, typename S, typename A>
constexpr Work<A> kWork = IsBackward ? backward_run<K, IsJoined, S, A> : forward_run<K, IsJoined, S, A>;

template <bool IsBackward, typename S, typename A>
Work<A> work_for(const Problem& p) {
  if constexpr (sizeof(A) == sizeof(float)) {  // heads are not joined in float64
    if (p.joined.count && p.drop.is_on) return IsBackward ? backward_dropped<S> : forward_dropped<S>;
    if (p.joined.count) return kWork<IsBackward, 0, true, S, A>;
  }
  switch (p.kernel_size) {
    case 3: return kWork<IsBackward, 3, false, S, A>;
    case 7: return kWork<IsBackward, 7, false, S, A>;
    case 15: return kWork<IsBackward, 15, false, S, A>;
    case 31: return kWork<IsBackward, 31, false, S, A>;
    default: return kWork<IsBackward, 0, false, S, A>;
  }
}

template <bool IsBackward, typename S, typename A>
void run_tasks(const Problem& p, int64_t begin, int64_t end, void* scratch) {
  const Work<A> work = work_for<IsBackward, S, A>(p);
  while (begin < end) {
    Run run(p, begin, p.num_positions > kShort ? end : begin + 1);
    work(p, run, static_cast<A*>(scratch));
    while (!run.is_last_sentence(p)) {
      run.move_to(p, run.sentence + 1);
      work(p, run, static_cast<A*>(scratch));
    }
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

// Sums the tasks' shares of N numbers of the gradient, in double precision and always in the same order.
template <int N, typename A>
void sum_shares(const Problem& p, int64_t first, int64_t size) {
  const A* share = static_cast<const A*>(p.partial) + first;
  double totals[N] = {};
  for (int64_t count = num_shares(p); count > 0; --count, share += size) {
    for (int i = 0; i < N; ++i) totals[i] += share[i];
  }
  for (int i = 0; i < N; ++i) static_cast<A*>(p.grad_weight)[first + i] = static_cast<A>(totals[i]);
}

// Sums the shares, then takes the gradient of the softmax.
template <typename A>
void finish_weight_of(const Problem& p) {
  constexpr int kLine = 64 / sizeof(A);
  const A* weight = static_cast<const A*>(p.weight);
  A* grad = static_cast<A*>(p.grad_weight);
  const int64_t num_heads = num_heads_of_weight(p), size = num_heads * p.kernel_size;
  int64_t i = 0;
  for (; i + kLine <= size; i += kLine) sum_shares<kLine, A>(p, i, size);
  for (; i < size; ++i) sum_shares<1, A>(p, i, size);
  if (!p.softmax) return;
  for (int64_t h = 0; h < num_heads; ++h, weight += p.kernel_size, grad += p.kernel_size) {
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
