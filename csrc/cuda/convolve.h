// The convolution and its transpose, a block of positions and heads at a time.
//
// The gradient by x is the convolution of grad_y with padding K - 1 - padding_left, in which an input enters with its
// own taps, in reverse order. So the two differ in whose taps they take, and in where in the band these go.
#pragma once

#include "bands.h"
#include "taps.h"

namespace dynconv_mt::cuda {

struct ConvolvePlan : Plan {
  bool is_same;    // all positions have the same taps
  int rows;        // positions that a block reads
  int tap_rows;    // positions whose taps it takes
  int num_bands;   // of a head
  int band_bytes;  // of a group
  int bands_at;    // where in shared memory
  int logits_at;
  int staging_at;
  int bytes;

  ConvolvePlan() = default;

  template <typename Band>
  static ConvolvePlan make(const Problem& p, const Plan& cut, int element_size, bool is_transposed) {
    ConvolvePlan plan;
    static_cast<Plan&>(plan) = cut;
    plan.is_same = p.weight != nullptr && p.drop.seed == nullptr;
    plan.rows = plan.positions - Band::kGroup + Band::reach(plan.kernel_size);
    plan.tap_rows = plan.is_same ? Band::kGroup : plan.positions + (is_transposed ? plan.kernel_size - 1 : 0);
    plan.num_bands = plan.is_same ? 1 : plan.positions / Band::kGroup;
    plan.band_bytes = Band::bytes(plan.kernel_size);
    const int logits = p.weight != nullptr ? 0 : plan.positions * plan.heads * plan.tap_pitch() * element_size;
    plan.bands_at = aligned(Band::Inputs::bytes(plan.rows, plan.slots));
    plan.logits_at = plan.bands_at + plan.heads * plan.num_bands * plan.band_bytes;
    plan.staging_at = aligned(plan.logits_at + logits);
    plan.bytes = plan.staging_at + plan.threads() / kWarp * Band::kStagingBytes;
    return plan;
  }
};

template <typename S, typename Band, bool kIsTransposed>
struct Convolve {
  static constexpr int kMaxThreads = cuda::kMaxThreads;
  static constexpr int kMinBlocks = 2;
  Problem p;
  ConvolvePlan plan;

  DYNCONV_DEVICE void operator()(const Block& block) const {
    const Place place(p, plan, block.index);
    block.phase([&](int thread) {
      load_inputs(block, place, 0, thread);
      clear(block, thread);
      load_rows(block, place, 0, thread);
    });
    for (int begin = 0; begin < plan.tap_rows; begin += plan.positions) {
      if (begin > 0) block.phase([&](int thread) { load_rows(block, place, begin, thread); });
      block.phase([&](int thread) { fill(block, place, begin, thread); });
    }
    const auto band_of = [&](int head, int group) { return band(block, head, group); };
    for (int chunk = 0; chunk < plan.chunks; ++chunk) {
      if (chunk > 0) block.phase([&](int thread) { load_inputs(block, place, chunk, thread); });
      block.wait_for_copies();
      const auto keep = [&](int slot, int position, const float(&numbers)[kVector<S>]) {
        store(place, Slot(p, plan, place, kVector<S>, chunk, slot), position, numbers);
      };
      Band::convolve(block, plan, inputs(block), block.shared + plan.staging_at, band_of, keep);
    }
  }

 private:
  DYNCONV_DEVICE int64_t padding() const { return kIsTransposed ? p.kernel_size - 1 - p.padding_left : p.padding_left; }

  DYNCONV_DEVICE typename Band::Inputs inputs(const Block& block) const { return {block.shared, plan.slots}; }

  DYNCONV_DEVICE S* logits(const Block& block) const { return reinterpret_cast<S*>(block.shared + plan.logits_at); }

  DYNCONV_DEVICE char* band(const Block& block, int head, int group) const {
    return block.shared + plan.bands_at + (head * plan.num_bands + (plan.is_same ? 0 : group)) * plan.band_bytes;
  }

  DYNCONV_DEVICE void load_inputs(const Block& block, const Place& place, int chunk, int thread) const {
    const Input& input = kIsTransposed ? p.grad_y : p.x;
    const int64_t end = kIsTransposed ? p.num_positions : length_of(p, place.sentence);
    const Stretch stretch = {place.sentence, place.position - padding(), plan.rows, end};
    const Slot slot(p, plan, place, kVector<S>, chunk, thread % plan.slots);
    load<S>(inputs(block), input, stretch, slot, block.num_threads, thread);
  }

  DYNCONV_DEVICE void clear(const Block& block, int thread) const {
    uint32_t* const words = reinterpret_cast<uint32_t*>(block.shared + plan.bands_at);
    const int count = (plan.logits_at - plan.bands_at) / static_cast<int>(sizeof(uint32_t));
    for (int i = thread; i < count; i += block.num_threads) words[i] = 0;
  }

  // The position whose taps row `row` has.
  DYNCONV_DEVICE int64_t tap_position(const Place& place, int row) const {
    return place.position + row - (kIsTransposed ? padding() : 0);
  }

  // Reads the logits of rows begin … begin + positions - 1.
  DYNCONV_DEVICE void load_rows(const Block& block, const Place& place, int begin, int thread) const {
    if (p.weight != nullptr) return;
    const int rows = least(plan.positions, plan.tap_rows - begin);
    load_logits(p, plan, place, tap_position(place, begin), rows, block.num_threads, thread, logits(block));
  }

  // Makes their taps, and puts each where it belongs in the bands.
  DYNCONV_DEVICE void fill(const Block& block, const Place& place, int begin, int thread) const {
    const int rows = least(plan.positions, plan.tap_rows - begin);
    for (int i = thread; i < rows * plan.heads; i += block.num_threads) {
      const int head = i % plan.heads, row = begin + i / plan.heads;
      const int64_t t = tap_position(place, row);
      if (head >= place.heads || (!plan.is_same && (t < 0 || t >= p.num_positions))) continue;
      const Mask<float> mask(p, place.sentence, t, place.head + head);
      if (p.weight != nullptr) {
        const float* const weight = static_cast<const float*>(p.weight) + (place.head + head) * plan.kernel_size;
        fill_row(block, row, head, mask, [&](int k) { return weight[k]; });
      } else {
        const S* const from = logits(block) + i * plan.tap_pitch();
        fill_row(block, row, head, mask, [&](int k) { return static_cast<float>(from[k]); });
      }
    }
  }

  template <typename Read>
  DYNCONV_DEVICE void fill_row(const Block& block, int row, int head, const Mask<float>& mask,
                               const Read& logit) const {
    switch (plan.kernel_size) {
      case 15: return fill_known_row<15>(block, row, head, mask, logit);
      case 31: return fill_known_row<31>(block, row, head, mask, logit);
      default: break;
    }
    const Normaliser<float> tap(p.softmax, plan.kernel_size, logit);
    for (int k = 0; k < plan.kernel_size; ++k) put(block, row, head, k, tap(logit(k)) * mask(k));
  }

  template <int K, typename Read>
  DYNCONV_DEVICE void fill_known_row(const Block& block, int row, int head, const Mask<float>& mask,
                                     const Read& logit) const {
    float taps[K];
    make_taps(p.softmax, logit, taps);
#pragma unroll
    for (int k = 0; k < K; ++k) put(block, row, head, k, taps[k] * mask(k));
  }

  // Tap k of input `row` enters the sum of position row + k - (K - 1), where its own taps are taken.
  DYNCONV_DEVICE void put(const Block& block, int row, int head, int k, float tap) const {
    const int position = kIsTransposed && !plan.is_same ? row + k - (plan.kernel_size - 1) : row;
    if (position < 0 || position >= plan.positions) return;
    const int r = position % Band::kGroup, input = r + (kIsTransposed ? plan.kernel_size - 1 - k : k);
    Band::put(band(block, head, position / Band::kGroup), plan.kernel_size, r, input, tap);
  }

  // Writes a vector of the result, of a position of the block.
  DYNCONV_DEVICE void store(const Place& place, const Slot& slot, int position,
                            const float (&numbers)[kVector<S>]) const {
    const int64_t t = place.position + position;
    if (t >= p.num_positions || slot.width == 0) return;
    const bool is_kept = !kIsTransposed || t < length_of(p, place.sentence);
    S results[kVector<S>];
#pragma unroll
    for (int i = 0; i < kVector<S>; ++i) results[i] = static_cast<S>(is_kept ? numbers[i] : 0.0f);
    S* const to = static_cast<S*>(kIsTransposed ? p.grad_x : p.y) +
                  (place.sentence * p.num_positions + t) * p.num_channels + slot.channel;
    if (head_width(p) % kVector<S> == 0) {
      write_global(to, results);
    } else {
#pragma unroll
      for (int i = 0; i < kVector<S>; ++i) {
        if (i < slot.width) to[i] = results[i];
      }
    }
  }
};

}  // namespace dynconv_mt::cuda
