// Which kernels solve a problem, and with which blocks.
#include "convolve.h"
#include "correlate.h"
#include "direct.h"
#include "step.h"

namespace dynconv_mt::cuda {
namespace {

// float64 is for tests of gradients: the general path is good enough.
template <typename S>
constexpr bool kHasTiles = sizeof(S) <= sizeof(float);

// Tensor cores take numbers of 16 bits and heads of whole matrices.
template <typename S>
constexpr bool kHasMma = sizeof(S) == 2;

bool has_whole_matrices(const Problem& p) { return head_width(p) % kSide == 0; }

// Below, the FMA units have less to do than the memory; beyond the scale, taps might overflow a half.
bool suits_mma_band(const Problem& p) {
  constexpr int kFewTaps = 15;
  constexpr double kLargeScale = 1024.0;
  const bool is_safe = p.storage != Storage::kFloat16 || (p.softmax && p.drop.scale <= kLargeScale);
  return is_safe && has_whole_matrices(p) && p.kernel_size >= kFewTaps;
}

// Calls `function` with the band that suits the problem.
template <typename S, typename Function>
auto with_band(const Problem& p, const Function& function) {
  if constexpr (kHasMma<S>) {
    if (suits_mma_band(p)) return function(MmaBand<S>());
  } else {
    if (p.kernel_size == 15) return function(FmaBand<S, 15>());
    if (p.kernel_size == 31) return function(FmaBand<S, 31>());
  }
  switch (p.kernel_size) {
    case 3: return function(FmaBand<S, 3>());
    case 7: return function(FmaBand<S, 7>());
    default: return function(FmaBand<S, 0>());
  }
}

// The same for squares.
template <typename S, typename Function>
auto with_squares(const Problem& p, const Function& function) {
  if constexpr (kHasMma<S>) {
    if (has_whole_matrices(p)) return function(MmaSquares<S>());
  }
  return function(FmaSquares<S>());
}

// The blocks of a kernel, as large as there is shared memory for; false if not even the smallest are.
template <typename S, typename Band, bool kIsTransposed>
bool make_plan(const Problem& p, ConvolvePlan& plan) {
  const auto complete = [&](const Plan& cut) { return ConvolvePlan::make<Band>(p, cut, sizeof(S), kIsTransposed); };
  Plan cut;
  if (!choose(p, kVector<S>, Band::kGroup, [&](const Plan& tried) { return complete(tried).bytes; }, cut)) return false;
  plan = complete(cut);
  return true;
}

template <typename S, typename Squares>
bool make_plan(const Problem& p, CorrelatePlan& plan) {
  const auto complete = [&](const Plan& cut) { return CorrelatePlan::make<Squares>(p, cut, sizeof(S)); };
  Plan cut;
  const auto bytes_of = [&](const Plan& tried) { return complete(tried).bytes; };
  if (!choose(p, kVector<S>, Squares::kGroup, bytes_of, cut)) return false;
  plan = complete(cut);
  return true;
}

template <typename Kernel, typename TiledPlan>
Error launch_tiled(const Problem& p, const TiledPlan& plan, Stream stream) {
  return launch(Kernel{p, plan}, {plan.num_blocks(p), plan.threads(), plan.bytes}, stream);
}

template <typename A>
Error finish_weight(const Problem& p, int64_t count, Stream stream) {
  const FinishWeight<A> kernel = {p, count};
  return launch(kernel, kernel.grid(), stream);
}

template <typename Kernel, typename Task>
Error launch_direct(const Task& p, int64_t count, Stream stream) {
  if (count == 0) return nullptr;
  const Kernel kernel = {{p, count}};
  return launch(kernel, kernel.grid(), stream);
}

int64_t num_rows(const Problem& p) { return p.num_sentences * p.num_positions * p.num_heads; }
int64_t num_taps(const Problem& p) { return num_rows(p) * p.kernel_size; }
int64_t num_numbers(const Problem& p) { return p.num_sentences * p.num_positions * p.num_channels; }

// The kernels that hold a block's inputs in shared memory.
template <typename S>
struct Tiled {
  template <bool kIsTransposed>
  static bool fits(const Problem& p) {
    ConvolvePlan plan;
    return with_band<S>(p, [&](auto band) { return make_plan<S, decltype(band), kIsTransposed>(p, plan); });
  }

  static bool plan_squares(const Problem& p, CorrelatePlan& plan) {
    return with_squares<S>(p, [&](auto squares) { return make_plan<S, decltype(squares)>(p, plan); });
  }

  template <bool kIsTransposed>
  static Error convolve(const Problem& p, Stream stream) {
    return with_band<S>(p, [&](auto band) {
      using Band = decltype(band);
      ConvolvePlan plan;
      if (!make_plan<S, Band, kIsTransposed>(p, plan)) return Error("no blocks fit");
      return launch_tiled<Convolve<S, Band, kIsTransposed>>(p, plan, stream);
    });
  }

  static Error correlate(const Problem& p, Stream stream) {
    CorrelatePlan plan;
    if (!plan_squares(p, plan)) return "no blocks fit";
    const Error error = with_squares<S>(p, [&](auto squares) {
      return launch_tiled<Correlate<S, decltype(squares)>>(p, plan, stream);
    });
    if (error || !p.weight) return error;
    return finish_weight<float>(p, p.num_sentences * plan.num_tiles, stream);
  }

  static bool fits_backward(const Problem& p) {
    CorrelatePlan plan;
    return fits<true>(p) && plan_squares(p, plan);
  }

  static Work backward_work(const Problem& p) {
    CorrelatePlan plan;
    plan_squares(p, plan);
    return {0, p.weight ? p.num_sentences * plan.num_tiles * p.num_heads * p.kernel_size : 0};
  }

  static Error backward(const Problem& p, Stream stream) {
    const Error error = convolve<true>(p, stream);
    return error ? error : correlate(p, stream);
  }
};

// The kernels that hold taps in memory.
template <typename S>
struct General {
  static Error forward(const Problem& p, Stream stream) {
    const Error error = launch_direct<MakeTaps<S>>(p, num_rows(p), stream);
    return error ? error : launch_direct<ConvolveDirectly<S, false>>(p, num_numbers(p), stream);
  }

  static Error backward(const Problem& p, Stream stream) {
    Error error = launch_direct<MakeTaps<S>>(p, num_rows(p), stream);
    if (!error) error = launch_direct<ConvolveDirectly<S, true>>(p, num_numbers(p), stream);
    if (!error) error = launch_direct<CorrelateDirectly<S>>(p, num_taps(p), stream);
    if (error) return error;
    if (p.weight) return finish_weight<Arithmetic<S>>(p, p.num_sentences * p.num_positions, stream);
    return launch_direct<FinishRows<S>>(p, num_rows(p), stream);
  }
};

template <typename S, typename Past>
Error run_step(const Step& p, Stream stream) {
  const int64_t rows = p.num_sentences * p.num_slots, num_kept = least<int64_t>(p.num_new, p.kernel_size - 1);
  const Error error = launch_direct<StepOutputs<S, Past>>(p, rows * p.num_new * p.num_channels, stream);
  return error ? error : launch_direct<StepState<S, Past>>(p, rows * num_kept * p.num_channels, stream);
}

// Calls `function` with a number of the storage of a problem or step.
template <typename Task, typename Function>
auto with_storage(const Task& p, const Function& function) {
  switch (p.storage) {
    case Storage::kFloat64: return function(double());
    case Storage::kBFloat16: return function(BFloat16());
    case Storage::kFloat16: return function(Float16());
    default: return function(float());
  }
}

}  // namespace

Work forward_work(const Problem& p) {
  return with_storage(p, [&](auto number) {
    using S = decltype(number);
    if constexpr (kHasTiles<S>) {
      if (Tiled<S>::template fits<false>(p)) return Work{0, 0};
    }
    return Work{num_taps(p), 0};
  });
}

Work backward_work(const Problem& p) {
  return with_storage(p, [&](auto number) {
    using S = decltype(number);
    if constexpr (kHasTiles<S>) {
      if (Tiled<S>::fits_backward(p)) return Tiled<S>::backward_work(p);
    }
    return Work{num_taps(p), num_taps(p)};
  });
}

Error forward(const Problem& p, Stream stream) {
  return with_storage(p, [&](auto number) {
    using S = decltype(number);
    if constexpr (kHasTiles<S>) {
      if (Tiled<S>::template fits<false>(p)) return Tiled<S>::template convolve<false>(p, stream);
    }
    return General<S>::forward(p, stream);
  });
}

Error backward(const Problem& p, Stream stream) {
  return with_storage(p, [&](auto number) {
    using S = decltype(number);
    if constexpr (kHasTiles<S>) {
      if (Tiled<S>::fits_backward(p)) return Tiled<S>::backward(p, stream);
    }
    return General<S>::backward(p, stream);
  });
}

Error step(const Step& p, Stream stream) {
  return with_storage(p, [&](auto number) {
    using S = decltype(number);
    return p.is_wide ? run_step<S, Arithmetic<S>>(p, stream) : run_step<S, S>(p, stream);
  });
}

}  // namespace dynconv_mt::cuda
