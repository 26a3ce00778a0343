// Products of 16 × 16 matrices in shared memory, on the tensor cores: a warp holds each, in registers. Left and right
// matrices have numbers of 16 bits, sums are in float. Addresses are multiples of 32 bytes, pitches of 16.
#pragma once

#include "storage.h"

#ifdef __CUDACC__
#include <mma.h>
#endif

namespace dynconv_mt::cuda {

constexpr int kSide = 16;

#ifdef __CUDACC__

template <typename S>
struct NativeOf {
  using Type = __half;
};
template <>
struct NativeOf<BFloat16> {
  using Type = __nv_bfloat16;
};
template <typename S>
using Native = typename NativeOf<S>::Type;

namespace wmma = nvcuda::wmma;

// Rows of numbers, `pitch` of them apart.
template <typename S>
struct Left {
  wmma::fragment<wmma::matrix_a, kSide, kSide, kSide, Native<S>, wmma::row_major> held;

  DYNCONV_DEVICE Left(const char* from, int pitch) {
    wmma::load_matrix_sync(held, reinterpret_cast<const Native<S>*>(from), pitch);
  }
};

// The same, or if kIsTransposed the transpose of what is there.
template <typename S, bool kIsTransposed>
struct Right {
  using Layout = std::conditional_t<kIsTransposed, wmma::col_major, wmma::row_major>;
  wmma::fragment<wmma::matrix_b, kSide, kSide, kSide, Native<S>, Layout> held;

  DYNCONV_DEVICE Right(const char* from, int pitch) {
    wmma::load_matrix_sync(held, reinterpret_cast<const Native<S>*>(from), pitch);
  }
};

struct Sums {
  wmma::fragment<wmma::accumulator, kSide, kSide, kSide, float> held;

  DYNCONV_DEVICE Sums() { wmma::fill_fragment(held, 0.0f); }

  template <typename Left, typename Right>
  DYNCONV_DEVICE void add_product(const Left& left, const Right& right) {
    wmma::mma_sync(held, left.held, right.held, held);
  }
  DYNCONV_DEVICE void store(float* to, int pitch) const {
    wmma::store_matrix_sync(to, held, pitch, wmma::mem_row_major);
  }
};

#else

template <typename S>
struct Left {
  float held[kSide][kSide];

  Left(const char* from, int pitch) { on_host::load_matrix<S>(from, pitch, held); }
};

template <typename S, bool kIsTransposed>
struct Right {
  float held[kSide][kSide];

  Right(const char* from, int pitch) {
    float rows[kSide][kSide];
    on_host::load_matrix<S>(from, pitch, rows);
    for (int r = 0; r < kSide; ++r) {
      for (int c = 0; c < kSide; ++c) held[r][c] = kIsTransposed ? rows[c][r] : rows[r][c];
    }
  }
};

struct Sums {
  float held[kSide][kSide] = {};

  template <typename Left, typename Right>
  void add_product(const Left& left, const Right& right) {
    for (int r = 0; r < kSide; ++r) {
      for (int i = 0; i < kSide; ++i) {
        for (int c = 0; c < kSide; ++c) held[r][c] += left.held[r][i] * right.held[i][c];
      }
    }
  }
  void store(float* to, int pitch) const {
    for (int r = 0; r < kSide; ++r) memcpy(to + r * pitch, held[r], sizeof(held[r]));
  }
};

#endif

}  // namespace dynconv_mt::cuda
