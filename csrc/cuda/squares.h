// Two ways to multiply stretches of grad_y with stretches of x, both in shared memory: all products of R positions with
// R inputs, summed over the channels of a head. R positions with K taps reach R + K - 1 inputs: several squares, of
// which a band is wanted.
//
//     inputs             0 … R-1   R … 2R-1   …
//     positions 0 … R-1  square    square
//
// Squares are a struct of static functions. `add(head, position, k, numbers)` takes a row of kRun sums, by which the
// position's taps k, k + 1, … have to grow, as far as there are such taps.
#pragma once

#include "mma.h"
#include "plan.h"

namespace dynconv_mt::cuda {

// What the squares of a block are made of.
template <typename Inputs>
struct Operands {
  Inputs grad_y;
  Inputs x;
  int squares;  // of a group of positions
  int heads;    // that exist
  char* staging;
};

// The square that number `i` of a block stands for.
struct Square {
  int number;  // of its group
  int group;
  int head;
  int first;  // slots of the head
  int end;

  DYNCONV_DEVICE Square(const Plan& plan, int groups, int squares, int i)
      : number(i % squares), group(i / squares % groups), head(i / squares / groups) {
    first = head * plan.vectors;
    end = least(first + plan.vectors, plan.slots);
  }
};

// On the FMA units: a thread computes a square of 8.
template <typename S>
struct FmaSquares {
  static constexpr int kGroup = kThreadRows;
  static constexpr int kRun = kGroup;
  static constexpr int kStagingBytes = 0;  // of a warp
  using Inputs = Tile<kGroup>;

  template <typename Add>
  DYNCONV_DEVICE static void correlate(const Block& block, const Plan& plan, const Operands<Inputs>& operands,
                                       const Add& add) {
    const int groups = plan.positions / kGroup;
    block.phase([&](int thread) {
      for (int i = thread; i < operands.heads * groups * operands.squares; i += block.num_threads) {
        const Square square(plan, groups, operands.squares, i);
        float sums[kGroup][kGroup] = {};
        for (int slot = square.first; slot < square.end; ++slot) add_products(operands, square, slot, sums);
#pragma unroll
        for (int r = 0; r < kGroup; ++r) {
          add(square.head, square.group * kGroup + r, square.number * kGroup - r, sums[r]);
        }
      }
    });
  }

 private:
  // Two channels at a time, so that all numbers stay in registers.
  DYNCONV_DEVICE static void add_products(const Operands<Inputs>& operands, const Square& square, int slot,
                                          float (&sums)[kGroup][kGroup]) {
    constexpr int kChannels = 2;
    const int pitch = operands.x.slots * kVectorBytes;  // of 8 rows that begin at a multiple of 8
    const char* left_rows = operands.grad_y.at(square.group * kGroup, slot);
    const char* right_rows = operands.x.at((square.group + square.number) * kGroup, slot);
#pragma unroll 1
    for (int i = 0; i < kVector<S>; i += kChannels) {
      float left[kGroup][kChannels];
#pragma unroll
      for (int r = 0; r < kGroup; ++r) read<S>(left_rows + r * pitch, left[r]);
#pragma unroll
      for (int c = 0; c < kGroup; ++c) {
        float right[kChannels];
        read<S>(right_rows + c * pitch, right);
#pragma unroll
        for (int r = 0; r < kGroup; ++r) sums[r][c] += left[r][0] * right[0] + left[r][1] * right[1];
      }
      left_rows += kChannels * static_cast<int>(sizeof(S));
      right_rows += kChannels * static_cast<int>(sizeof(S));
    }
  }
};

// On the tensor cores: a warp computes a square of 16.
template <typename S>
struct MmaSquares {
  static constexpr int kGroup = kSide;
  static constexpr int kRun = kVector<S>;
  static constexpr int kStagingPitch = kSide + 4;
  static constexpr int kStagingBytes = kSide * kStagingPitch * static_cast<int>(sizeof(float));
  using Inputs = Tile<1>;

  template <typename Add>
  DYNCONV_DEVICE static void correlate(const Block& block, const Plan& plan, const Operands<Inputs>& operands,
                                       const Add& add) {
    const int groups = plan.positions / kGroup;
    block.phase_of_warps([&](int warp) {
      char* const staging = operands.staging + warp * kStagingBytes;
      const int num_squares = operands.heads * groups * operands.squares;
      for (int i = warp; i < num_squares; i += block.num_threads / kWarp) {
        const Square square(plan, groups, operands.squares, i);
        multiply(operands, square, reinterpret_cast<float*>(staging));
        on_lanes([&](int lane) {
          const int r = lane / 2, c = lane % 2 * kRun;
          float numbers[kRun];
          read<float>(staging + (r * kStagingPitch + c) * static_cast<int>(sizeof(float)), numbers);
          add(square.head, square.group * kGroup + r, square.number * kGroup + c - r, numbers);
        });
      }
    });
  }

 private:
  DYNCONV_DEVICE static void multiply(const Operands<Inputs>& operands, const Square& square, float* staging) {
    const int pitch = (operands.x.slots + 1) * kVector<S>;
    Sums sums;
    for (int slot = square.first; slot < square.end; slot += kSide / kVector<S>) {
      const Left<S> left(operands.grad_y.at(square.group * kGroup, slot), pitch);
      const Right<S, true> right(operands.x.at((square.group + square.number) * kGroup, slot), pitch);
      sums.add_product(left, right);
    }
    sums.store(staging, kStagingPitch);
  }
};

}  // namespace dynconv_mt::cuda
