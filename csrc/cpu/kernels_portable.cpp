// The kernels for any machine; dynconv_mt/ops/build.py knows the compiler's flags.
#include "kernels.h"
#include "step.h"

namespace dynconv_mt::cpu {

const Kernels kernels_portable = {"portable", scratch_bytes, join, forward, backward, finish_weight, step};

}  // namespace dynconv_mt::cpu
