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
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(whole), 1));
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

// exp(x) for x <= 0, to 1 or 2 units in the last place: 2^n · exp(r) with |r| <= log(2) / 2 and the polynomial of
// Cephes. Results below the smallest normal number are zero; NaN stays NaN.
inline Vec<float> exp_of_negative(Vec<float> x) {
  const FloatBits is_tiny = (FloatBits)(x < -87.33f);
  x = is_tiny ? splat(0.0f) : x;
  const Vec<float> shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 · 2^23: rounds to an integer
  const Vec<float> n = shifted - 12582912.0f;
  const Vec<float> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec<float> poly = splat(1.9875691500e-4f);
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  poly = poly * (r * r) + r + 1.0f;
  const FloatBits exponent = (bit_cast<FloatBits>(shifted) - 0x4B400000u + 127u) << 23;
  const Vec<float> result = poly * bit_cast<Vec<float>>(exponent);
  return bit_cast<Vec<float>>(bit_cast<FloatBits>(result) & ~is_tiny);
}

inline Vec<double> exp_of_negative(Vec<double> x) {
  for (int64_t i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

}  // namespace
}  // namespace dynconv_mt::cpu
