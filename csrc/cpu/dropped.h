// Joined heads of light_conv with DropConnect: taps that differ from channel to channel and from position to position.
//
// They are not stored. A vector of 32 bits is drawn for the channels at hand wherever a vector of taps is used, from the
// states of their rows (ops/dropconnect.py), which are kept like packed rows: a number to a channel.
#pragma once

#include "joined.h"

namespace dynconv_mt::cpu {
namespace {

// The states of a run's positions: those of range.begin … filled - 1 are there.
struct States {
  uint32_t* rows;
  Range range;
  int64_t filled;
  int64_t head;  // numbers from joined head to joined head

  States(const Scratch<float>& sizes, float* scratch, Range range)
      : rows(reinterpret_cast<uint32_t*>(scratch)), range(range), filled(range.begin), head(sizes.head) {}

  uint32_t* at(int64_t joined_head, int64_t position) const {
    return rows + joined_head * head + (position - range.begin) * kJoined<float>;
  }
};

// Makes the states of positions up to `until`. Behind the last channel of a row there is anything: no tap is there.
inline void fill(States& states, const Problem& p, const Run& run, int64_t until) {
  const uint32_t seeded = seeded_state(p.drop);
  const int64_t last = least(until, states.range.end), count = p.joined.count, width = p.joined.width;
  uint32_t bits[kJoined<float>];
  for (; states.filled < last; ++states.filled) {
    const int64_t first = (run.sentence * p.num_positions + states.filled) * p.joined.num_heads;
    for (int64_t joined = 0; joined < run.num_heads; ++joined) {
      row_states(seeded, first + (run.first_head + joined) * count, count, bits);
      uint32_t* state = states.at(joined, states.filled);
      for (int64_t head = 0; head < count; ++head) {
        for (int64_t c = 0; c < width; ++c) *state++ = bits[head];
      }
    }
  }
}

// The vector, with zeros in the channels whose tap number `tap` is dropped.
inline Vec<float> drop(Vec<float> vector, const uint32_t* states, int64_t tap, uint32_t threshold) {
  const FloatBits bits = mix(load_bits<FloatBits>(states) + static_cast<uint32_t>(tap) * kGolden);
  return bit_cast<Vec<float>>(bit_cast<FloatBits>(vector) & (FloatBits)(bits >= threshold));
}

// y[t] = Σₖ tap[k] · x[t - padding_left + k] at the positions of a group, or the transposed product with
// x[t + padding_left - k] (Direction -1). Whether a tap is dropped says the position that it belongs to: t of y, or that
// of the row of grad_y. Taps of the table have DropConnect's scale.
template <int Direction, typename S>
void multiply_dropped(const Problem& p, const Strip<float>& x, const States& states, const Block& block, Range group,
                      Output<S> y) {
  constexpr int64_t L = kLanes<float>;
  const int64_t joined = block.first / p.head_width;
  const float* const table = static_cast<const float*>(p.joined.taps) + joined * p.kernel_size * kJoined<float>;
  y.count = 1;
  for (int64_t t = group.begin; t < group.end; ++t, y.at += y.pitch) {
    const int64_t origin = t - Direction * p.padding_left;  // tap k meets x[origin + Direction · k]
    const int64_t before = Direction > 0 ? x.range.begin - origin : origin - x.range.end + 1;
    const int64_t first = most(before, 0), last = least(before + x.range.end - x.range.begin, p.kernel_size);
    for (int64_t c = 0; c < x.pitch; c += L) {
      Vec<float> sum[1][1] = {};
#pragma GCC unroll 2
      for (int64_t k = first; k < last; ++k) {
        const int64_t row = origin + Direction * k;
        const uint32_t* const state = states.at(block.head, Direction > 0 ? t : row) + c;
        const Vec<float> tap = load(table + k * kJoined<float> + c);
        sum[0][0] += drop(tap, state, k, p.drop.threshold) * load(x.at(block, row) + c);
      }
      write<1, 1, float>(y, c / L, sum);
    }
  }
}

// Adds the block's share of the gradient by the taps at a group's positions to the table, but for DropConnect's scale.
inline void correlate_dropped(const Problem& p, const Strip<float>& grad_y, const Strip<float>& x, const States& states,
                              const Block& block, Range group, float* table) {
  for (int64_t k = 0; k < p.kernel_size; ++k, table += kJoined<float>) {
    const int64_t shift = k - p.padding_left;  // grad_y[t] meets x[t + shift]
    const int64_t begin = most(group.begin, x.range.begin - shift), end = least(group.end, x.range.end - shift);
    for (int64_t c = 0; c < x.pitch; c += kLanes<float>) {
      Vec<float> sum = load(table + c);
#pragma GCC unroll 2
      for (int64_t t = begin; t < end; ++t) {
        const Vec<float> kept = drop(load(grad_y.at(block, t) + c), states.at(block.head, t) + c, k, p.drop.threshold);
        sum += kept * load(x.at(block, t + shift) + c);
      }
      store(table + c, sum);
    }
  }
}

// The run of a forward of joined heads with DropConnect.
template <typename S>
void forward_dropped(const Problem& p, const Run& run, float* scratch) {
  const Scratch<float> sizes(p);
  Strip<float> x(p, run, sizes, scratch, run.inputs(p));
  States states(sizes, scratch + sizes.packed, {run.begin, run.end});
  for (int64_t begin = run.begin; begin < run.end; begin += kGroup) {
    const Range group = run.group(begin);
    fill<S>(x, run, p.x, group.end + p.kernel_size - p.padding_left);
    fill(states, p, run, group.end);
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Block block = x.blocks[b];
      multiply_dropped<1>(p, x, states, block, group, output_at<S>(p.y, p, run, block, begin));
    }
  }
}

// The run of a backward of joined heads with DropConnect.
template <typename S>
void backward_dropped(const Problem& p, const Run& run, float* scratch) {
  const Scratch<float> sizes(p);
  Strip<float> x(p, run, sizes, scratch, run.inputs(p));
  Strip<float> grad_y(p, run, sizes, scratch + sizes.packed, run.outputs(p));
  States states(sizes, scratch + 2 * sizes.packed, run.outputs(p));
  float* const grads = scratch + sizes.before_grads + sizes.grad_lead;
  start_tables(p, run, sizes, grads);
  for (int64_t begin = run.begin; begin < run.end; begin += kGroup) {
    const Range group = run.group(begin), real = {begin, most(least(group.end, run.length), begin)};
    const int64_t until = most(group.end, group.end + 1 + p.padding_left);
    fill<S>(x, run, p.x, group.end + p.kernel_size - p.padding_left);
    fill<S>(grad_y, run, p.grad_y, until);
    fill(states, p, run, until);
    for (int64_t b = 0; b < x.blocks.count; ++b) {
      const Block block = x.blocks[b];
      multiply_dropped<-1>(p, grad_y, states, block, real, output_at<S>(p.grad_x, p, run, block, begin));
      clear_rows(output_at<S>(p.grad_x, p, run, block, real.end), group.end - real.end);
      correlate_dropped(p, grad_y, x, states, block, group, grads + block.head * sizes.grad);
    }
  }
  finish_tables(p, run, sizes, grads);
}

}  // namespace
}  // namespace dynconv_mt::cpu
