// Two ways to multiply a band of taps with inputs, both in shared memory. y[t] = Σ_k taps[t, k] · x[t + k - padding]:
// a group of R positions with K taps reads R + K - 1 inputs, and its taps are a band in an R × (R + K - 1) matrix.
//
//     input          0 1 2 3 4 5 …
//     position 0     w w w . . .        Zeros beside the band multiply inputs that are there: an Inf or NaN in x
//     position 1     . w w w . .        reaches a few more positions than those whose taps it has.
//     position 2     . . w w w .
//
// A band is a struct of static functions: how a group's band lies in memory, and how a block convolves with all of
// them. `band_of(head, group)` is where one lies, and `store(slot, position, numbers)` takes a vector of the result.
#pragma once

#include "mma.h"
#include "plan.h"

namespace dynconv_mt::cuda {

// On the FMA units. A thread holds 8 positions of one vector of channels in registers. The band lies column by column:
// for each, the thread reads 8 taps, the same for all channels, and one vector of x. K: the number of taps if it is
// known at compile time, else 0.
template <typename S, int K>
struct FmaBand {
  static constexpr int kGroup = kThreadRows;
  static constexpr int kStagingBytes = 0;  // of a warp
  using Inputs = Tile<kGroup>;

  DYNCONV_HOST_DEVICE static int reach(int kernel_size) { return kernel_size + kGroup - 1; }

  // 8 numbers beyond a multiple of the banks, so that neither the rows nor the columns of 4 groups share banks.
  DYNCONV_HOST_DEVICE static int bytes(int kernel_size) {
    constexpr int kBanks = 32;
    return (ceil_div((reach(kernel_size) - 1) * kGroup, kBanks) * kBanks + kGroup) * static_cast<int>(sizeof(float));
  }

  DYNCONV_DEVICE static void put(char* band, int /*kernel_size*/, int position, int input, float tap) {
    reinterpret_cast<float*>(band)[input * kGroup + position] = tap;
  }

  template <typename Bands, typename Store>
  DYNCONV_DEVICE static void convolve(const Block& block, const Plan& plan, const Inputs& inputs, char*,
                                      const Bands& band_of, const Store& store) {
    block.phase([&](int thread) {
      const int slot = thread % plan.slots, group = thread / plan.slots;
      if (group >= plan.positions / kGroup) return;
      const int head = plan.heads > 1 ? slot / plan.vectors : 0;
      float sums[kGroup][kVector<S>] = {};
      multiply(band_of(head, group), inputs, group, slot, plan.kernel_size, sums);
#pragma unroll
      for (int r = 0; r < kGroup; ++r) store(slot, group * kGroup + r, sums[r]);
    });
  }

 private:
  DYNCONV_DEVICE static void multiply(const char* band, const Inputs& inputs, int group, int slot, int kernel_size,
                                      float (&sums)[kGroup][kVector<S>]) {
    const auto add_input = [&](int input, int begin, int end) {
      float taps[kGroup], x[kVector<S>];
      read<float>(band + input * static_cast<int>(sizeof(taps)), taps);
      read<S>(inputs.at(group * kGroup + input, slot), x);
#pragma unroll
      for (int r = 0; r < kGroup; ++r) {
#pragma unroll
        for (int i = 0; i < kVector<S>; ++i) {
          if (r >= begin && r < end) sums[r][i] += taps[r] * x[i];
        }
      }
    };
    constexpr int kRamp = kGroup - 1;  // inputs before the first, and behind the last, that all 8 positions read
    const int num_taps = K > 0 ? K : kernel_size;
#pragma unroll
    for (int input = 0; input < kRamp; ++input) add_input(input, 0, input + 1);
#pragma unroll 2
    for (int input = kRamp; input < num_taps; ++input) add_input(input, 0, kGroup);
#pragma unroll
    for (int i = 0; i < kRamp; ++i) {
      if (num_taps + i >= kRamp) add_input(num_taps + i, i + 1, kGroup);  // else it was added above
    }
  }
};

// On the tensor cores, for numbers of 16 bits. A warp multiplies the 16 rows of a group with 32 channels of its inputs.
// A tap is the sum of two numbers of 16 bits, so that no more is lost than the last bits of a float: the band lies row
// by row, twice.
template <typename S>
struct MmaBand {
  static constexpr int kGroup = kSide;
  static constexpr int kStagingPitch = kSide + 4;
  static constexpr int kStagingBytes = kSide * kStagingPitch * static_cast<int>(sizeof(float));
  using Inputs = Tile<1>;

  DYNCONV_HOST_DEVICE static int reach(int kernel_size) { return ceil_div(kernel_size + kGroup - 1, kSide) * kSide; }

  DYNCONV_HOST_DEVICE static int pitch(int kernel_size) { return reach(kernel_size) + kVector<S>; }

  // A matrix of 16 by all inputs; from one band to the next 32 bytes are left out, so that they share no banks.
  DYNCONV_HOST_DEVICE static int matrix_bytes(int kernel_size) {
    return kGroup * pitch(kernel_size) * static_cast<int>(sizeof(S));
  }
  DYNCONV_HOST_DEVICE static int bytes(int kernel_size) { return 2 * matrix_bytes(kernel_size) + 32; }

  DYNCONV_DEVICE static void put(char* band, int kernel_size, int position, int input, float tap) {
    S* const at = reinterpret_cast<S*>(band) + position * pitch(kernel_size) + input;
    const S high = static_cast<S>(tap);
    at[0] = high;
    at[kGroup * pitch(kernel_size)] = static_cast<S>(tap - static_cast<float>(high));
  }

  template <typename Bands, typename Store>
  DYNCONV_DEVICE static void convolve(const Block& block, const Plan& plan, const Inputs& inputs, char* staging,
                                      const Bands& band_of, const Store& store) {
    const int pairs = plan.slots / kPair, together = plan.vectors % (2 * kPair) == 0 ? 2 : 1;  // of one head
    const int per_group = ceil_div(pairs, together), num_items = plan.positions / kGroup * per_group;
    block.phase_of_warps([&](int warp) {
      for (int i = warp; i < num_items; i += block.num_threads / kWarp) {
        const int group = i / per_group, pair = i % per_group * together;
        const int head = plan.heads > 1 ? pair * kPair / plan.vectors : 0;
        const bool is_second = together > 1 && pair + 1 < pairs;
        multiply(band_of(head, group), inputs, plan, group, pair, is_second, staging + warp * kStagingBytes, store);
      }
    });
  }

 private:
  static constexpr int kPair = kSide / kVector<S>;  // vectors that are the columns of a matrix

  template <typename Store>
  DYNCONV_DEVICE static void multiply(const char* band, const Inputs& inputs, const Plan& plan, int group, int pair,
                                      bool is_second, char* staging, const Store& store) {
    const int band_pitch = pitch(plan.kernel_size), input_pitch = (plan.slots + 1) * kVector<S>;
    Sums sums[2];
    for (int at = 0; at < reach(plan.kernel_size); at += kSide) {
      const char* const taps = band + at * static_cast<int>(sizeof(S));
      const Left<S> high(taps, band_pitch), low(taps + matrix_bytes(plan.kernel_size), band_pitch);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (n > 0 && !is_second) break;
        const Right<S, false> x(inputs.at(group * kGroup + at, (pair + n) * kPair), input_pitch);
        sums[n].add_product(high, x);
        sums[n].add_product(low, x);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (n > 0 && !is_second) break;
      sums[n].store(reinterpret_cast<float*>(staging), kStagingPitch);
      on_lanes([&](int lane) {
        const int position = lane / kPair, vector = lane % kPair;
        float numbers[kVector<S>];
        read<float>(staging + (position * kStagingPitch + vector * kVector<S>) * sizeof(float), numbers);
        store((pair + n) * kPair + vector, group * kGroup + position, numbers);
      });
    }
  }
};

}  // namespace dynconv_mt::cuda
