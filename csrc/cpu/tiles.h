// Products with a banded matrix, two of its rows at a time.
//
// y[t] = Σ_k taps[t, k] · x[t + k - padding_left] is a band times x. Two rows of y read K + 1 rows of x:
//
//     j             0 1 2 3 …  K       The taps of a position are followed by zeros in memory, and zeros precede the
//     position t    w w w w w  .       first. Read one number further left, the row of t + 1 begins with the zero
//     position t+1  . w w w w  w       behind the taps of t, so that no case distinction is needed at the ends.
//
// So the band is taps[row · (pitch - 1) + j], and its transpose, for the gradient by x, the same numbers with the two
// strides exchanged. One load of x serves two rows; eight sums stay in registers, enough to hide the latency of FMA.
#pragma once

#include "taps.h"

namespace dynconv_mt::cpu {
namespace {

// Channels that are packed together: 256 bytes, four cache lines, 8 vectors of AVX2.
template <typename A>
constexpr int64_t kBlock = 512 / sizeof(A);

// Row r and column j of the band at hand are at[r · row + j · column].
template <typename A>
struct Band {
  const A* at;
  int64_t row;
  int64_t column;
};

// y[r] = Σ_j band[r, j] · x[j] for two rows of V vectors; rows of x are `pitch` apart. `Count` columns, the first of
// which has no second row and the last no first one; or any `count` columns if `Count` is 0.
template <int V, int Count, typename A>
[[gnu::always_inline]] inline void multiply(
    const A* x, int64_t pitch, Band<A> band, int64_t count, Vec<A> (&y)[2][V]) {
  for (int v = 0; v < V; ++v) {
    y[0][v] = Count > 0 ? band.at[0] * load(x + v * kLanes<A>) : Vec<A>{};
    y[1][v] = Vec<A>{};
  }
  constexpr int64_t kPeeled = Count > 0;
  x += kPeeled * pitch;
  band.at += kPeeled * band.column;
#pragma GCC unroll 2
  for (int64_t j = kPeeled; j < (Count > 0 ? Count - 1 : count); ++j, x += pitch, band.at += band.column) {
    const A first = band.at[0], second = band.at[band.row];
    for (int v = 0; v < V; ++v) {
      Vec<A> vector = load(x + v * kLanes<A>);
      keep_in_register(vector);
      y[0][v] += first * vector;
      y[1][v] += second * vector;
    }
  }
  if (Count > 0) {
    for (int v = 0; v < V; ++v) y[1][v] += band.at[band.row] * load(x + v * kLanes<A>);
  }
}

// Two rows of y, or one, `pitch` apart, of which `width` channels are stored.
template <typename S>
struct Output {
  S* at;
  int64_t pitch;
  int64_t rows;
  int64_t width;
};

template <int V, typename A, typename S>
inline void write(const Output<S>& y, int64_t channel, const Vec<A> (&sums)[2][V]) {
  if (y.rows == 2 && channel + V * kLanes<A> <= y.width) {
    for (int r = 0; r < 2; ++r) {
      for (int v = 0; v < V; ++v) store(y.at + r * y.pitch + channel + v * kLanes<A>, sums[r][v]);
    }
    return;
  }
  for (int64_t r = 0; r < y.rows; ++r) {
    for (int v = 0; v < V; ++v) {
      const int64_t begin = channel + v * kLanes<A>;
      S* target = y.at + r * y.pitch + begin;
      if (begin + kLanes<A> <= y.width) {
        store(target, sums[r][v]);
      } else {
        store_some(target, sums[r][v], y.width - begin);
      }
    }
  }
}

// All vectors of a block, four, two or one at a time.
template <int Count, typename A, typename S>
inline void multiply_block(
    const A* x, int64_t pitch, Band<A> band, int64_t count, int64_t num_vectors, const Output<S>& y) {
  int64_t v = 0;
  for (; v + 4 <= num_vectors; v += 4) {
    Vec<A> sums[2][4];
    multiply<4, Count>(x + v * kLanes<A>, pitch, band, count, sums);
    write<4, A>(y, v * kLanes<A>, sums);
  }
  if (v + 2 <= num_vectors) {
    Vec<A> sums[2][2];
    multiply<2, Count>(x + v * kLanes<A>, pitch, band, count, sums);
    write<2, A>(y, v * kLanes<A>, sums);
    v += 2;
  }
  if (v < num_vectors) {
    Vec<A> sums[2][1];
    multiply<1, Count>(x + v * kLanes<A>, pitch, band, count, sums);
    write<1, A>(y, v * kLanes<A>, sums);
  }
}

// A stretch of rows (positions), packed: row i stands for position first + i; `begin` … `end` - 1 hold numbers.
template <typename A>
struct Packed {
  A* rows;  // of position `begin`; kGuard rows lie on either side
  int64_t begin;
  int64_t end;
  int64_t pitch;  // numbers from row to row: the channels, filled up to whole vectors

  const A* at(int64_t position) const { return rows + (position - begin) * pitch; }
};
constexpr int64_t kGuard = 5;

// Rows t and t + 1 of a band times the rows origin … origin + K of `x`, those that do not exist left out.
template <int K, typename A, typename S>
inline void multiply_pair(
    const Packed<A>& x, int64_t origin, Band<A> band, int64_t kernel_size, int64_t num_vectors, const Output<S>& y) {
  for (int64_t r = 0; r < 2; ++r) prefetch_row<1>(y.at + (kAhead + r) * y.pitch, y.width);
  const int64_t begin = x.begin > origin ? x.begin : origin;
  const int64_t end = x.end < origin + kernel_size + 1 ? x.end : origin + kernel_size + 1;
  if (K > 0 && end - begin == K + 1) return multiply_block<K + 1>(x.at(origin), x.pitch, band, 0, num_vectors, y);
  band.at += (begin - origin) * band.column;
  multiply_block<0>(x.at(begin), x.pitch, band, end - begin, num_vectors, y);
}

// Adds Σ grad_y[r] · x[q], summed over pairs of rows and over channels, to first[q] (r = 0) and second[q] (r = 1), for
// two rows of grad_y and four of x.
template <typename A>
[[gnu::always_inline]] inline void correlate(
    const A* grad_y, const A* x, int64_t pitch, int64_t num_pairs, int64_t num_vectors, A* first, A* second) {
  Vec<A> sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = Vec<A>{};
  for (int64_t pair = 0; pair < num_pairs; ++pair, grad_y += 2 * pitch, x += 2 * pitch) {
    for (int64_t c = 0; c < num_vectors * kLanes<A>; c += kLanes<A>) {
      const Vec<A> one = load(grad_y + c), other = load(grad_y + pitch + c);
      for (int q = 0; q < 4; ++q) {
        Vec<A> vector = load(x + q * pitch + c);
        keep_in_register(vector);
        sums[q] += one * vector;
        sums[4 + q] += other * vector;
      }
    }
  }
  add_sums(sums, first, second);
}

// Copies channels `channel` … + width - 1 of positions begin … end - 1. What the guards hold is left open.
template <typename S, typename A>
Packed<A> pack(
    const Input& input, int64_t sentence, int64_t channel, int64_t width, int64_t begin, int64_t end, A* scratch) {
  end = end < begin ? begin : end;
  const int64_t padded = (width + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
  const Packed<A> packed = {scratch + kGuard * padded, begin, end, padded};
  const S* source =
      static_cast<const S*>(input.data) + sentence * input.sentence + begin * input.position + channel * input.element;
  A* target = packed.rows;
  const int64_t ahead = kAhead * input.position;
  for (int64_t i = begin; i < end; ++i, source += input.position, target += padded) {
    if (input.element == 1) {
      prefetch_row<0>(source + ahead, width);
      copy_row(target, source, width, padded, A(0), input.end);
    } else {
      gather_row(target, source, input.element, width, padded, A(0));
    }
  }
  return packed;
}

// Makes the guards zeros, as `correlate` reads them.
template <typename A>
void clear_guards(const Packed<A>& packed) {
  const int64_t size = kGuard * packed.pitch;
  A* const behind = packed.rows + (packed.end - packed.begin) * packed.pitch;
  for (int64_t i = 0; i < size; i += kLanes<A>) {
    store(packed.rows - size + i, Vec<A>{});
    store(behind + i, Vec<A>{});
  }
}

}  // namespace
}  // namespace dynconv_mt::cpu
