// A step of decoding: a few new positions for every hypothesis, a thread for every number. Launching it takes longer than
// what it does.
#pragma once

#include "direct.h"

namespace dynconv_mt::cuda {

// y. `Past` is what the buffer holds.
template <typename S, typename Past>
struct StepOutputs : Direct<Step> {
  DYNCONV_DEVICE void operator()(const Block& block) const {
    using A = Arithmetic<S>;
    each(block, [&](int64_t i) {
      const int64_t c = i % p.num_channels, n = i / p.num_channels % p.num_new;
      const int64_t w = i / p.num_channels / p.num_new % p.num_slots;
      const int64_t b = i / p.num_channels / p.num_new / p.num_slots;
      const int64_t h = c / (p.num_channels / p.num_heads), num_past = p.kernel_size - 1;
      const int64_t row = p.weight != nullptr ? h : i / p.num_channels * p.num_heads + h;
      const auto logit = [&](int k) {
        const int64_t at = row * p.kernel_size + k;
        return p.weight != nullptr ? static_cast<const A*>(p.weight)[at]
                                   : static_cast<A>(static_cast<const S*>(p.logits)[at]);
      };
      const Normaliser<A> tap(p.softmax, p.kernel_size, logit);
      const S* const x = static_cast<const S*>(p.x) + (b * p.num_slots + w) * p.num_new * p.num_channels + c;
      A sum = 0;
      for (int k = 0; k < p.kernel_size; ++k) {
        const int64_t at = n + k;  // of the past inputs, the oldest first, and then the new ones
        const A input = at < num_past ? past(b, w, at, c) : static_cast<A>(x[(at - num_past) * p.num_channels]);
        sum += tap(logit(k)) * input;
      }
      static_cast<S*>(p.y)[i] = static_cast<S>(sum);
    });
  }

  // Channel c of the past input number `at` of a hypothesis. A slot that does not exist is taken for one that does.
  DYNCONV_DEVICE Arithmetic<S> past(int64_t b, int64_t w, int64_t at, int64_t c) const {
    const int64_t num_past = p.kernel_size - 1, row = (p.position + at) % num_past;
    const int64_t slot = most<int64_t>(least(p.slots[(b * p.ancestry + w) * num_past + row], p.beam - 1), 0);
    const Past* const buffer = static_cast<const Past*>(p.buffer);
    return static_cast<Arithmetic<S>>(buffer[((b * p.beam + slot) * num_past + row) * p.num_channels + c]);
  }
};

// Writes the last new inputs, K - 1 at most, over the oldest of the buffer: after all that reads it.
template <typename S, typename Past>
struct StepState : Direct<Step> {
  DYNCONV_DEVICE void operator()(const Block& block) const {
    each(block, [&](int64_t i) {
      const int64_t num_past = p.kernel_size - 1, num_kept = least(p.num_new, num_past);
      const int64_t c = i % p.num_channels, n = p.num_new - num_kept + i / p.num_channels % num_kept;
      const int64_t w = i / p.num_channels / num_kept % p.num_slots;
      const int64_t b = i / p.num_channels / num_kept / p.num_slots, row = (p.position + n) % num_past;
      const S input = static_cast<const S*>(p.x)[((b * p.num_slots + w) * p.num_new + n) * p.num_channels + c];
      Past* const buffer = static_cast<Past*>(p.buffer);
      buffer[((b * p.beam + w) * num_past + row) * p.num_channels + c] = static_cast<Past>(input);
      if (c == 0) p.slots[(b * p.ancestry + w) * num_past + row] = w;
    });
  }
};

}  // namespace dynconv_mt::cuda
