// Sums and maxima over the lanes of many vectors at once; and the exponential.
#pragma once

#include "vector.h"

namespace dynconv_mt::cpu {
namespace {

struct Sum {
  template <typename V>
  V operator()(V a, V b) const {
    return a + b;
  }
};

struct Maximum {
  template <typename V>
  V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

// Folds as many vectors as one has lanes: lane i of the result comes from all lanes of v[i]. The vectors are used up.
template <typename V, int N, typename Fold>
inline V fold_lanes(V (&v)[N], Fold fold) {
  V result;
  for (int i = 0; i < N; ++i) {
    auto lane = v[i][0];
    for (int j = 1; j < N; ++j) lane = fold(lane, v[i][j]);
    result[i] = lane;
  }
  return result;
}

#if defined(__AVX512F__)
// In each quarter: two lanes of a, then two of b, each folded from two.
template <typename Fold>
inline Vec<float> fold_pairs(Vec<float> a, Vec<float> b, Fold fold) {
  const __m512 x = bit_cast<__m512>(a), y = bit_cast<__m512>(b);
  const __m512 even = _mm512_maskz_shuffle_ps(0xFFFF, x, y, 0x88), odd = _mm512_maskz_shuffle_ps(0xFFFF, x, y, 0xDD);
  return fold(bit_cast<Vec<float>>(even), bit_cast<Vec<float>>(odd));
}

// The same with quarters for lanes.
template <typename Fold>
inline Vec<float> fold_quarters(Vec<float> a, Vec<float> b, Fold fold) {
  const __m512 x = bit_cast<__m512>(a), y = bit_cast<__m512>(b);
  const __m512 even = _mm512_maskz_shuffle_f32x4(0xFFFF, x, y, 0x88);
  const __m512 odd = _mm512_maskz_shuffle_f32x4(0xFFFF, x, y, 0xDD);
  return fold(bit_cast<Vec<float>>(even), bit_cast<Vec<float>>(odd));
}

template <typename Fold>
inline Vec<float> fold_lanes(Vec<float> (&v)[16], Fold fold) {
  for (int i = 0; i < 8; ++i) v[i] = fold_pairs(v[2 * i], v[2 * i + 1], fold);
  for (int i = 0; i < 4; ++i) v[i] = fold_pairs(v[2 * i], v[2 * i + 1], fold);
  return fold_quarters(fold_quarters(v[0], v[1], fold), fold_quarters(v[2], v[3], fold), fold);
}
#elif defined(__AVX2__)
template <typename Fold>
inline Vec<float> fold_pairs(Vec<float> a, Vec<float> b, Fold fold) {
  const __m256 x = bit_cast<__m256>(a), y = bit_cast<__m256>(b);
  return fold(bit_cast<Vec<float>>(_mm256_shuffle_ps(x, y, 0x88)), bit_cast<Vec<float>>(_mm256_shuffle_ps(x, y, 0xDD)));
}

template <typename Fold>
inline Vec<float> fold_lanes(Vec<float> (&v)[8], Fold fold) {
  for (int i = 0; i < 4; ++i) v[i] = fold_pairs(v[2 * i], v[2 * i + 1], fold);
  for (int i = 0; i < 2; ++i) v[i] = fold_pairs(v[2 * i], v[2 * i + 1], fold);
  const __m256 x = bit_cast<__m256>(v[0]), y = bit_cast<__m256>(v[1]);
  return fold(bit_cast<Vec<float>>(_mm256_permute2f128_ps(x, y, 0x20)),
              bit_cast<Vec<float>>(_mm256_permute2f128_ps(x, y, 0x31)));
}
#endif

// Adds the sums of the lanes of 2 · Q vectors, those of the first Q to first[0 … Q - 1], of the others to second.
template <int N, typename A>
inline void add_sums(Vec<A> (&v)[N], A* first, A* second) {
  constexpr int64_t lanes = kLanes<A>;
  A sums[N < lanes ? lanes : N];
  for (int i = 0; i < N; i += lanes) {
    Vec<A> some[lanes] = {};
    for (int64_t j = 0; j < least(N, lanes); ++j) some[j] = v[i + j];
    store(sums + i, fold_lanes(some, Sum{}));
  }
  for (int i = 0; i < N / 2; ++i) first[i] += sums[i];
  for (int i = 0; i < N / 2; ++i) second[i] += sums[N / 2 + i];
}

// exp(x) for x <= 0: 2^n · 2^r with an integer n and |r| <= 1/2. The polynomial for 2^r is the best of its degree (by
// Remez' algorithm, to 7.5e-8). Relative errors grow with -x, from 2.4e-7 to 1.4e-6; as a part of the largest tap, which
// is 1, all stay below 1.7e-7. Results below the smallest normal number are zero; NaN stays NaN.
inline Vec<float> exp_of_negative(Vec<float> x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: what is added to it is rounded to an integer
  const FloatBits is_tiny = (FloatBits)(x < -87.33f);
  const Vec<float> shifted = x * kLog2E + kRound;
  const Vec<float> r = x * kLog2E - (shifted - kRound);
  Vec<float> poly = splat(1.32764720e-3f);
  poly = poly * r + 9.67554133e-3f;
  poly = poly * r + 5.55071327e-2f;
  poly = poly * r + 2.40221197e-1f;
  poly = poly * r + 6.93146967e-1f;
  poly = poly * r + 1.00000007f;
  const FloatBits result = bit_cast<FloatBits>(poly) + (bit_cast<FloatBits>(shifted) << 23);
  const FloatBits is_nan = (FloatBits)(x != x);  // whose low bits would else have become an exponent: all ones instead
  return bit_cast<Vec<float>>((result & ~is_tiny) | is_nan);
}

inline Vec<double> exp_of_negative(Vec<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

}  // namespace
}  // namespace dynconv_mt::cpu
