// Where tensors meet kernels: which device, which stream.
//
// Only PyTorch's stable ABI is used, so that one binary serves every torch from 2.10 on, and this compiles beside a
// torch without CUDA.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <limits>

#include "../checks.h"
#include "problem.h"

namespace dynconv_mt::cuda {

#ifdef DYNCONV_MT_ON_HOST  // the tests' build, see platform.h

struct Device {
  explicit Device(const Tensor&) {}
  Stream stream() const { return nullptr; }
};

#else

// Makes the device of a tensor the current one.
class Device {
 public:
  explicit Device(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {}

  Stream stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return stream;
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

#endif

inline void check_launch(const char* name, Error error) {
  STD_TORCH_CHECK(error == nullptr, name, ": ", error ? error : "");
}

inline int int_of(int64_t kernel_size) {
  STD_TORCH_CHECK(kernel_size <= std::numeric_limits<int>::max(), "a kernel of ", kernel_size, " taps is too large");
  return static_cast<int>(kernel_size);
}

}  // namespace dynconv_mt::cuda

#ifdef DYNCONV_MT_ON_HOST
#define DYNCONV_MT_LIBRARY_IMPL(library) STABLE_TORCH_LIBRARY_IMPL(dynconv_mt, CPU, library)
#else
#define DYNCONV_MT_LIBRARY_IMPL(library) STABLE_TORCH_LIBRARY_IMPL(dynconv_mt, CUDA, library)
#endif
