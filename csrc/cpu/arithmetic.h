// What a vector's lanes come to: largest, sum, eight sums at once; and the exponential.
#pragma once

#include "vector.h"

namespace dynconv_mt::cpu {
namespace {

inline float largest(Vec<float> v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(bit_cast<__m512>(v));
#elif defined(__AVX2__)
  const __m256 whole = bit_cast<__m256>(v);
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(whole), _mm256_extractf128_ps(whole, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
#else
  float result = v[0];
  for (int64_t i = 1; i < kLanes<float>; ++i) result = v[i] > result ? v[i] : result;
  return result;
#endif
}

inline double largest(Vec<double> v) {
  double result = v[0];
  for (int64_t i = 1; i < kLanes<double>; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

inline float sum_lanes(Vec<float> v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(bit_cast<__m512>(v));
#elif defined(__AVX2__)
  const __m256 whole = bit_cast<__m256>(v);
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(whole), _mm256_extractf128_ps(whole, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
#else
  float result = v[0];
  for (int64_t i = 1; i < kLanes<float>; ++i) result += v[i];
  return result;
#endif
}

inline double sum_lanes(Vec<double> v) {
  double result = v[0];
  for (int64_t i = 1; i < kLanes<double>; ++i) result += v[i];
  return result;
}

// Adds the sums of the lanes of eight vectors, the first four to first[0 … 3], the others to second[0 … 3].
inline void add_sums(const Vec<float> (&v)[8], float* first, float* second) {
#if defined(__AVX2__)
  __m256 x[8];
  for (int i = 0; i < 8; ++i) {
#if defined(__AVX512F__)
    const __m512 whole = bit_cast<__m512>(v[i]);
    const __m256 upper = _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xFF, _mm512_castps_pd(whole), 1));
    x[i] = _mm256_add_ps(_mm512_castps512_ps256(whole), upper);
#else
    x[i] = bit_cast<__m256>(v[i]);
#endif
  }
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
  const __m256 sums = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  _mm_storeu_ps(first, _mm_add_ps(_mm_loadu_ps(first), _mm256_castps256_ps128(sums)));
  _mm_storeu_ps(second, _mm_add_ps(_mm_loadu_ps(second), _mm256_extractf128_ps(sums, 1)));
#else
  for (int i = 0; i < 4; ++i) first[i] += sum_lanes(v[i]);
  for (int i = 0; i < 4; ++i) second[i] += sum_lanes(v[4 + i]);
#endif
}

inline void add_sums(const Vec<double> (&v)[8], double* first, double* second) {
  for (int i = 0; i < 4; ++i) first[i] += sum_lanes(v[i]);
  for (int i = 0; i < 4; ++i) second[i] += sum_lanes(v[4 + i]);
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
  return bit_cast<Vec<float>>(result & ~is_tiny);
}

inline Vec<double> exp_of_negative(Vec<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

}  // namespace
}  // namespace dynconv_mt::cpu
