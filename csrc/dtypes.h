// The dtypes of tensors that kernels read and write.
#pragma once

namespace dynconv_mt {

enum class Storage { kFloat32, kFloat64, kBFloat16, kFloat16 };

}  // namespace dynconv_mt
