// How work is cut into blocks: a block computes a stretch of positions of one sentence for one head, or for several
// where heads are narrow.
//
// A row is what one position has in the block's heads. It is cut into vectors of 16 bytes, none of which holds channels
// of two heads. Shared memory has room for `slots` vectors of a row; a wide head goes through in several chunks.
#pragma once

#include "storage.h"

namespace dynconv_mt::cuda {

constexpr int kMaxPositions = 128;     // of a block
constexpr int kMaxThreads = 256;       // of a block
constexpr int kFewThreads = 128;       // narrow heads are put together until a block has so many
constexpr int kThreadRows = 8;         // positions of a block for every thread of a slot

constexpr int kAlignment = 128;  // bytes, of what lies in shared memory

// Returns the next multiple.
DYNCONV_HOST_DEVICE int aligned(int size, int multiple = kAlignment) { return ceil_div(size, multiple) * multiple; }

// Rows of vectors in shared memory. Every kPad rows 16 bytes are left out, so that threads which read certain rows
// together meet no bank conflicts.
template <int kPad>
struct Tile {
  char* data;
  int slots;

  DYNCONV_HOST_DEVICE static int bytes(int rows, int slots) {
    return (rows * slots + ceil_div(rows, kPad)) * kVectorBytes;
  }
  DYNCONV_DEVICE char* at(int row, int slot) const { return data + (row * slots + row / kPad + slot) * kVectorBytes; }
};

struct Plan {
  int kernel_size;
  int positions;  // of a block
  int slots;      // vectors of a row that are in shared memory together
  int vectors;    // of a head
  int heads;      // of a block
  int chunks;     // in which a head goes through, 1 for several heads
  int64_t num_tiles;   // stretches of positions of a sentence
  int64_t num_groups;  // of heads

  Plan() = default;
  Plan(const Problem& p, int vector, int positions, int max_slots);

  DYNCONV_HOST_DEVICE int threads() const { return aligned(slots * (positions / kThreadRows), kWarp); }
  DYNCONV_HOST_DEVICE int tap_pitch() const { return kernel_size | 1; }  // odd: no bank conflicts between rows
  DYNCONV_HOST_DEVICE int64_t num_blocks(const Problem& p) const { return p.num_sentences * num_tiles * num_groups; }
};

inline Plan::Plan(const Problem& p, int vector, int positions, int max_slots)
    : kernel_size(p.kernel_size), positions(positions) {
  vectors = static_cast<int>(ceil_div<int64_t>(head_width(p), vector));
  heads = static_cast<int>(least<int64_t>(most(max_slots / vectors, 1), p.num_heads));
  slots = heads > 1 ? heads * vectors : least(vectors, max_slots);
  chunks = ceil_div(heads > 1 ? slots : vectors, slots);
  num_tiles = ceil_div<int64_t>(p.num_positions, positions);
  num_groups = ceil_div<int64_t>(p.num_heads, heads);
}

// Returns the largest blocks whose shared memory, `bytes_of(plan)`, there is room for; or false. Their positions are a
// multiple of `group`, and their slots are even if the vectors of a head are.
template <typename Bytes>
bool choose(const Problem& p, int vector, int group, const Bytes& bytes_of, Plan& plan) {
  if (head_width(p) > (1 << 24) || p.kernel_size > (1 << 14)) return false;  // beyond, sizes may not fit an int
  const auto vectors = static_cast<int>(ceil_div<int64_t>(head_width(p), vector));
  int positions = kMaxPositions;
  while (positions > group && positions / 2 >= p.num_positions) positions /= 2;
  const int threads = positions / kThreadRows;  // of a slot
  int max_slots = most(kFewThreads / threads, least(vectors, kMaxThreads / threads));
  constexpr int kMinSlots = 8;
  for (;;) {
    plan = Plan(p, vector, positions, max_slots);
    if (bytes_of(plan) <= kMaxShared) return true;
    if (max_slots > kMinSlots) {
      max_slots = most(max_slots / 4 * 2, kMinSlots);
    } else if (positions > group) {
      positions /= 2;
    } else {
      return false;
    }
  }
}

// What a block computes.
struct Place {
  int64_t sentence;
  int64_t tile;
  int64_t position;  // the first of the block
  int64_t head;      // the first of the block
  int heads;         // of them that exist

  DYNCONV_DEVICE Place(const Problem& p, const Plan& plan, int64_t block) {
    head = block % plan.num_groups * plan.heads;
    tile = block / plan.num_groups % plan.num_tiles;
    sentence = block / plan.num_groups / plan.num_tiles;
    position = tile * plan.positions;
    heads = static_cast<int>(least<int64_t>(plan.heads, p.num_heads - head));
  }
};

// What a slot of a row holds.
struct Slot {
  int number;
  int head;         // of the block's heads
  int width;        // channels; 0 if there are none
  int64_t channel;  // the first

  DYNCONV_DEVICE Slot(const Problem& p, const Plan& plan, const Place& place, int vector, int chunk, int number)
      : number(number) {
    head = plan.heads > 1 ? number / plan.vectors : 0;
    const int64_t offset = static_cast<int64_t>(chunk * plan.slots + number - head * plan.vectors) * vector;
    const int64_t left = head < place.heads ? head_width(p) - offset : 0;
    width = static_cast<int>(most<int64_t>(least<int64_t>(vector, left), 0));
    channel = (place.head + head) * head_width(p) + offset;
  }
};

// Positions begin … end - 1 of `input`, whose first row is position `first`; rows outside are zeros.
struct Stretch {
  int64_t sentence;
  int64_t first;
  int rows;
  int64_t end;
};

// One thread's share of filling a tile. The copies may still be on their way when it returns.
template <typename S, typename Tile>
DYNCONV_DEVICE void load(const Tile& tile, const Input& input, const Stretch& stretch, const Slot& slot,
                         int num_threads, int thread) {
  const int start = thread / tile.slots, step = num_threads / tile.slots;
  if (start >= step) return;  // there are more threads than slots have use for
  const bool is_copied = input.is_aligned && slot.width == kVector<S>;
  for (int row = start; row < stretch.rows; row += step) {
    const int64_t t = stretch.first + row;
    char* const to = tile.at(row, slot.number);
    const bool is_there = t >= 0 && t < stretch.end;
    const S* const from = pointer_at<S>(input, stretch.sentence, is_there ? t : 0, slot.channel);
    if (is_there && is_copied) {
      copy_async(to, from);
    } else {
      S numbers[kVector<S>];
#pragma unroll
      for (int i = 0; i < kVector<S>; ++i) {
        numbers[i] = is_there && i < slot.width ? from[i * input.element] : static_cast<S>(0.0f);
      }
      write_shared(to, numbers);
    }
  }
}

// One thread's share of reading the logits of `rows` positions from `first` on, of all heads of the block. They go to
// `target`, a row of tap_pitch() numbers for every position and head.
template <typename S>
DYNCONV_DEVICE void load_logits(const Problem& p, const Plan& plan, const Place& place, int64_t first, int rows,
                                int num_threads, int thread, S* target) {
  const int count = place.heads * plan.kernel_size;
  int lanes = 1;  // threads that share a row
  while (lanes < count && lanes < 32 && 2 * lanes <= num_threads) lanes *= 2;
  const int step = num_threads / lanes;
  constexpr int kTogether = 8;  // rows that a thread reads before it writes the first: reads take long, and overlap
  for (int i = thread % lanes; i < count; i += lanes) {
    const int head = plan.heads > 1 ? i / plan.kernel_size : 0;
    S* const to = target + head * plan.tap_pitch() + i - head * plan.kernel_size;
    for (int begin = thread / lanes; begin < rows; begin += kTogether * step) {
      const auto is_there = [&](int row) { return row < rows && first + row >= 0 && first + row < p.num_positions; };
      S numbers[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int row = begin + j * step;
        const int64_t t = is_there(row) ? first + row : 0;
        numbers[j] = *pointer_at<S>(p.logits, place.sentence, t, place.head * plan.kernel_size + i);
      }
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int row = begin + j * step;
        if (is_there(row)) to[row * plan.heads * plan.tap_pitch()] = numbers[j];
      }
    }
  }
}

}  // namespace dynconv_mt::cuda
