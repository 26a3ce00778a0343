// Decoding: the causal convolutions of a few new positions, over a ring buffer of the inputs before them.
//
// Input number p of a beam slot lies in row p % (K - 1) of the buffer of the slot that its hypothesis was in then, which
// `slots` names; dynconv_mt/ops/decoding.py has the whole story. Nothing is gathered: sums run over pointers to rows.
#pragma once

#include "taps.h"

namespace dynconv_mt::cpu {
namespace {

// Rows of inputs and the taps that they are multiplied by. R: what the rows are stored as.
template <typename R, typename A>
struct Window {
  const R* const* rows;
  const A* taps;
  int64_t count;
};

template <int V, typename R, typename A>
inline void add_window(const Window<R, A>& window, int64_t channel, Vec<A> (&sums)[V]) {
  for (int64_t k = 0; k < window.count; ++k) {
    const A tap = window.taps[k];
    for (int v = 0; v < V; ++v) sums[v] += tap * load(window.rows[k] + channel + v * kLanes<A>);
  }
}

// V vectors of y from `channel` on: the sums over past and new inputs.
template <int V, typename D, typename S, typename A>
inline void write_sums(const Window<D, A>& past, const Window<S, A>& fresh, int64_t channel, S* y) {
  Vec<A> sums[V] = {};
  add_window(past, channel, sums);
  add_window(fresh, channel, sums);
  for (int v = 0; v < V; ++v) store(y + channel + v * kLanes<A>, sums[v]);
}

// Heads narrower than a vector: as much of one as there is.
template <typename R, typename A>
inline void add_narrow(const Window<R, A>& window, int64_t width, Vec<A>& sum) {
  for (int64_t k = 0; k < window.count; ++k) {
    R lanes[kLanes<A>] = {};
    for (int64_t c = 0; c < width; ++c) lanes[c] = window.rows[k][c];
    sum += window.taps[k] * load(lanes);
  }
}

template <typename D, typename S, typename A>
void write_head(const Window<D, A>& past, const Window<S, A>& fresh, int64_t width, S* y) {
  if (width < kLanes<A>) {
    Vec<A> sum = {};
    add_narrow(past, width, sum);
    add_narrow(fresh, width, sum);
    return store_some(y, sum, width);
  }
  int64_t channel = 0;
  for (; channel + 4 * kLanes<A> <= width; channel += 4 * kLanes<A>) write_sums<4>(past, fresh, channel, y);
  for (; channel + kLanes<A> <= width; channel += kLanes<A>) write_sums<1>(past, fresh, channel, y);
  if (channel < width) write_sums<1>(past, fresh, width - kLanes<A>, y);  // some channels twice
}

// The final taps of a head for all W·N new positions, a row each, or one row for all (the result is then 0).
template <typename S, typename A>
int64_t step_taps(const Step& s, int64_t sentence, int64_t head, A* rows) {
  const int64_t pitch = pitch_of<A>(s.kernel_size), count = s.num_slots * s.num_new;
  const A fill = fill_of<A>(s.softmax);
  if (s.weight) {
    copy_row(rows, static_cast<const A*>(s.weight) + head * s.kernel_size, s.kernel_size, pitch, fill, nullptr);
  } else {
    const S* logits = static_cast<const S*>(s.logits);
    const S* const end = logits + s.num_sentences * count * s.num_heads * s.kernel_size;
    const S* source = logits + (sentence * count * s.num_heads + head) * s.kernel_size;
    for (int64_t i = 0; i < count; ++i, source += s.num_heads * s.kernel_size) {
      copy_row(rows + i * pitch, source, s.kernel_size, pitch, fill, end);
    }
  }
  if (s.softmax) softmax_rows(rows, s.weight ? 1 : count, pitch);
  return s.weight ? 0 : pitch;
}

// Pointers to the K - 1 inputs before the new ones of a slot, the oldest first, and to the new ones.
template <typename D, typename S>
void find_rows(const Step& s, int64_t sentence, int64_t slot, int64_t channel, const D** past, const S** fresh) {
  const int64_t num_past = s.kernel_size - 1;
  const int64_t* ancestors = s.slots + (sentence * s.ancestry + slot) * num_past;
  const D* buffer = static_cast<const D*>(s.buffer) + channel;
  for (int64_t j = 0; j < num_past; ++j) {
    const int64_t row = (s.position + j) % num_past;
    past[j] = buffer + ((sentence * s.beam + ancestors[row]) * num_past + row) * s.num_channels;
  }
  const S* x = static_cast<const S*>(s.x) + (sentence * s.num_slots + slot) * s.num_new * s.num_channels + channel;
  for (int64_t n = 0; n < s.num_new; ++n) fresh[n] = x + n * s.num_channels;
}

template <typename A, typename S>
void copy_channels(S* target, const S* source, int64_t width) {
  __builtin_memcpy(target, source, static_cast<size_t>(width) * sizeof(S));
}

template <typename A, typename D, typename S>
void copy_channels(D* target, const S* source, int64_t width) {
  for (int64_t c = 0; c < width; c += kLanes<A>) {
    A lanes[kLanes<A>];
    copy_row(lanes, source + c, least(width - c, kLanes<A>), kLanes<A>, A(0), nullptr);
    store_some(target + c, load(lanes), least(width - c, kLanes<A>));
  }
}

// Writes the last new inputs, K - 1 at most, over the oldest ones.
template <typename D, typename S, typename A>
void append(const Step& s, int64_t sentence, int64_t slot, int64_t channel) {
  const int64_t num_past = s.kernel_size - 1, width = s.num_channels / s.num_heads;
  const int64_t row = sentence * s.num_slots + slot;
  const S* x = static_cast<const S*>(s.x) + row * s.num_new * s.num_channels + channel;
  D* buffer = static_cast<D*>(s.buffer) + (sentence * s.beam + slot) * num_past * s.num_channels + channel;
  for (int64_t n = most(s.num_new - num_past, 0); n < s.num_new; ++n) {
    D* target = buffer + (s.position + n) % num_past * s.num_channels;
    copy_channels<A>(target, x + n * s.num_channels, width);
  }
}

// Results first, for all slots: what is written afterwards takes the place of inputs that they read.
template <typename D, typename S, typename A>
void step_task(const Step& s, int64_t sentence, int64_t head, A* scratch) {
  const int64_t num_past = s.kernel_size - 1, width = s.num_channels / s.num_heads, channel = head * width;
  const int64_t pitch = step_taps<S>(s, sentence, head, scratch);
  A* const behind_taps = scratch + s.num_slots * s.num_new * pitch_of<A>(s.kernel_size);
  const D** const past = reinterpret_cast<const D**>(behind_taps);
  const S** const fresh = reinterpret_cast<const S**>(past + num_past);
  for (int64_t slot = 0; slot < s.num_slots; ++slot) {
    find_rows(s, sentence, slot, channel, past, fresh);
    for (int64_t n = 0; n < s.num_new; ++n) {
      const int64_t number = slot * s.num_new + n, num_read = most(num_past - n, 0);
      const A* taps = scratch + number * pitch;
      const Window<D, A> before = {past + n, taps, num_read};
      const Window<S, A> since = {fresh + most(n - num_past, 0), taps + num_read, s.kernel_size - num_read};
      S* y = static_cast<S*>(s.y) + (sentence * s.num_slots * s.num_new + number) * s.num_channels + channel;
      write_head(before, since, width, y);
    }
  }
  for (int64_t slot = 0; slot < s.num_slots && num_past > 0; ++slot) append<D, S, A>(s, sentence, slot, channel);
}

template <typename D, typename S, typename A>
void step_tasks(const Step& s, int64_t begin, int64_t end, void* scratch) {
  for (int64_t i = begin; i < end; ++i) {
    step_task<D, S>(s, i / s.num_heads, i % s.num_heads, static_cast<A*>(scratch));
  }
}

void step(const Step& s, int64_t begin, int64_t end, void* scratch) {
  switch (s.storage) {
    case Storage::kFloat32: return step_tasks<float, float, float>(s, begin, end, scratch);
    case Storage::kFloat64: return step_tasks<double, double, double>(s, begin, end, scratch);
    case Storage::kBFloat16:
      if (s.is_wide) return step_tasks<float, BFloat16, float>(s, begin, end, scratch);
      return step_tasks<BFloat16, BFloat16, float>(s, begin, end, scratch);
    case Storage::kFloat16:
      if (s.is_wide) return step_tasks<float, Float16, float>(s, begin, end, scratch);
      return step_tasks<Float16, Float16, float>(s, begin, end, scratch);
  }
}

}  // namespace
}  // namespace dynconv_mt::cpu
