// A task: which head, which positions, what it reads, and where its numbers lie in scratch memory.
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

// Asks for two rows of what the next task reads: the columns that follow, `width` from number `first` on. Computing
// hides the time that memory takes; at the last head the request is void, and does no harm.
template <typename S>
void prefetch_next(const Input& input, const Task& task, int64_t t, int64_t first, int64_t width) {
  const S* row = static_cast<const S*>(input.data) + task.sentence * input.sentence + t * input.position + first;
  for (int64_t r = 0; r < 2; ++r) prefetch_row<0>(row + r * input.position, width);
}

template <typename S>
void prefetch_next_logits(const Problem& p, const Task& task, int64_t t) {
  if (!p.weight) prefetch_next<S>(p.logits, task, t, (task.head + 1) * p.kernel_size, p.kernel_size);
}

template <typename S>
Output<S> output_at(void* data, const Problem& p, const Task& task, int64_t t, const Block& block, int64_t end) {
  S* at = static_cast<S*>(data) + (task.sentence * p.num_positions + t) * p.num_channels + block.first;
  return {at, p.num_channels, least(2, end - t), block.width};
}

}  // namespace
}  // namespace dynconv_mt::cpu
