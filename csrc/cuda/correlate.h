// The gradient by the taps, taken on to the logits, or for light_conv summed over the positions of the block.
//
// By tap k of position t it is the product of grad_y[t] and x[t + k - padding_left], summed over the head's channels.
#pragma once

#include "squares.h"
#include "taps.h"

namespace dynconv_mt::cuda {

struct CorrelatePlan : Plan {
  int squares;    // of a group of positions
  int rows;       // positions of x that a block reads
  int grad_y_at;  // where in shared memory
  int logits_at;
  int grads_at;
  int staging_at;
  int bytes;

  CorrelatePlan() = default;

  template <typename Squares>
  static CorrelatePlan make(const Problem& p, const Plan& cut, int element_size) {
    CorrelatePlan plan;
    static_cast<Plan&>(plan) = cut;
    plan.squares = ceil_div(plan.kernel_size + Squares::kGroup - 1, Squares::kGroup);
    plan.rows = plan.positions + (plan.squares - 1) * Squares::kGroup;
    const int num_taps = plan.positions * plan.heads * plan.tap_pitch();
    plan.grad_y_at = aligned(Squares::Inputs::bytes(plan.rows, plan.slots));
    plan.logits_at = aligned(plan.grad_y_at + Squares::Inputs::bytes(plan.positions, plan.slots));
    plan.grads_at = aligned(plan.logits_at + (p.weight != nullptr ? 0 : num_taps * element_size));
    plan.staging_at = aligned(plan.grads_at + num_taps * static_cast<int>(sizeof(float)));
    plan.bytes = plan.staging_at + plan.threads() / kWarp * Squares::kStagingBytes;
    return plan;
  }
};

template <typename S, typename Squares>
struct Correlate {
  static constexpr int kMaxThreads = cuda::kMaxThreads;
  static constexpr int kMinBlocks = 2;
  Problem p;
  CorrelatePlan plan;

  DYNCONV_DEVICE void operator()(const Block& block) const {
    const Place place(p, plan, block.index);
    const bool is_dynamic = p.weight == nullptr;
    block.phase([&](int thread) {
      load_inputs(block, place, 0, thread);
      if (is_dynamic) {
        load_logits(p, plan, place, place.position, plan.positions, block.num_threads, thread, logits(block));
      }
    });
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      if (chunk > 0) block.phase([&](int thread) { load_inputs(block, place, chunk, thread); });
      block.wait_for_copies();
      const auto add = [&](int head, int position, int k, const float(&sums)[Squares::kRun]) {
        float* const to = grads(block) + (position * plan.heads + head) * plan.tap_pitch() + k;
#pragma unroll
        for (int i = 0; i < Squares::kRun; ++i) {
          if (k + i >= 0 && k + i < plan.kernel_size) to[i] = (chunk > 0 ? to[i] : 0.0f) + sums[i];
        }
      };
      char* const staging = block.shared + plan.staging_at;
      Squares::correlate(block, plan, {grad_y(block), x(block), plan.squares, place.heads, staging}, add);
    }
    if (is_dynamic || p.drop.seed != nullptr) block.phase([&](int thread) { finish_rows(block, place, thread); });
    block.phase([&](int thread) { is_dynamic ? store(block, place, thread) : sum_positions(block, place, thread); });
  }

 private:
  using Inputs = typename Squares::Inputs;

  DYNCONV_DEVICE Inputs x(const Block& block) const { return {block.shared, plan.slots}; }
  DYNCONV_DEVICE Inputs grad_y(const Block& block) const { return {block.shared + plan.grad_y_at, plan.slots}; }
  DYNCONV_DEVICE S* logits(const Block& block) const { return reinterpret_cast<S*>(block.shared + plan.logits_at); }
  DYNCONV_DEVICE float* grads(const Block& block) const {
    return reinterpret_cast<float*>(block.shared + plan.grads_at);
  }

  DYNCONV_DEVICE void load_inputs(const Block& block, const Place& place, int chunk, int thread) const {
    const int64_t b = place.sentence;
    const Stretch of_x = {b, place.position - p.padding_left, plan.rows, length_of(p, b)};
    const Stretch of_y = {b, place.position, plan.positions, p.num_positions};
    const Slot slot(p, plan, place, kVector<S>, chunk, thread % plan.slots);
    load<S>(x(block), p.x, of_x, slot, block.num_threads, thread);
    load<S>(grad_y(block), p.grad_y, of_y, slot, block.num_threads, thread);
  }

  // Positions of the block that exist.
  DYNCONV_DEVICE int num_rows(const Place& place) const {
    return static_cast<int>(least<int64_t>(plan.positions, p.num_positions - place.position));
  }

  // Takes each row's gradients through DropConnect, and for dynamic_conv through the softmax.
  DYNCONV_DEVICE void finish_rows(const Block& block, const Place& place, int thread) const {
    for (int i = thread; i < num_rows(place) * plan.heads; i += block.num_threads) {
      const int head = i % plan.heads;
      if (head >= place.heads) continue;
      const Mask<float> mask(p, place.sentence, place.position + i / plan.heads, place.head + head);
      float* const row = grads(block) + i * plan.tap_pitch();
      for (int k = 0; k < plan.kernel_size; ++k) row[k] *= mask(k);
      if (p.weight != nullptr || !p.softmax) continue;
      const S* const from = logits(block) + i * plan.tap_pitch();
      softmax_backward(row, [&](int k) { return static_cast<float>(from[k]); });
    }
  }

  template <typename Read>
  DYNCONV_DEVICE void softmax_backward(float* row, const Read& logit) const {
    const Normaliser<float> tap(true, plan.kernel_size, logit);
    float mean = 0.0f;
    for (int k = 0; k < plan.kernel_size; ++k) mean += tap(logit(k)) * row[k];
    for (int k = 0; k < plan.kernel_size; ++k) row[k] = tap(logit(k)) * (row[k] - mean);
  }

  DYNCONV_DEVICE void store(const Block& block, const Place& place, int thread) const {
    const int count = place.heads * plan.kernel_size;  // numbers of a position, side by side
    S* const target = static_cast<S*>(p.grad_logits) +
                      ((place.sentence * p.num_positions + place.position) * p.num_heads + place.head) * p.kernel_size;
    for (int i = thread; i < num_rows(place) * count; i += block.num_threads) {
      const int row = i / count, at = i % count;
      const int head = at / plan.kernel_size, k = at % plan.kernel_size;
      const float grad = grads(block)[(row * plan.heads + head) * plan.tap_pitch() + k];
      target[row * p.num_heads * p.kernel_size + at] = static_cast<S>(grad);
    }
  }

  // The block's share of the gradient by the taps of light_conv.
  DYNCONV_DEVICE void sum_positions(const Block& block, const Place& place, int thread) const {
    const int64_t first = (place.sentence * plan.num_tiles + place.tile) * p.num_heads + place.head;
    for (int i = thread; i < place.heads * plan.kernel_size; i += block.num_threads) {
      const int head = i / plan.kernel_size, k = i % plan.kernel_size;
      float sum = 0.0f;
      for (int t = 0; t < num_rows(place); ++t) sum += grads(block)[(t * plan.heads + head) * plan.tap_pitch() + k];
      static_cast<float*>(p.partial)[first * p.kernel_size + i] = sum;
    }
  }
};

}  // namespace dynconv_mt::cuda
