// Where tensors meet kernels: tasks on torch's threads.
//
// Only PyTorch's stable ABI is used, so that one binary serves every torch from 2.10 on.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>

#include "../checks.h"
#include "problem.h"

namespace dynconv_mt::cpu {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename Problem>
using Tasks = void (*)(const Problem&, int64_t begin, int64_t end, void* scratch);

// Runs `count` tasks of `work` multiplications each on torch's threads. Problems too small to gain from a second thread
// stay on this one.
template <typename Problem>
void run_in_parallel(const Problem& p, Tasks<Problem> tasks, int64_t count, int64_t work, size_t scratch_bytes) {
  constexpr int64_t kWorthAThread = 1 << 18;  // multiplications: some 20 microseconds
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(work, 1));
  std::atomic<bool> is_short = false;  // an exception would lose its message on the way through the stable ABI
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<void, Free> scratch(std::aligned_alloc(64, (scratch_bytes + 63) / 64 * 64));
    if (scratch) {
      tasks(p, begin, end, scratch.get());
    } else {
      is_short = true;
    }
  });
  STD_TORCH_CHECK(!is_short, "can't allocate memory: ", scratch_bytes, " bytes of scratch memory a thread");
}

}  // namespace dynconv_mt::cpu
