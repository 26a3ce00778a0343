// From the logits of a row (one position and head) to its taps: softmax over all K, then DropConnect.
#pragma once

#include "storage.h"

namespace dynconv_mt::cuda {

DYNCONV_DEVICE float exponential(float v) { return expf(v); }
DYNCONV_DEVICE double exponential(double v) { return exp(v); }

// Makes taps of logits; `logit(k)` reads number k.
template <typename A>
struct Normaliser {
  bool softmax;
  A top;
  A scale;

  template <typename Read>
  DYNCONV_DEVICE Normaliser(bool softmax, int kernel_size, const Read& logit) : softmax(softmax), top(0), scale(1) {
    if (!softmax) return;
    top = logit(0);
    for (int k = 1; k < kernel_size; ++k) top = most(top, logit(k));
    A total = 0;
    for (int k = 0; k < kernel_size; ++k) total += exponential(logit(k) - top);
    scale = A(1) / total;
  }

  DYNCONV_DEVICE A operator()(A logit) const { return softmax ? exponential(logit - top) * scale : logit; }
};

// The same for K known at compile time: the row is read once and stays in registers, with one exponential for a tap.
template <int K, typename Read>
DYNCONV_DEVICE void make_taps(bool softmax, const Read& logit, float (&taps)[K]) {
#pragma unroll
  for (int k = 0; k < K; ++k) taps[k] = logit(k);
  if (!softmax) return;
  float top = taps[0], total = 0.0f;
#pragma unroll
  for (int k = 1; k < K; ++k) top = most(top, taps[k]);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    taps[k] = exponential(taps[k] - top);
    total += taps[k];
  }
  const float scale = 1.0f / total;
#pragma unroll
  for (int k = 0; k < K; ++k) taps[k] *= scale;
}

DYNCONV_HOST_DEVICE uint32_t mix(uint32_t v) {
  v ^= v >> 16;
  v *= 0x7FEB352Du;
  v ^= v >> 15;
  v *= 0x846CA68Bu;
  return v ^ v >> 16;
}

// The factors of a row's taps.
template <typename A>
struct Mask {
  bool is_on;
  uint32_t state;
  uint32_t threshold;
  A scale;

  DYNCONV_DEVICE Mask(const Problem& p, int64_t b, int64_t t, int64_t h)
      : is_on(p.drop.seed != nullptr), state(0), threshold(p.drop.threshold), scale(static_cast<A>(p.drop.scale)) {
    if (!is_on) return;
    const auto seed = static_cast<uint64_t>(*p.drop.seed);
    const auto row = static_cast<uint64_t>((b * p.num_positions + t) * p.num_heads + h);
    state = mix(kGolden ^ static_cast<uint32_t>(seed));
    state = mix(state ^ static_cast<uint32_t>(seed >> 32));
    state = mix(state ^ static_cast<uint32_t>(row >> 32));
    state = mix(state ^ static_cast<uint32_t>(row));
  }

  DYNCONV_DEVICE A operator()(int k) const {
    if (!is_on) return A(1);
    return mix(state + static_cast<uint32_t>(k) * kGolden) < threshold ? A(0) : scale;
  }

 private:
  static constexpr uint32_t kGolden = 0x9E3779B9u;
};

}  // namespace dynconv_mt::cuda
