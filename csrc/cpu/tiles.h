// Products with a banded matrix, a few of its rows at a time.
//
// y[t] = Σ_k taps[t, k] · x[t + k - padding_left] is a band times x. R rows of y read K + R - 1 rows of x:
//
//     j             0 1 2 3 …    K+2   Row r has its taps at columns r … r + K - 1. A tile of R rows goes through
//     position t    w w w w          three stages: R - 1 columns in which more and more rows take part, those of all
//     position t+1    w w w w        rows, and R - 1 in which fewer and fewer do.
//     position t+2      w w w w
//
// So tap k of position t is at[t · pitch + k], and column j of row r at[r · (pitch - 1) + j]: one number further left
// from row to row. The transposed band, for the gradient by x, is the same numbers with the two strides exchanged. One
// load of x serves R rows; all sums stay in registers, enough of them to hide the latency of FMA.
//
// Near the ends of a sentence some columns do not exist. A stage that none of its columns takes part in is left out,
// and the middle one is cut short; where the first or the last stage is cut in two, R - 2 rows of zeros lie around x.
#pragma once

#include "taps.h"

namespace dynconv_mt::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 4;  // of y in a tile: as many as the registers hold
#else
constexpr int kRows = 2;
#endif

// Columns of the tables of joined heads.
template <typename A>
constexpr int64_t kJoined = kJoinedBytes / sizeof(A);

// Row r and column j of the band at hand are at[r · row + j · column]: a tap for all channels, or, of joined heads, a
// row of a table.
template <typename A, bool IsJoined>
struct Band {
  const A* at;
  int64_t row;
  int64_t column;

  Band moved(int64_t num_columns) const { return {at + num_columns * column, row, column}; }
  Band from_channel(int64_t channel) const { return {IsJoined ? at + channel : at, row, column}; }
};

// Adds a column of rows first … last - 1 of the band times a row of x, V vectors of it.
template <int V, int R, typename A>
[[gnu::always_inline]] inline void add_column(const A* x, Band<A, false> band, int first, int last, Vec<A> (&y)[R][V]) {
  A taps[R];
#pragma GCC unroll 4
  for (int r = first; r < last; ++r) taps[r] = band.at[r * band.row];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    Vec<A> vector = load(x + v * kLanes<A>);
    keep_in_register(vector);
#pragma GCC unroll 4
    for (int r = first; r < last; ++r) y[r][v] += taps[r] * vector;
  }
}

template <int V, int R, typename A>
[[gnu::always_inline]] inline void add_column(const A* x, Band<A, true> band, int first, int last, Vec<A> (&y)[R][V]) {
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    Vec<A> vector = load(x + v * kLanes<A>);
    keep_in_register(vector);
#pragma GCC unroll 4
    for (int r = first; r < last; ++r) y[r][v] += load(band.at + r * band.row + v * kLanes<A>) * vector;
  }
}

// Adds `count` columns of all rows of the band times rows of x.
template <int V, int R, typename A>
[[gnu::always_inline]] inline void add_columns(
    const A* x, int64_t pitch, Band<A, false> band, int64_t count, Vec<A> (&y)[R][V]) {
#pragma GCC unroll 2
  for (int64_t j = 0; j < count; ++j, x += pitch, band.at += band.column) add_column(x, band, 0, R, y);
}

// Row r has the taps that row 0 had r columns before, so of R columns at a time each is loaded once.
template <int V, int R, typename A>
[[gnu::always_inline]] inline void add_columns(
    const A* x, int64_t pitch, Band<A, true> band, int64_t count, Vec<A> (&y)[R][V]) {
  if (count >= R) {
    Vec<A> taps[R][V];  // those of row 0 in columns j with j % R = 0 … R - 1
#pragma GCC unroll 4
    for (int r = 1; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) taps[R - r][v] = load(band.at + r * band.row + v * kLanes<A>);
    }
    for (; count >= R; count -= R) {
#pragma GCC unroll 4
      for (int j = 0; j < R; ++j, x += pitch, band.at += band.column) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          taps[j][v] = load(band.at + v * kLanes<A>);
          Vec<A> vector = load(x + v * kLanes<A>);
          keep_in_register(taps[j][v]);
          keep_in_register(vector);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) y[r][v] += taps[(j + R - r) % R][v] * vector;
        }
      }
    }
  }
  for (; count > 0; --count, x += pitch, band.at += band.column) add_column(x, band, 0, R, y);
}

// Columns of a tile that exist.
struct Columns {
  int64_t begin;
  int64_t end;
};

// y[r] = Σ_j band[r, j] · x[j] for R rows of V vectors; rows of x are `pitch` apart. R - 1 <= K.
template <int V, int R, typename A, bool IsJoined>
[[gnu::always_inline]] inline void multiply(
    const A* x, int64_t pitch, Band<A, IsJoined> band, int64_t kernel_size, Columns columns, Vec<A> (&y)[R][V]) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) y[r][v] = Vec<A>{};
  }
  if (columns.begin < R - 1 && columns.end > 0) {
#pragma GCC unroll 4
    for (int j = 0; j < R - 1; ++j) add_column(x + j * pitch, band.moved(j), 0, j + 1, y);
  }
  const int64_t begin = most(columns.begin, R - 1), end = least(columns.end, kernel_size);
  add_columns(x + begin * pitch, pitch, band.moved(begin), end - begin, y);
  if (columns.end > kernel_size && columns.begin < kernel_size + R - 1) {
    x += kernel_size * pitch;
    band = band.moved(kernel_size);
#pragma GCC unroll 4
    for (int j = 0; j < R - 1; ++j) add_column(x + j * pitch, band.moved(j), j + 1, R, y);
  }
}

// Rows of y, `pitch` apart: `count` of them, with `width` channels.
template <typename S>
struct Output {
  S* at;
  int64_t pitch;
  int64_t count;
  int64_t width;
};

// Stores the sums of R rows and V vectors from number `first` on, as far as y has them.
template <int R, int V, typename A, typename S>
[[gnu::always_inline]] inline void write(const Output<S>& y, int64_t first, const Vec<A> (&sums)[R][V]) {
  S* const at = y.at + first * kLanes<A>;
  const int64_t width = y.width - first * kLanes<A>;
  if (y.count >= R && width >= V * kLanes<A>) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(at + r * y.pitch + v * kLanes<A>, sums[r][v]);
    }
    return;
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t left = r < y.count ? width - v * kLanes<A> : 0;
      if (left > 0) store_some(at + r * y.pitch + v * kLanes<A>, sums[r][v], least(left, kLanes<A>));
    }
  }
}

template <int R, int V, typename A, bool IsJoined, typename S>
[[gnu::always_inline]] inline void multiply_vectors(const A* x, int64_t pitch, Band<A, IsJoined> band,
                                                    int64_t kernel_size, Columns columns, int64_t first,
                                                    const Output<S>& y) {
  Vec<A> sums[R][V];
  multiply(x + first * kLanes<A>, pitch, band.from_channel(first * kLanes<A>), kernel_size, columns, sums);
  write<R, V, A>(y, first, sums);
}

// A tile: R rows of all vectors of a block, four, two or one at a time. With AVX-512 taps of joined heads take the
// registers of the other two.
template <int R, typename A, bool IsJoined, typename S>
[[gnu::always_inline]] inline void multiply_block(
    const A* x, int64_t pitch, Band<A, IsJoined> band, int64_t kernel_size, Columns columns, const Output<S>& y) {
  const int64_t num_vectors = pitch / kLanes<A>;
  constexpr int V = IsJoined && kRows == 4 ? 2 : 4;
  int64_t v = 0;
  for (; v + V <= num_vectors; v += V) multiply_vectors<R, V>(x, pitch, band, kernel_size, columns, v, y);
  if (V == 4 && v + 2 <= num_vectors) {
    multiply_vectors<R, 2>(x, pitch, band, kernel_size, columns, v, y);
    v += 2;
  }
  if (v < num_vectors) multiply_vectors<R, 1>(x, pitch, band, kernel_size, columns, v, y);
}

// Sums up grad_y[r] · x[q] over pairs of rows and over the vectors of `width` channels, in sums[r · Q + q], for two rows
// of grad_y and Q of x.
template <int Q, typename A>
[[gnu::always_inline]] inline void sum_products(
    const A* grad_y, const A* x, int64_t pitch, int64_t width, int64_t num_pairs, Vec<A> (&sums)[2 * Q]) {
#pragma GCC unroll 16
  for (int i = 0; i < 2 * Q; ++i) sums[i] = Vec<A>{};
  for (int64_t pair = 0; pair < num_pairs; ++pair, grad_y += 2 * pitch, x += 2 * pitch) {
    for (int64_t c = 0; c < width; c += kLanes<A>) {
      const Vec<A> one = load(grad_y + c), other = load(grad_y + pitch + c);
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) {
        Vec<A> vector = load(x + q * pitch + c);
        keep_in_register(vector);
        sums[q] += one * vector;
        sums[Q + q] += other * vector;
      }
    }
  }
}

// Adds these sums, over all channels, to first[q] (r = 0) and second[q] (r = 1).
template <int Q, typename A>
[[gnu::always_inline]] inline void correlate(
    const A* grad_y, const A* x, int64_t pitch, int64_t num_pairs, A* first, A* second) {
  Vec<A> sums[2 * Q];
  sum_products<Q>(grad_y, x, pitch, pitch, num_pairs, sums);
  add_sums(sums, first, second);
}

// Adds them, channel by channel, to rows 0 … Q - 1 (r = 0) and -1 … Q - 2 (r = 1) of a table.
template <int Q, typename A>
[[gnu::always_inline]] inline void correlate_joined(
    const A* grad_y, const A* x, int64_t pitch, int64_t num_pairs, A* table) {
  for (int64_t c = 0; c < pitch; c += kLanes<A>) {
    Vec<A> sums[2 * Q];
    sum_products<Q>(grad_y + c, x + c, pitch, kLanes<A>, num_pairs, sums);
#pragma GCC unroll 5
    for (int q = -1; q < Q; ++q) {
      A* const at = table + q * kJoined<A> + c;
      Vec<A> sum = load(at);
      if (q >= 0) sum += sums[q];
      if (q < Q - 1) sum += sums[Q + q + 1];
      store(at, sum);
    }
  }
}

}  // namespace
}  // namespace dynconv_mt::cpu
