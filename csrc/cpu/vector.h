// Vectors of floats or doubles as the compiler's own vector types, and the conversions of half-precision numbers.
//
// One source for every machine: the same code becomes SSE2 or NEON, AVX2 or AVX-512 by the flags it is compiled with.
// Intrinsics appear only where compilers do badly without. Those with a mask of ones do what those without one do, whose
// definitions GCC 12 warns about.
#pragma once

#include "problem.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

namespace dynconv_mt::cpu {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// A: the precision of the arithmetic, float or double.
template <typename A>
struct Vectors;
template <>
struct Vectors<float> {
  using Word = uint32_t;
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
  typedef uint16_t Halves __attribute__((vector_size(VECTOR_BYTES / 2)));
};
template <>
struct Vectors<double> {
  using Word = uint64_t;
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(VECTOR_BYTES)));
};
template <typename A>
using Vec = typename Vectors<A>::Vec;
using FloatBits = Vectors<float>::Bits;
using Halves = Vectors<float>::Halves;

template <typename A>
constexpr int64_t kLanes = VECTOR_BYTES / sizeof(A);

constexpr int64_t kAhead = 8;  // rows from the one at hand to the one that the caches are asked for

template <typename To, typename From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename V>
inline V load_bits(const void* source) {
  V vector;
  __builtin_memcpy(&vector, source, sizeof(V));
  return vector;
}

// Half precision to float: the exponent is moved to its place by a product, which normalises subnormals as well.
inline Vec<float> from_halves(Halves halves, Float16) {
#if defined(__AVX512F__)
  return bit_cast<Vec<float>>(_mm512_maskz_cvtph_ps(0xFFFF, bit_cast<__m256i>(halves)));
#elif defined(__AVX2__)
  return bit_cast<Vec<float>>(_mm256_cvtph_ps(bit_cast<__m128i>(halves)));
#else
  const FloatBits wide = __builtin_convertvector(halves, FloatBits);
  const FloatBits magnitude = wide & 0x7FFFu;
  FloatBits bits = bit_cast<FloatBits>(bit_cast<Vec<float>>(magnitude << 13) * 0x1p112f);
  bits |= (FloatBits)(magnitude > 0x7BFFu) & 0x7F800000u;  // Inf and NaN
  return bit_cast<Vec<float>>(bits | (wide & 0x8000u) << 16);
#endif
}

inline Vec<float> from_halves(Halves halves, BFloat16) {
  return bit_cast<Vec<float>>(__builtin_convertvector(halves, FloatBits) << 16);
}

// Rounding to nearest, ties to even. NaN stays NaN.
inline Halves to_halves(Vec<float> vector, BFloat16) {
  const FloatBits bits = bit_cast<FloatBits>(vector);
  const FloatBits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const FloatBits is_number = (FloatBits)(vector == vector);
  return __builtin_convertvector(is_number ? rounded : 0x7FC0u - FloatBits{}, Halves);
}

inline Halves to_halves(Vec<float> vector, Float16) {
#if defined(__AVX512F__)
  return bit_cast<Halves>(_mm512_maskz_cvtps_ph(0xFFFF, bit_cast<__m512>(vector), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  return bit_cast<Halves>(_mm256_cvtps_ph(bit_cast<__m256>(vector), _MM_FROUND_TO_NEAREST_INT));
#else
  const FloatBits bits = bit_cast<FloatBits>(vector);
  const FloatBits magnitude = bits & 0x7FFFFFFFu;
  const FloatBits sign = (bits >> 16) & 0x8000u;
  // below 2^-14 the sum with 0.5 leaves the subnormal's digits at the end of the mantissa, rounded by the adder
  const Vec<float> shifted = bit_cast<Vec<float>>(magnitude) + 0.5f;
  const FloatBits subnormal = bit_cast<FloatBits>(shifted) - 0x3F000000u;
  const FloatBits normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  const FloatBits is_small = (FloatBits)(magnitude < 0x38800000u);
  const FloatBits is_large = (FloatBits)(magnitude >= 0x477FF000u);  // rounds to Inf, or is Inf or NaN
  const FloatBits is_nan = (FloatBits)(magnitude > 0x7F800000u);
  FloatBits result = (subnormal & is_small) | (normal & ~is_small);
  result = (result & ~is_large) | (0x7C00u & is_large) | (0x0200u & is_nan);
  return __builtin_convertvector(result | sign, Halves);
#endif
}

inline Vec<float> load(const float* source) { return load_bits<Vec<float>>(source); }
inline Vec<double> load(const double* source) { return load_bits<Vec<double>>(source); }
template <typename S>
inline Vec<float> load(const S* source) {
  return from_halves(load_bits<Halves>(source), S{});
}

inline void store(float* target, Vec<float> vector) { __builtin_memcpy(target, &vector, sizeof vector); }
inline void store(double* target, Vec<double> vector) { __builtin_memcpy(target, &vector, sizeof vector); }
template <typename S>
inline void store(S* target, Vec<float> vector) {
  const Halves halves = to_halves(vector, S{});
  __builtin_memcpy(target, &halves, sizeof halves);
}

// Stores the first `count` lanes, all of them where it is larger.
#if defined(__AVX512F__)
inline uint32_t first_lanes(int64_t count) { return count < 16 ? (1u << count) - 1u : 0xFFFFu; }
inline void store_some(float* target, Vec<float> vector, int64_t count) {
  _mm512_mask_storeu_ps(target, static_cast<__mmask16>(first_lanes(count)), bit_cast<__m512>(vector));
}
inline void store_some(double* target, Vec<double> vector, int64_t count) {
  _mm512_mask_storeu_pd(target, static_cast<__mmask8>(first_lanes(count)), bit_cast<__m512d>(vector));
}
template <typename S>
inline void store_some(S* target, Vec<float> vector, int64_t count) {
  const __m256i halves = bit_cast<__m256i>(to_halves(vector, S{}));
  _mm256_mask_storeu_epi16(target, static_cast<__mmask16>(first_lanes(count)), halves);
}
#else
template <typename S, typename V>
inline void store_some(S* target, V vector, int64_t count) {
  S lanes[VECTOR_BYTES / 2];
  store(lanes, vector);
  for (int64_t i = 0; i < count; ++i) target[i] = lanes[i];
}
#endif

// A vector that two sums use is loaded once: compilers would rather load it twice, as operands of the multiplications,
// though loads are what limits these loops.
template <typename V>
inline void keep_in_register([[maybe_unused]] V& vector) {
#if defined(__AVX2__)
  asm("" : "+v"(vector));
#endif
}

template <typename A>
inline Vec<A> splat(A value) {
  return value - Vec<A>{};  // minus: it keeps the sign of zero
}

// The vector with all lanes from number `count` on replaced by `fill`.
template <typename A>
inline Vec<A> keep_first(Vec<A> vector, int64_t count, A fill) {
  using Word = typename Vectors<A>::Word;
  typename Vectors<A>::Bits lane;
  for (int64_t i = 0; i < kLanes<A>; ++i) lane[i] = static_cast<Word>(i);
  return lane < static_cast<Word>(count) ? vector : splat(fill);
}

// Asks the caches for a row.
template <int ForWriting, typename S>
inline void prefetch_row(const S* row, int64_t width) {
  const char* const begin = reinterpret_cast<const char*>(row);
  const char* const last = begin + width * static_cast<int64_t>(sizeof(S)) - 1;
  for (const char* line = begin; line < last; line += 64) __builtin_prefetch(line, ForWriting);
  __builtin_prefetch(last, ForWriting);  // of one line more, where the row does not begin with one
}

// Copies `count` numbers to a row of `padded` ones (a multiple of the vector), `fill` behind them. Loads whole vectors
// as long as they end before `end`, which is inside the tensor even where they pass the end of the row.
template <typename A, typename S>
inline void copy_row(A* target, const S* source, int64_t count, int64_t padded, A fill, const void* end) {
  int64_t i = 0;
  for (; i + 4 * kLanes<A> <= count; i += 4 * kLanes<A>) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < 4; ++v) store(target + i + v * kLanes<A>, load(source + i + v * kLanes<A>));
  }
  for (; i + kLanes<A> <= count; i += kLanes<A>) store(target + i, load(source + i));
  if (i < count) {
    Vec<A> last;
    if (static_cast<const void*>(source + i + kLanes<A>) <= end) {
      last = load(source + i);
    } else {
      S lanes[kLanes<A>] = {};
      for (int64_t lane = 0; i + lane < count; ++lane) lanes[lane] = source[i + lane];
      last = load(lanes);
    }
    store(target + i, keep_first(last, count - i, fill));
    i += kLanes<A>;
  }
  for (; i < padded; i += kLanes<A>) store(target + i, splat(fill));
}

// Stores `count` numbers.
template <typename S, typename A>
inline void store_row(S* target, const A* source, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) store(target + i, load(source + i));
  if (i < count) store_some(target + i, load(source + i), count - i);
}

// `copy_row` for numbers that do not lie side by side.
template <typename A, typename S>
inline void gather_row(A* target, const S* source, int64_t stride, int64_t count, int64_t padded, A fill) {
  for (int64_t i = 0; i < padded; i += kLanes<A>) {
    S lanes[kLanes<A>] = {};
    for (int64_t lane = 0; lane < kLanes<A> && i + lane < count; ++lane) lanes[lane] = source[(i + lane) * stride];
    store(target + i, keep_first(load(lanes), count - i < 0 ? 0 : count - i, fill));
  }
}

}  // namespace
}  // namespace dynconv_mt::cpu
