// A run: what a thread works on at a time, and the rows that it has at hand in scratch memory.
//
// A run goes through its positions a group at a time. Rows of x, of grad_y and of taps are made ready as they come into
// reach, for all heads of the run, so that computing goes on with what has just been written.
#pragma once

#include "tiles.h"

namespace dynconv_mt::cpu {
namespace {

constexpr int64_t kGroup = 32;  // positions; a multiple of kRows
constexpr int64_t kShort = 16;  // positions: in shorter sentences there is nothing to stream, and a run is one head

// Channels that are packed together: 512 bytes, so that the rows of a group and its taps' reach fit a first-level cache.
template <typename A>
constexpr int64_t kBlock = kJoined<A>;  // a joined head is a block

// Columns of the gradient by taps that are computed together: two rows of sums fill a vector.
template <typename A>
constexpr int64_t kColumns = kRows == 4 ? 8 : 4;

struct Range {
  int64_t begin;
  int64_t end;
};

inline Range clip(Range range, int64_t limit) {
  const int64_t begin = least(most(range.begin, 0), limit);
  return {begin, most(least(range.end, limit), begin)};
}

// Tasks of one chunk: consecutive heads at positions begin … end - 1 of a sentence, perhaps of one after another.
struct Run {
  int64_t first_task;
  int64_t num_heads;
  int64_t first_head;
  int64_t sentence;
  int64_t begin;
  int64_t end;
  int64_t length;  // positions of x from here on are zeros

  // As many of the tasks first … last - 1 as belong to the chunk of the first.
  Run(const Problem& p, int64_t first, int64_t last) : first_task(first) {
    first_head = first % p.num_heads;
    num_heads = least(last - first, p.num_heads - first_head);
    begin = first / p.num_heads % num_chunks(p) * kChunk;
    end = least(begin + kChunk, p.num_positions);
    move_to(p, first / p.num_heads / num_chunks(p) * num_together(p));
  }

  void move_to(const Problem& p, int64_t number) {
    sentence = number;
    length = p.lengths ? most(least(p.lengths[sentence], p.num_positions), 0) : p.num_positions;
  }

  bool is_first_sentence(const Problem& p) const { return sentence % num_together(p) == 0; }
  bool is_last_sentence(const Problem& p) const {
    return sentence + 1 == p.num_sentences || (sentence + 1) % num_together(p) == 0;
  }

  Range group(int64_t first) const { return {first, least(first + kGroup, end)}; }

  // The positions of x that y[begin … end - 1] reads.
  Range inputs(const Problem& p) const {
    return clip({begin - p.padding_left, end + p.kernel_size - p.padding_left}, length);
  }

  // The positions of y that read x[begin … end - 1], and those of the run itself.
  Range outputs(const Problem& p) const {
    const int64_t left = p.kernel_size - 1 - p.padding_left;
    return clip({least(begin - left, begin), most(end + 1 + p.padding_left, end)}, p.num_positions);
  }
};

// Channels first … first + width - 1 of the tensor, which are packed together: all of a head, or a part of it.
struct Block {
  int64_t number;  // in the run
  int64_t head;    // in the run
  int64_t first;
  int64_t width;
};

// The blocks of a run.
template <typename A>
struct Blocks {
  int64_t num_channels;
  int64_t head_width;
  int64_t per_head;
  int64_t first_head;
  int64_t count;

  Blocks(const Problem& p, const Run& run) : Blocks(p, run.first_head, run.num_heads) {}
  Blocks(const Problem& p, int64_t first_head, int64_t num_heads)
      : num_channels(p.num_channels), head_width(p.head_width), per_head((head_width + kBlock<A> - 1) / kBlock<A>),
        first_head(first_head), count(num_heads * per_head) {}

  Block operator[](int64_t number) const {
    const int64_t head = per_head == 1 ? number : number / per_head, offset = (number - head * per_head) * kBlock<A>;
    const int64_t first = (first_head + head) * head_width + offset;
    return {number, head, first, least(least(kBlock<A>, head_width - offset), num_channels - first)};
  }
};

// The distance of stretches of `size` numbers that are written side by side, `width` at a time. Were it a multiple of
// 4096 bytes, their lines would fight for the same places in a cache.
template <typename A>
constexpr int64_t apart(int64_t size, int64_t width) {
  constexpr int64_t page = 4096 / sizeof(A);
  return (size + page - 1) / page * page + width;
}

// How much scratch memory the parts of a run of all heads take, in numbers.
template <typename A>
struct Scratch {
  int64_t tap_pitch;      // of a row of taps
  int64_t channel_pitch;  // of a packed row
  int64_t block;          // the rows of a block
  int64_t packed;         // those of all blocks
  int64_t head;           // the taps of a head; of joined heads the states of DropConnect
  int64_t taps;           // those of all heads
  int64_t grad_size;      // a group's gradients by the taps of a head, or a table, and columns before the first tap
  int64_t grad_lead;      // these columns
  int64_t grad;           // the distance from head to head
  int64_t grads;          // those of all heads
  int64_t before_grads;   // packed rows of x and of grad_y, and taps: final, and as they were before DropConnect
  int64_t joined;         // the taps of heads to be joined, while their table is made

  explicit Scratch(const Problem& p) {
    const int64_t left = p.padding_left, right = p.kernel_size - 1 - left;
    const int64_t reach = most(p.kernel_size, most(left, right) + 1);
    const int64_t num_rows = least(least(kChunk, p.num_positions) + reach + 1, p.num_positions);
    const Blocks<A> blocks(p, 0, p.num_heads);
    tap_pitch = pitch_of<A>(p.kernel_size);
    channel_pitch = (blocks[0].width + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
    block = apart<A>((num_rows + 2 * kColumns<A>) * channel_pitch, channel_pitch);
    packed = blocks.count * block;
    const bool is_joined = p.joined.count > 0;
    const int64_t row = is_joined ? kJoined<A> : tap_pitch;
    head = apart<A>((num_rows + 2 * kRows) * row, row);
    taps = p.num_heads * head;
    grad_lead = is_joined ? kJoined<A> : kLanes<A>;
    grad_size = grad_lead + (is_joined ? (p.kernel_size + kColumns<A>) * kJoined<A> : (kGroup + 1) * tap_pitch);
    grad = apart<A>(grad_size, row);
    grads = p.num_heads * grad;
    before_grads = 2 * packed + (is_joined ? (p.drop.is_on ? 1 : 0) : 2) * taps;
    joined = p.joined.count * tap_pitch;
  }
  size_t bytes() const { return static_cast<size_t>(most(before_grads + grads, joined)) * sizeof(A); }
};

// Packed rows of x or grad_y: float whatever the storage, the channels of a block side by side. Those of positions
// range.begin … filled - 1 are there. kColumns rows lie on either side of the range.
template <typename A>
struct Strip {
  Blocks<A> blocks;
  A* rows;
  Range range;
  int64_t filled;
  int64_t pitch;  // numbers from row to row: the channels, filled up to whole vectors
  int64_t block;  // numbers from block to block

  Strip(const Problem& p, const Run& run, const Scratch<A>& sizes, A* scratch, Range range)
      : blocks(p, run), rows(scratch + kColumns<A> * sizes.channel_pitch), range(range), filled(range.begin),
        pitch(sizes.channel_pitch), block(sizes.block) {}

  A* at(const Block& b, int64_t position) const { return rows + b.number * block + (position - range.begin) * pitch; }
};

template <typename A>
void clear(A* target, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<A>) store(target + i, Vec<A>{});
}

template <typename A>
void copy(A* target, const A* source, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<A>) store(target + i, load(source + i));
}

// Fills the strip up to position `until`.
template <typename S, typename A>
void fill(Strip<A>& strip, const Run& run, const Input& input, int64_t until) {
  const int64_t begin = strip.filled, count = least(until, strip.range.end) - begin;
  if (count <= 0) return;
  const S* first = static_cast<const S*>(input.data) + run.sentence * input.sentence + begin * input.position;
  for (int64_t b = 0; b < strip.blocks.count; ++b) {
    const Block block = strip.blocks[b];
    const S* source = first + block.first * input.element;
    A* target = strip.at(block, begin);
    for (int64_t i = 0; i < count; ++i, source += input.position, target += strip.pitch) {
      if (input.element == 1) {
        prefetch_row<0>(source + kAhead * input.position, block.width);
        copy_row(target, source, block.width, strip.pitch, A(0), input.end);
      } else {
        gather_row(target, source, input.element, block.width, strip.pitch, A(0));
      }
    }
  }
  strip.filled += count;
}

// Makes rows around the strip zeros: those from `begin` to `end` - 1 that do not belong to it, kColumns a side at most.
template <typename A>
void clear_around(const Strip<A>& strip, int64_t begin, int64_t end) {
  const int64_t before = most(least(strip.range.begin - begin, kColumns<A>), 0) * strip.pitch;
  const int64_t after = most(least(end - strip.range.end, kColumns<A>), 0) * strip.pitch;
  for (int64_t b = 0; b < strip.blocks.count; ++b) {
    const Block block = strip.blocks[b];
    clear(strip.at(block, strip.range.begin) - before, before);
    clear(strip.at(block, strip.range.end), after);
  }
}

// The final taps of a run, a row to a position and head, or (pitch 0) one row to a head, or a table to joined heads.
// kRows rows lie on either side.
template <typename A>
struct TapRows {
  A* rows;
  A* plain;  // the same before DropConnect, for a backward; a forward overwrites them
  Range range;
  int64_t filled;
  int64_t pitch;
  int64_t head;  // numbers from head to head

  TapRows(const Scratch<A>& sizes, A* scratch, const Problem& p, const Run& run, Range range, bool is_backward)
      : rows(scratch + kRows * sizes.tap_pitch), plain(is_backward && p.drop.is_on ? rows + sizes.taps : rows),
        range(range), filled(range.begin), pitch(p.weight && !p.drop.is_on ? 0 : sizes.tap_pitch), head(sizes.head) {
    if (!p.joined.count) return;
    head = p.kernel_size * kJoined<A>;
    rows = static_cast<A*>(p.joined.taps) + run.first_head * head;
  }

  int64_t offset(int64_t head_number, int64_t position) const {
    return head_number * head + (position - range.begin) * pitch;
  }
};

// Makes the one row to a head of light_conv without DropConnect, or else zeros of the rows around the others. Tables of
// joined heads are there.
template <typename A>
void start(const TapRows<A>& taps, const Problem& p, const Run& run) {
  if (p.joined.count) return;
  for (int64_t head = 0; head < run.num_heads; ++head) {
    A* const row = taps.rows + head * taps.head;
    if (taps.pitch == 0) {
      light_row(p, run.first_head + head, row, pitch_of<A>(p.kernel_size));
    } else {
      clear(row - kRows * taps.pitch, kRows * taps.pitch);
      clear(taps.rows + taps.offset(head, taps.range.end), kRows * taps.pitch);
    }
  }
}

// Makes the rows of positions up to `until`.
template <typename S, typename A>
void fill(TapRows<A>& taps, const Problem& p, const Run& run, int64_t until) {
  const int64_t first = taps.filled, count = least(until, taps.range.end) - first;
  if (taps.pitch == 0 || count <= 0) return;
  for (int64_t h = 0; h < run.num_heads; ++h) {
    const int64_t head = run.first_head + h, offset = taps.offset(h, first);
    if (!p.weight) {
      dynamic_rows<S>(p, run.sentence, head, first, count, taps.plain + offset, taps.pitch);
    } else {
      light_row(p, head, taps.plain + offset, taps.pitch);
      for (int64_t i = 1; i < count; ++i) copy(taps.plain + offset + i * taps.pitch, taps.plain + offset, taps.pitch);
    }
    if (p.drop.is_on) {
      drop_rows(p, run.sentence, head, first, count, taps.plain + offset, taps.rows + offset, taps.pitch);
    }
  }
  taps.filled += count;
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

}  // namespace
}  // namespace dynconv_mt::cpu
