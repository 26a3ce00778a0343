// Which instruction set the kernels use on this machine.
#include <cstdlib>
#include <string>

#include "problem.h"
#ifdef DYNCONV_MT_X86
#include <cpuid.h>
#endif

namespace dynconv_mt::cpu {

namespace {

#ifdef DYNCONV_MT_X86
// Conversions of half precision; not every compiler knows them by name.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

const Kernels& choose_kernels() {
#ifdef DYNCONV_MT_X86
  const char* wanted = std::getenv("DYNCONV_MT_CPU");  // for tests: a lower instruction set than the machine's
  const std::string name = wanted && *wanted ? wanted : kernels_avx512.name;
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (name == kernels_avx512.name && has_avx2 && has_avx512) return kernels_avx512;
  if (name != kernels_portable.name && has_avx2) return kernels_avx2;
#endif
  return kernels_portable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose_kernels();
  return chosen;
}

}  // namespace dynconv_mt::cpu

// The name of the instruction set, for reports: read through ctypes.
extern "C" __attribute__((visibility("default"))) const char* dynconv_mt_cpu() {
  return dynconv_mt::cpu::kernels().name;
}
