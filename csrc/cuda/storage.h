// Numbers as they are stored, and as they are computed with; 16 bytes of them at a time.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "platform.h"
#include "problem.h"

namespace dynconv_mt::cuda {

using BFloat16 = c10::BFloat16;
using Float16 = c10::Half;

template <typename S>
struct Precision {
  using Type = float;
};
template <>
struct Precision<double> {
  using Type = double;
};
// What sums are computed in.
template <typename S>
using Arithmetic = typename Precision<S>::Type;

// An integer of the same size.
template <typename S>
using Bits = std::conditional_t<sizeof(S) == 2, uint16_t, uint32_t>;

template <typename S>
constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(S));

// Words of 32 bits at an address that is a multiple of their size in all, or of 16 bytes: in one instruction for every
// 16 bytes. Reading the numbers themselves leaves it to the compiler, which often reads them one by one.
template <int kWords>
DYNCONV_DEVICE void read_words(const void* from, uint32_t (&words)[kWords]) {
#ifdef __CUDACC__
  if constexpr (kWords % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const uint4 four = static_cast<const uint4*>(from)[i / 4];
      words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
    }
  } else if constexpr (kWords == 2) {
    const uint2 two = *static_cast<const uint2*>(from);
    words[0] = two.x, words[1] = two.y;
  } else {
    static_assert(kWords == 1);
    words[0] = *static_cast<const uint32_t*>(from);
  }
#else
  memcpy(words, from, sizeof(words));
#endif
}

// Reads kCount numbers from such an address.
template <typename S, int kCount>
DYNCONV_DEVICE void read(const char* from, float (&values)[kCount]) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(S)), kBits = 32 / kPerWord;
  uint32_t words[kCount / kPerWord];
  read_words(from, words);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const auto bits = static_cast<Bits<S>>(words[i / kPerWord] >> (i % kPerWord * kBits));
    S number;
    memcpy(&number, &bits, sizeof(number));
    values[i] = static_cast<float>(number);
  }
}

template <typename S>
DYNCONV_DEVICE void pack(const S (&numbers)[kVector<S>], uint32_t (&words)[4]) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(S)), kBits = 32 / kPerWord;
#pragma unroll
  for (int i = 0; i < 4; ++i) words[i] = 0;
#pragma unroll
  for (int i = 0; i < kVector<S>; ++i) {
    Bits<S> bits;
    memcpy(&bits, &numbers[i], sizeof(bits));
    words[i / kPerWord] |= static_cast<uint32_t>(bits) << (i % kPerWord * kBits);
  }
}

// Write a vector to an address that is a multiple of its size: to shared memory, and to global memory.
template <typename S>
DYNCONV_DEVICE void write_shared(char* to, const S (&numbers)[kVector<S>]) {
  uint32_t words[4];
  pack(numbers, words);
#ifdef __CUDACC__
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
#else
  memcpy(to, words, sizeof(words));
#endif
}

template <typename S>
DYNCONV_DEVICE void write_global(S* to, const S (&numbers)[kVector<S>]) {
  uint32_t words[4];
  pack(numbers, words);
#ifdef __CUDACC__
  __stwb(reinterpret_cast<uint4*>(to), make_uint4(words[0], words[1], words[2], words[3]));
#else
  memcpy(to, words, sizeof(words));
#endif
}

template <typename S>
DYNCONV_DEVICE const S* pointer_at(const Input& input, int64_t b, int64_t t, int64_t n) {
  return static_cast<const S*>(input.data) + b * input.sentence + t * input.position + n * input.element;
}

DYNCONV_HOST_DEVICE int64_t head_width(const Problem& p) { return p.num_channels / p.num_heads; }

// Positions of x from here on are zeros.
DYNCONV_DEVICE int64_t length_of(const Problem& p, int64_t b) {
  return p.lengths ? most<int64_t>(least(p.lengths[b], p.num_positions), 0) : p.num_positions;
}

}  // namespace dynconv_mt::cuda
