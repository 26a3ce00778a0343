// The kernels for x86 processors with AVX-512; dynconv_mt/ops/build.py knows the compiler's flags.
#include "kernels.h"
#include "step.h"

namespace dynconv_mt::cpu {

const Kernels kernels_avx512 = {"avx512", scratch_bytes, join, forward, backward, finish_weight, step};

}  // namespace dynconv_mt::cpu
