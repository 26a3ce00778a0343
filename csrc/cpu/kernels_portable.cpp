// The kernels for any machine; dynconv_mt/ops/build.py knows the compiler's flags.
#include "kernels.h"

const dynconv_mt::cpu::Kernels dynconv_mt::cpu::kernels_portable = {"portable", scratch_bytes, forward, backward, finish_weight};
