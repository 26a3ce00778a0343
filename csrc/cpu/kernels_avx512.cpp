// The kernels for x86 processors with AVX512; dynconv_mt/ops/build.py knows the compiler's flags.
#include "kernels.h"

const dynconv_mt::cpu::Kernels dynconv_mt::cpu::kernels_avx512 = {"avx512", scratch_bytes, forward, backward, finish_weight};
