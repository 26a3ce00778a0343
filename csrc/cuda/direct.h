// The general path: the definition, a thread for every number, with the taps in global memory. It serves float64, and
// kernels so wide that shared memory has no room for a block's inputs and taps.
#pragma once

#include "taps.h"

namespace dynconv_mt::cuda {

// What these kernels have in common: one thread for each of `count` numbers. Task: Problem, or Step.
template <typename Task>
struct Direct {
  static constexpr int kMaxThreads = 256;
  static constexpr int kMinBlocks = 1;
  Task p;
  int64_t count;

  Grid grid() const { return {ceil_div<int64_t>(count, kMaxThreads), kMaxThreads, 0}; }

  template <typename Body>
  DYNCONV_DEVICE void each(const Block& block, const Body& body) const {
    block.phase([&](int thread) {
      const int64_t i = block.index * block.num_threads + thread;
      if (i < count) body(i);
    });
  }
};

// A position of a head: number (b·T + t)·H + h.
struct Row {
  int64_t sentence;
  int64_t position;
  int64_t head;

  DYNCONV_DEVICE Row(const Problem& p, int64_t number)
      : sentence(number / p.num_heads / p.num_positions),
        position(number / p.num_heads % p.num_positions),
        head(number % p.num_heads) {}
};

// Logit k of a row, of dynamic_conv or light_conv.
template <typename S>
DYNCONV_DEVICE Arithmetic<S> logit_of(const Problem& p, const Row& row, int64_t k) {
  using A = Arithmetic<S>;
  const int64_t at = row.head * p.kernel_size + k;
  if (p.weight != nullptr) return static_cast<const A*>(p.weight)[at];
  return static_cast<A>(*pointer_at<S>(p.logits, row.sentence, row.position, at));
}

// p.taps (B, T, H, K), a thread for every row.
template <typename S>
struct MakeTaps : Direct<Problem> {
  DYNCONV_DEVICE void operator()(const Block& block) const {
    using A = Arithmetic<S>;
    each(block, [&](int64_t i) {
      const Row row(p, i);
      const auto logit = [&](int k) { return logit_of<S>(p, row, k); };
      const Normaliser<A> tap(p.softmax, p.kernel_size, logit);
      const Mask<A> mask(p, row.sentence, row.position, row.head);
      A* const to = static_cast<A*>(p.taps) + i * p.kernel_size;
      for (int k = 0; k < p.kernel_size; ++k) to[k] = tap(logit(k)) * mask(k);
    });
  }
};

// y, or the gradient by x, a thread for every number of them.
template <typename S, bool kIsTransposed>
struct ConvolveDirectly : Direct<Problem> {
  DYNCONV_DEVICE void operator()(const Block& block) const {
    using A = Arithmetic<S>;
    each(block, [&](int64_t i) {
      const int64_t c = i % p.num_channels, t = i / p.num_channels % p.num_positions;
      const int64_t b = i / p.num_channels / p.num_positions, h = c / head_width(p);
      const int64_t length = length_of(p, b), end = kIsTransposed ? p.num_positions : length;
      const A* const taps = static_cast<const A*>(p.taps) + (b * p.num_positions * p.num_heads + h) * p.kernel_size;
      const Input& input = kIsTransposed ? p.grad_y : p.x;
      A sum = 0;
      for (int64_t k = 0; k < p.kernel_size; ++k) {
        const int64_t s = kIsTransposed ? t - k + p.padding_left : t + k - p.padding_left;
        if (s < 0 || s >= end) continue;
        const int64_t row = (kIsTransposed ? s : t) * p.num_heads * p.kernel_size;
        sum += taps[row + k] * static_cast<A>(*pointer_at<S>(input, b, s, c));
      }
      if (kIsTransposed && t >= length) sum = 0;
      static_cast<S*>(kIsTransposed ? p.grad_x : p.y)[i] = static_cast<S>(sum);
    });
  }
};

// p.partial (B, T, H, K): the gradients by the taps before DropConnect, a thread for every tap.
template <typename S>
struct CorrelateDirectly : Direct<Problem> {
  DYNCONV_DEVICE void operator()(const Block& block) const {
    using A = Arithmetic<S>;
    each(block, [&](int64_t i) {
      const int64_t k = i % p.kernel_size, width = head_width(p);
      const Row row(p, i / p.kernel_size);
      const int64_t s = row.position + k - p.padding_left;
      A sum = 0;
      if (s >= 0 && s < length_of(p, row.sentence)) {
        for (int64_t c = row.head * width; c < (row.head + 1) * width; ++c) {
          sum += static_cast<A>(*pointer_at<S>(p.grad_y, row.sentence, row.position, c)) *
                 static_cast<A>(*pointer_at<S>(p.x, row.sentence, s, c));
        }
      }
      sum *= Mask<A>(p, row.sentence, row.position, row.head)(static_cast<int>(k));
      static_cast<A*>(p.partial)[i] = sum;
    });
  }
};

// From the gradients by the taps of dynamic_conv to those by its logits, a thread for every row.
template <typename S>
struct FinishRows : Direct<Problem> {
  DYNCONV_DEVICE void operator()(const Block& block) const {
    using A = Arithmetic<S>;
    each(block, [&](int64_t i) {
      const Row row(p, i);
      const auto logit = [&](int k) { return logit_of<S>(p, row, k); };
      const Normaliser<A> tap(p.softmax, p.kernel_size, logit);
      const A* const grads = static_cast<const A*>(p.partial) + i * p.kernel_size;
      S* const to = static_cast<S*>(p.grad_logits) + i * p.kernel_size;
      A mean = 0;
      for (int k = 0; k < p.kernel_size; ++k) mean += tap(logit(k)) * grads[k];
      for (int k = 0; k < p.kernel_size; ++k) {
        to[k] = static_cast<S>(p.softmax ? tap(logit(k)) * (grads[k] - mean) : grads[k]);
      }
    });
  }
};

// light_conv: sums p.partial (N, H, K) over N, in double precision and always in the same order, then takes the
// gradient of the softmax. A block for every head.
template <typename A>
struct FinishWeight {
  static constexpr int kMaxThreads = 256;
  static constexpr int kMinBlocks = 1;
  static constexpr int kTaps = 32;  // summed together, each by as many threads as there are left
  Problem p;
  int64_t count;  // N

  Grid grid() const { return {p.num_heads, kMaxThreads, kMaxThreads * static_cast<int>(sizeof(double))}; }

  DYNCONV_DEVICE void operator()(const Block& block) const {
    double* const shared = reinterpret_cast<double*>(block.shared);
    A* const grad = static_cast<A*>(p.grad_weight) + block.index * p.kernel_size;
    for (int first = 0; first < p.kernel_size; first += kTaps) {
      block.phase([&](int thread) { shared[thread] = share(block, first + thread % kTaps, thread / kTaps); });
      block.phase([&](int thread) {
        if (thread >= kTaps || first + thread >= p.kernel_size) return;
        double sum = 0.0;
        for (int i = thread; i < block.num_threads; i += kTaps) sum += shared[i];
        grad[first + thread] = static_cast<A>(sum);
      });
    }
    if (!p.softmax) return;
    const A* const weight = static_cast<const A*>(p.weight) + block.index * p.kernel_size;
    const auto logit = [&](int k) { return weight[k]; };
    block.phase([&](int thread) {
      if (thread > 0) return;
      const Normaliser<A> tap(true, p.kernel_size, logit);
      double mean = 0.0;
      for (int k = 0; k < p.kernel_size; ++k) mean += static_cast<double>(tap(weight[k])) * grad[k];
      shared[0] = tap.top;
      shared[1] = tap.scale;
      shared[2] = mean;
    });
    block.phase([&](int thread) {
      for (int k = thread; k < p.kernel_size; k += block.num_threads) {
        const A tap = exponential(weight[k] - static_cast<A>(shared[0])) * static_cast<A>(shared[1]);
        grad[k] = tap * (grad[k] - static_cast<A>(shared[2]));
      }
    });
  }

  // What thread `slice` of those that sum tap k sums.
  DYNCONV_DEVICE double share(const Block& block, int k, int slice) const {
    if (k >= p.kernel_size) return 0.0;
    const A* const from = static_cast<const A*>(p.partial) + block.index * p.kernel_size + k;
    double sum = 0.0;
    for (int64_t i = slice; i < count; i += block.num_threads / kTaps) sum += from[i * p.num_heads * p.kernel_size];
    return sum;
  }
};

}  // namespace dynconv_mt::cuda
