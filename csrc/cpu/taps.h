// From logits to taps and back: softmax over the taps, DropConnect, and their gradients, a row of K taps at a time.
//
// A row takes `pitch` numbers in scratch memory, K taps and then zeros: a multiple of the vector and of four, at least
// K + 1, since gradients by taps are computed for two rows at once that are one column apart.
#pragma once

#include "arithmetic.h"

namespace dynconv_mt::cpu {
namespace {

template <typename A>
inline int64_t pitch_of(int64_t kernel_size) {
  constexpr int64_t step = kLanes<A> < 4 ? 4 : kLanes<A>;
  return (kernel_size + step) / step * step;
}

// In place. `N` vectors to a row, or `num_vectors` where N is 0. As many rows as a vector has lanes pass each of three
// stages before the next, so that what a row's lanes come to is found for all of them together.
template <int N, typename A>
void softmax_rows_of(A* rows, int64_t num_rows, int64_t num_vectors) {
  const int64_t count = N > 0 ? N : num_vectors, pitch = count * kLanes<A>;
  Vec<A> folded[kLanes<A>] = {};
  for (int64_t begin = 0; begin < num_rows; begin += kLanes<A>, rows += kLanes<A> * pitch) {
    const int64_t group = least(num_rows - begin, kLanes<A>);
    for (int64_t r = 0; r < group; ++r) {
      folded[r] = load(rows + r * pitch);
      for (int64_t i = 1; i < count; ++i) folded[r] = Maximum{}(load(rows + r * pitch + i * kLanes<A>), folded[r]);
    }
    const Vec<A> highest = fold_lanes(folded, Maximum{});
    for (int64_t r = 0; r < group; ++r) {
      folded[r] = Vec<A>{};
      for (int64_t i = 0; i < count; ++i) {
        A* at = rows + r * pitch + i * kLanes<A>;
        const Vec<A> exponential = exp_of_negative(load(at) - highest[r]);
        folded[r] += exponential;
        store(at, exponential);
      }
    }
    const Vec<A> scale = A(1) / fold_lanes(folded, Sum{});
    for (int64_t r = 0; r < group; ++r) {
      for (int64_t i = 0; i < count; ++i) {
        A* at = rows + r * pitch + i * kLanes<A>;
        store(at, load(at) * scale[r]);
      }
    }
  }
}

template <typename A>
void softmax_rows(A* rows, int64_t count, int64_t pitch) {
  switch (pitch / kLanes<A>) {
    case 1: return softmax_rows_of<1>(rows, count, 1);
    case 2: return softmax_rows_of<2>(rows, count, 2);
    case 4: return softmax_rows_of<4>(rows, count, 4);
    default: return softmax_rows_of<0>(rows, count, pitch / kLanes<A>);
  }
}

// Gradients by the final taps become gradients by the logits: final · gradient - plain · Σ final · gradient, where
// `plain` are the taps before DropConnect, whose factors final = factor · plain holds already.
template <typename A>
void softmax_rows_backward(A* grads, const A* final, const A* plain, int64_t num_rows, int64_t pitch) {
  Vec<A> folded[kLanes<A>] = {};
  for (int64_t begin = 0; begin < num_rows; begin += kLanes<A>) {
    const int64_t group = least(num_rows - begin, kLanes<A>), size = group * pitch;
    for (int64_t r = 0; r < group; ++r) {
      folded[r] = Vec<A>{};
      for (int64_t i = r * pitch; i < (r + 1) * pitch; i += kLanes<A>) {
        const Vec<A> product = load(final + i) * load(grads + i);
        folded[r] += product;
        store(grads + i, product);
      }
    }
    const Vec<A> totals = fold_lanes(folded, Sum{});
    for (int64_t r = 0; r < group; ++r) {
      for (int64_t i = r * pitch; i < (r + 1) * pitch; i += kLanes<A>) {
        store(grads + i, load(grads + i) - load(plain + i) * totals[r]);
      }
    }
    grads += size;
    final += size;
    plain += size;
  }
}

template <typename Word>
inline Word mix(Word v) {
  v ^= v >> 16;
  v *= 0x7FEB352Du;
  v ^= v >> 15;
  v *= 0x846CA68Bu;
  return v ^ v >> 16;
}

constexpr uint32_t kGolden = 0x9E3779B9u;

// What the seed makes of a state.
inline uint32_t seeded_state(const DropConnect& drop) {
  return mix(mix(kGolden ^ static_cast<uint32_t>(drop.seed)) ^ static_cast<uint32_t>(drop.seed >> 32));
}

// The states of consecutive rows of taps. Their low halves may overflow once.
inline void row_states(uint32_t seeded, uint64_t first, int64_t count, uint32_t* states) {
  const uint32_t low = static_cast<uint32_t>(first), high = static_cast<uint32_t>(first >> 32);
  const uint32_t here = mix(seeded ^ high), next = mix(seeded ^ (high + 1u));
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t row = low + static_cast<uint32_t>(i);
    states[i] = mix((row < low ? next : here) ^ row);
  }
}

// Multiplies a row by DropConnect's factors; the product may take its place.
inline void drop_row(const DropConnect& drop, const float* row, float* product, int64_t pitch, uint32_t state) {
  FloatBits step;
  for (int64_t i = 0; i < kLanes<float>; ++i) step[i] = static_cast<uint32_t>(i) * kGolden;
  const float scale = static_cast<float>(drop.scale);
  for (int64_t i = 0; i < pitch; i += kLanes<float>) {
    const FloatBits bits = mix(step + (state + static_cast<uint32_t>(i) * kGolden));
    const FloatBits is_kept = (FloatBits)(bits >= drop.threshold);
    store(product + i, bit_cast<Vec<float>>(bit_cast<FloatBits>(load(row + i) * scale) & is_kept));
  }
}

inline void drop_row(const DropConnect& drop, const double* row, double* product, int64_t pitch, uint32_t state) {
  for (int64_t i = 0; i < pitch; ++i) {
    const bool is_kept = mix(state + static_cast<uint32_t>(i) * kGolden) >= drop.threshold;
    product[i] = is_kept ? row[i] * drop.scale : 0.0;
  }
}

// The same for the rows of positions first … first + count - 1.
template <typename A>
void drop_rows(const Problem& p, int64_t sentence, int64_t head, int64_t first, int64_t count, const A* rows,
               A* products, int64_t pitch) {
  const uint32_t seeded = seeded_state(p.drop);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t row = (sentence * p.num_positions + first + i) * p.num_heads + head;
    uint32_t state;
    row_states(seeded, row, 1, &state);
    drop_row(p.drop, rows + i * pitch, products + i * pitch, pitch, state);
  }
}

template <typename A>
inline A fill_of(bool softmax) {
  return softmax ? -static_cast<A>(__builtin_inf()) : A(0);
}

// The rows of positions first … first + count - 1 of dynamic_conv, before DropConnect.
template <typename S, typename A>
void dynamic_rows(
    const Problem& p, int64_t sentence, int64_t head, int64_t first, int64_t count, A* rows, int64_t pitch) {
  const int64_t kernel_size = p.kernel_size, stride = p.logits.element;
  const S* source = static_cast<const S*>(p.logits.data) + sentence * p.logits.sentence + first * p.logits.position +
                    head * kernel_size * stride;
  for (int64_t i = 0; i < count; ++i, source += p.logits.position) {
    if (stride == 1) {
      prefetch_row<0>(source + kAhead * p.logits.position, kernel_size);
      copy_row(rows + i * pitch, source, kernel_size, pitch, fill_of<A>(p.softmax), p.logits.end);
    } else {
      gather_row(rows + i * pitch, source, stride, kernel_size, pitch, fill_of<A>(p.softmax));
    }
  }
  if (p.softmax) softmax_rows(rows, count, pitch);
}

// The one row of light_conv.
template <typename A>
void light_row(const Problem& p, int64_t head, A* row, int64_t pitch) {
  const A* source = static_cast<const A*>(p.weight) + head * p.kernel_size;
  copy_row(row, source, p.kernel_size, pitch, fill_of<A>(p.softmax), nullptr);
  if (p.softmax) softmax_rows(row, 1, pitch);
}

}  // namespace
}  // namespace dynconv_mt::cpu
